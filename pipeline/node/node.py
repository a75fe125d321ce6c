"""The skeleton of an edge or worker process: its tasks, readiness, receive loop, drain and common metrics."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, Protocol, TypeAlias

import structlog

from pipeline.bus.base import Bus, ConnectionChange, Inbound
from pipeline.config.logs import OncePerKind
from pipeline.node.clock import Clock, MonotonicClock
from pipeline.node.containment import Containment
from pipeline.node.loop_lag import LoopLag
from pipeline.node.metrics import Metrics
from pipeline.node.older_peers import listen_for_older_peers
from pipeline.node.process_health import ProcessHealth, ProcessProbe
from pipeline.node.runtime import EXIT_NOT_DRAINED, Stop
from pipeline.node.service_manager import Health, keep_alive, watchdog_s
from pipeline.node.tasks import first_of
from pipeline.node.traffic_metrics import watch_traffic
from schemas.errors import ConnectionLostError

RECEIVE_BATCH: Final = 64
"""Messages handled before the loop may turn to something else: at about 0.1 ms each, far under a stall of 50 ms."""
CONNECT_LOG_S: Final = 10.0
"""Between two log lines that say that there is no connection yet."""
_DROPS: Final = {
    "dropped_qos0_messages": "receive_queue_full_qos0",
    "dropped_qos1_messages": "receive_queue_full_qos1",
    "discarded_messages": "connection_not_ready",
    "failed_publishes": "publish_failed",
    "refused_publishes": "publish_refused",
}
"""Statistics of a bus that are messages dropped, and the reason."""
_BUS_COUNTS: Final = ("received", "acknowledged", "dropped_qos0", "dropped_qos1", "discarded", "published")
"""The monotone part of the statistics of a bus."""

Work: TypeAlias = Mapping[str, Callable[[], Coroutine[Any, Any, None]]]
"""Background tasks by name; each runs until it is cancelled."""


class ProtocolSession(Protocol):
    """What the metrics read of a session."""

    @property
    def counters(self) -> Mapping[str, float]:
        """Events by name."""
        ...

    def sizes(self) -> Mapping[str, float]:
        """Entries or bytes of each table."""
        ...


class Node(ABC):
    """An edge or a worker between its start and its end.

    A subclass says what it does: which tasks it has, what it does with an event, what it waits for before it is ready,
    and how it drains.

    Args:
        bus: entered; subscriptions are made.
        metrics: where it counts.
        logger: of the process.
        clock: monotonic time.
        containment: takes what nobody else has handled.
        problems: what peers did wrong, logged once per kind.
    """

    def __init__(
        self,
        bus: Bus,
        metrics: Metrics,
        logger: structlog.stdlib.BoundLogger,
        *,
        clock: Clock | None = None,
        containment: Containment | None = None,
        problems: OncePerKind | None = None,
    ) -> None:
        self._bus = bus
        self._metrics = metrics
        self._logger = logger
        self._clock = clock or MonotonicClock()
        self._containment = containment or Containment(logger)
        self._problems = problems or OncePerKind(logger)
        self._working = False
        self._health_probe: ProcessProbe | None = None
        metrics.ready.set_function(lambda: float(self._working and self._fits()))
        metrics.watch_gauge("connected", "1 while connected", lambda: float(bus.statistics().connected))
        metrics.watch_counters("bus_messages", "Messages of the connection", "event", self._bus_counts)
        watch_traffic(metrics, lambda: bus.traffic)
        metrics.watch_counters("drops", "Messages that were dropped, by reason", "reason", self.drops)
        metrics.watch_gauges("queue_messages", "What waits", "queue", self.queues)
        metrics.watch_gauges("queue_oldest_seconds", "Age of the oldest that waits", "queue", self.queue_ages_s)
        metrics.watch_gauges("backlog_frames", "Frames whose questions no model works on yet", "pool", self.backlog)
        metrics.watch_counters("refinements", "Requests for more latents", (), lambda: {(): self.refinements()})
        metrics.watch_counters(
            "lease_expiries", "Leases of frames that ran out, by what was waited for", "waited_for", self.lease_expiries
        )
        self._lag = LoopLag(metrics)
        metrics.watch_counters(
            "messages_dropped", "Bad messages, by kind and reason", "kind", lambda: self._problems.counts
        )
        metrics.watch_counters(
            "contained",
            "Bugs of Latentbus that ended one message or frame",
            "kind",
            lambda: self._containment.counts,
        )

    async def run(self, stop: Stop) -> int:
        """Work until asked to stop, or until there is nothing left to do; then drain.

        Returns:
            Exit status: 0, or EXIT_NOT_DRAINED when something was left behind.
        """
        try:
            async with asyncio.TaskGroup() as group:
                work = {
                    "receive": self._receive_all,
                    "loop lag": self._lag.run,
                    **await self._begin(group),
                    **self._watchdog(stop),
                }
                tasks = {name: group.create_task(task(), name=name) for name, task in work.items()}
                await first_of(stop.wait(), self._become_ready(stop))
                await first_of(stop.wait(), self._exhausted(tasks))
                stop.request()
                self._working = False
                drained = await self._drain(tasks, stop.drain_timeout_s)
                for running in tasks.values():
                    running.cancel()
        finally:
            self._problems.summarise()
        return 0 if drained else EXIT_NOT_DRAINED

    @abstractmethod
    async def _begin(self, group: asyncio.TaskGroup) -> Work:
        """Make what needs the task group; the background tasks beside ``receive``."""

    @abstractmethod
    def _receive(self, events: Sequence[Inbound | ConnectionChange]) -> None:
        """Take in what the bus has received."""

    @abstractmethod
    async def _prepare(self) -> Mapping[str, Any]:
        """Wait, once connected, for what else it takes to be ready; fields of the log line that says so."""

    @abstractmethod
    async def _drain(self, tasks: Mapping[str, asyncio.Task[None]], timeout_s: float) -> bool:
        """Take nothing new, finish or resolve what is there; whether that worked out."""

    async def _exhausted(self, tasks: Mapping[str, asyncio.Task[None]]) -> None:  # noqa: ARG002 - for subclasses
        """Wait until there is nothing left to do: never, unless a subclass knows better."""
        await asyncio.get_running_loop().create_future()

    def _fits(self) -> bool:
        """Whether a process that works is of use; see the metric ``ready``."""
        return True

    def _health(self) -> Health:
        """How the process is, for systemd. That the event loop runs goes without saying: it is what asks."""
        return Health("connected" if self._bus.statistics().connected else "not connected")

    def _watchdog(self, stop: Stop) -> Work:
        limit_s = watchdog_s()
        if limit_s is None:
            return {}
        return {"watchdog": lambda: keep_alive(limit_s, self._clock, self._health, stop.ready.is_set)}

    # ---- what is scraped, from the HTTP thread ----------------------------------------------------------------------

    def drops(self) -> Mapping[str, float]:
        """Messages that were dropped, by reason."""
        values = asdict(self._bus.statistics())
        bad = sum(dict(self._problems.counts).values())
        return {"bad_message": bad, **{reason: values[name] for name, reason in _DROPS.items()}}

    def queues(self) -> Mapping[str, float]:
        """Messages or frames of each queue."""
        statistics = self._bus.statistics()
        return {
            "incoming": statistics.incoming_messages,
            "outgoing": statistics.outgoing_messages + statistics.waiting_publishes,
        }

    def queue_ages_s(self) -> Mapping[str, float]:
        """Age of the oldest entry of each queue, 0 of an empty one."""
        return {}

    def backlog(self) -> Mapping[str, float]:
        """Frames that wait for a model, by pool."""
        return {}

    def refinements(self) -> float:
        """Requests for more latents so far."""
        return 0.0

    def lease_expiries(self) -> Mapping[str, float]:
        """Leases that ran out so far."""
        return {}

    def _watch_session(self, session: ProtocolSession) -> None:
        """Serve what every protocol session counts."""
        self._metrics.watch_counters(
            "session_events", "Events of the protocol session", "event", lambda: session.counters
        )
        self._metrics.watch_gauges(
            "session_tables", "Entries or bytes of what the protocol session keeps", "table", session.sizes
        )

    async def _become_ready(self, stop: Stop) -> None:
        await self._connected()
        await listen_for_older_peers(self._bus)
        fields = await self._prepare()
        self._working = True
        stop.set_ready()
        self._logger.info("ready", **fields)

    async def _connected(self) -> None:
        while True:
            try:
                return await self._bus.wait_connected(CONNECT_LOG_S)
            except ConnectionLostError as error:
                self._logger.warning("still not connected", problem=str(error))

    async def _receive_all(self) -> None:
        while True:
            events = await self._bus.receive_batch(RECEIVE_BATCH)
            for event in events:
                if isinstance(event, ConnectionChange) and self._health_probe is not None:
                    self._health_probe.connection(event)
            self._receive(events)
            # A full buffer must not keep the other tasks from their turn.
            await asyncio.sleep(0)

    def _watch_health(self, health: ProcessHealth) -> Work:
        """Tasks that look after the health of this process."""
        self._health_probe = health.probe
        return {"health": health.run, "disks": health.probe.run}

    def _bus_counts(self) -> dict[str, float]:
        values = asdict(self._bus.statistics())
        return {name: values[f"{name}_messages"] for name in _BUS_COUNTS}
