"""What a worker serves to Prometheus of its session."""

from __future__ import annotations

from pipeline.codec.stop_shift import ShiftDetector
from pipeline.health.conditions import HealthKind, Sign
from pipeline.node.answer_metrics import AnswerMetrics
from pipeline.node.metrics import Metrics
from pipeline.protocol.worker_session import WorkerSession


def watch_worker(metrics: Metrics, session: WorkerSession) -> None:
    """Serve what a session counts, read at each scrape."""
    metrics.watch_counters("worker_publishes", "publishes of the worker", "result", lambda: session.publishes)
    metrics.watch_gauge("worker_batches", "batches at the model", session.batches)
    metrics.watch_gauge("worker_tokens_per_second", "measured throughput of the model", session.throughput)


def watch_shift(metrics: Metrics, shift: ShiftDetector | None) -> None:
    """Serve how far the answers are from those of the calibration, if it says."""
    if shift is not None:
        metrics.watch_gauge("stop_shift", "1 while answers are unlike those of the calibration", lambda: shift.shifted)
        metrics.watch_gauge("stop_shift_distance", "distance of the last window from it", lambda: shift.distance)


def shift_signs(worker: str, shift: ShiftDetector | None) -> list[Sign]:
    """Whether answers are unlike those of the calibration.

    Args:
        worker: its name.
        shift: what compares them; None where the codec has nothing to compare with.
    """
    if shift is None:
        return []
    return [Sign(HealthKind.STOP_SHIFT, "worker", worker, shift.shifted, detail=f"{shift.distance:.2f}")]


def count_answers(answers: AnswerMetrics, session: WorkerSession, now_s: float) -> None:
    """Count how answers went since the last call.

    Args:
        answers: where.
        session: of the worker.
        now_s: its time.
    """
    for measure in session.take_measures():
        asked = "ad_hoc" if measure.ad_hoc else "standing"
        elapsed_s = now_s - measure.admitted_s
        if measure.outcome is None:
            answers.first(asked, elapsed_s)
        else:
            answers.ended(measure.outcome, asked, measure.reason, elapsed_s=elapsed_s, latents=measure.latents)
