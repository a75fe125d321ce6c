"""What every shell of an edge session over a real bus does: messages in, outputs out, time. It adds no rule."""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from pipeline.bus.base import Bus, ConnectionChange, Inbound
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.node.clock import Clock
from pipeline.node.containment import Containment
from pipeline.node.publisher import Publisher
from pipeline.node.tasks import first_of
from pipeline.protocol.edge_session import EdgeOutput, EdgeSession
from pipeline.protocol.ports import Acknowledge, Contained, Delivery, Notice, Problem, Publish, Received

_log = get_logger(__name__)


class EdgeShell(ABC):
    """A session with its connection and its clock.

    Args:
        session: the protocol machine.
        bus: the connection.
        clock: the edge's clock.
        containment: takes what nobody else has handled.

    Attributes:
        session: as given.
        bus: as given.
        clock: as given.
        containment: as given.
        problems: what peers did wrong, logged once per kind.
    """

    def __init__(self, session: EdgeSession, bus: Bus, clock: Clock, containment: Containment) -> None:
        self.session = session
        self.bus = bus
        self.clock = clock
        self.containment = containment
        self.problems = OncePerKind(_log)
        self._publisher = Publisher(bus, self._published, problems=self.problems, containment=containment)
        self._tokens = itertools.count(1)
        self._unacknowledged: dict[int, Inbound] = {}
        self._wake_s: float | None = None
        self._rearm = asyncio.Event()
        self._changed = asyncio.Event()

    # ---- tasks ------------------------------------------------------------------------------------------------------

    async def send(self) -> None:
        """Publish what the session wants published, until cancelled."""
        await self._publisher.run()

    async def timers(self) -> None:
        """Let time pass for the session, until cancelled."""
        await self.containment.repeat("timers", self._tick_once)

    async def _tick_once(self) -> None:
        self._wake_s = self.session.next_wake_s()
        self._rearm.clear()
        if self._wake_s is None:
            await self._rearm.wait()
        elif (wait_s := self._wake_s - self.clock.now_s()) > 0:
            await first_of(self.clock.sleep(wait_s), self._rearm.wait())
        self.pump()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds that an input of the session can make hold."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def receive(self, event: Inbound | ConnectionChange) -> None:
        """Take in one event of the bus."""
        now_s = self.clock.now_s()
        if isinstance(event, ConnectionChange):
            self._connection(event, now_s)
        else:
            token = next(self._tokens) if event.qos else None
            if token is not None:
                self._unacknowledged[token] = event
            received = Received(
                event.topic,
                event.payload,
                retained=event.retain,
                response_topic=event.response_topic,
                correlation_data=event.correlation_data,
                token=token,
            )
            self.session.receive(received, now_s)
        self.pump()

    def _connection(self, change: ConnectionChange, now_s: float) -> None:
        if change.connected:
            _log.info("connected", generation=change.generation, session_resumed=change.session_resumed)
        else:
            _log.warning("connection lost", reason=change.reason)
            self._unacknowledged.clear()  # the next connection brings them again
        self.session.connection(
            change.connected,
            now_s,
            generation=change.generation,
            resumed=change.session_resumed,
            topic_aliases=change.topic_aliases,
        )

    def _published(self, token: int, delivery: Delivery) -> None:
        self.session.published(token, delivery, self.clock.now_s())
        self.pump()

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Carry out what the session wants, and wake the timers if something is due earlier than they know."""
        while outputs := self.session.poll(self.clock.now_s()):
            for output in outputs:
                with self.containment.around("output"):
                    self._carry_out(output)
        wake_s = self.session.next_wake_s()
        if wake_s is not None and (self._wake_s is None or wake_s < self._wake_s):
            self._rearm.set()
        self._changed.set()

    def _carry_out(self, output: EdgeOutput) -> None:
        match output:
            case Publish():
                self._publisher.put(output)
            case Acknowledge():
                self._acknowledge(output.tokens)
            case Problem():
                self.problems.take(output)
            case Notice():
                getattr(_log, output.level)(output.event, **output.context)
            case Contained():
                self.containment.note(output.where, output.error)
            case _:
                self.carry_out(output)

    @abstractmethod
    def carry_out(self, output: EdgeOutput) -> None:
        """Do what depends on the kind of shell: disk, cameras, observers."""

    def _acknowledge(self, tokens: Sequence[int]) -> None:
        inbound = [found for token in tokens if (found := self._unacknowledged.pop(token, None)) is not None]
        # Acknowledgements leave in the order of arrival: all of them together with the first, which is settled last.
        count = sum(self.bus.acknowledge(message) for message in reversed(inbound))
        self.session.acknowledged(count, self.clock.now_s())
