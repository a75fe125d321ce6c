"""What a worker serves to Prometheus of its session and its connection."""

from __future__ import annotations

from dataclasses import asdict

from pipeline.bus.base import Bus
from pipeline.containment import Containment
from pipeline.logs import OncePerKind
from pipeline.metrics import Metrics
from pipeline.protocol.worker_session import WorkerSession


def watch_worker(
    metrics: Metrics, session: WorkerSession, bus: Bus, problems: OncePerKind, containment: Containment
) -> None:
    """Serve what these count, read at each scrape."""
    metrics.watch_counters("worker_events", "events of the worker session", "event", lambda: session.counters)
    metrics.watch_counters(
        "query_outcomes", "terminal answers by outcome and by who asked", ("outcome", "asked"), session.outcomes
    )
    metrics.watch_counters("worker_publishes", "publishes of the worker", "result", lambda: session.publishes)
    metrics.watch_counters("messages_dropped", "messages dropped, by kind and reason", "kind", lambda: problems.counts)
    metrics.watch_counters(
        "worker_contained",
        "bugs of Latentbus that ended one message or frame",
        "kind",
        lambda: containment.counts,
    )
    metrics.watch_gauges("worker_tables", "entries or bytes of what the worker session keeps", "table", session.sizes)
    metrics.watch_gauge("worker_frames", "frames held and not decided", session.unfinished)
    metrics.watch_gauge("worker_outbox_messages", "messages that wait for the broker", session.waiting)
    metrics.watch_gauge("bus_connected", "1 while connected", lambda: bus.statistics().connected)
    metrics.watch_counters("bus_messages", "messages of the bus", "event", lambda: _bus_counters(bus))


def _bus_counters(bus: Bus) -> dict[str, float]:
    """The monotone part of the bus statistics."""
    suffixes = ("received", "acknowledged", "dropped_qos0", "dropped_qos1", "discarded", "published")
    values = asdict(bus.statistics())
    return {suffix: values[f"{suffix}_messages"] for suffix in suffixes}
