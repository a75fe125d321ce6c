"""What a worker serves to Prometheus of its session."""

from __future__ import annotations

from pipeline.codec.stop_shift import ShiftDetector
from pipeline.node.metrics import Metrics
from pipeline.protocol.worker_session import WorkerSession


def watch_worker(metrics: Metrics, session: WorkerSession) -> None:
    """Serve what a session counts, read at each scrape."""
    metrics.watch_counters(
        "query_outcomes", "terminal answers by outcome and by who asked", ("outcome", "asked"), session.outcomes
    )
    metrics.watch_counters("worker_publishes", "publishes of the worker", "result", lambda: session.publishes)
    metrics.watch_gauge("worker_batches", "batches at the model", session.batches)
    metrics.watch_gauge("worker_tokens_per_second", "measured throughput of the model", session.throughput)
    metrics.watch_gauge("worker_frames", "frames held and not decided", session.unfinished)
    metrics.watch_gauge("worker_queued_publishes", "messages that wait for the broker", session.waiting)


def watch_shift(metrics: Metrics, shift: ShiftDetector | None) -> None:
    """Serve how far the answers are from those of the calibration, if it says."""
    if shift is not None:
        metrics.watch_gauge("stop_shift", "1 while answers are unlike those of the calibration", lambda: shift.shifted)
        metrics.watch_gauge("stop_shift_distance", "distance of the last window from it", lambda: shift.distance)
