"""What a worker says of itself while it lives: birth, load, farewell."""

from __future__ import annotations

import asyncio
from typing import Final

from cloud_workers.overload_log import OverloadLog
from cloud_workers.status import STATUS_REFRESH_S, WorkerIdentity
from pipeline.bus.base import Bus
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.node.clock import Clock
from pipeline.protocol.worker_session import WorkerSession
from schemas.errors import BusError

STATUS_INTERVAL_S: Final = 2.0
STATUS_ON_CHANGE_S: Final = 0.5
"""Peers hand over by load, so a change is told soon, but not with every frame."""

_log = get_logger(__name__)


class StatusReports:
    """Publishes the retained status at each connection, and the load soon after it changed and regularly.

    Args:
        identity: who the worker is.
        session: what it holds.
        bus: where to.
        problems: log of what could not be published.
        clock: monotonic time.
    """

    def __init__(
        self, identity: WorkerIdentity, session: WorkerSession, bus: Bus, problems: OncePerKind, clock: Clock
    ) -> None:
        self._identity = identity
        self._session = session
        self._bus = bus
        self._problems = problems
        self._clock = clock
        self._due = asyncio.Event()

    def due(self) -> None:
        """The retained status has to be published (again), for example on a new connection."""
        self._due.set()

    async def run(self) -> None:
        """Report until cancelled; the first time when :meth:`due` is first called."""
        await self._due.wait()
        told: tuple[int, int] | None = None
        told_s = retained_s = 0.0
        overload_log = OverloadLog(self._session)
        while True:
            overload_log.look(self._clock.now_s())
            load = self._session.load()
            since_s = self._clock.now_s() - retained_s
            due = self._due.is_set() or (self._identity.drawn and since_s >= STATUS_REFRESH_S)
            if due or load != told or self._clock.now_s() - told_s >= STATUS_INTERVAL_S:
                self._due.clear()
                try:
                    payload = self._identity.status(online=True, parked=load[0], capacity=load[1])
                    if due:
                        expiry_s = self._identity.expiry_s
                        await self._bus.publish(self._identity.topic, payload, qos=1, retain=True, expiry_s=expiry_s)
                        retained_s = self._clock.now_s()
                    await self._bus.publish(self._identity.load_topic, payload)
                    told, told_s = load, self._clock.now_s()
                except BusError as error:
                    self._problems.report("status", str(error))
            try:
                async with asyncio.timeout(STATUS_ON_CHANGE_S):
                    await self._due.wait()
            except TimeoutError:
                pass

    async def say_goodbye(self, timeout_s: float) -> None:
        """Tell that this worker goes. Under a drawn name nobody comes back, so nothing of it stays on the broker.

        Args:
            timeout_s: longest wait for each publish.
        """
        identity = self._identity
        farewell = identity.status(online=False)
        retain = not identity.drawn
        try:
            await self._bus.publish(identity.topic, farewell, qos=1, retain=retain, timeout_s=timeout_s)
            if identity.drawn:
                await self._bus.publish(identity.topic, b"", qos=1, retain=True, timeout_s=timeout_s)
        except BusError as error:
            _log.warning("no goodbye", problem=str(error))
