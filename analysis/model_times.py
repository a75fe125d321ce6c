"""How long the model of a recorded fleet took, from the answers in its log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from analysis.traces import FrameKey, FrameTrace
from analysis.traffic import Traffic
from schemas.messages import Answer
from schemas.types import Outcome

_SAME_BATCH_S = 0.004
"""Answers of one batch are published one after another, in fractions of a millisecond each."""
_NS = 1e9


@dataclass(frozen=True, slots=True)
class ModelTimes:
    """Time of a batch: a part of its own, and one for each frame.

    Attributes:
        batch_s: time of a batch beside its frames.
        frame_s: time of a frame in a batch.
        batches: batches that were measured, 0 where the log has none.
        idle_share: share of them that found the worker idle: their times hold the way to the worker and back.
    """

    batch_s: float
    frame_s: float
    batches: int
    idle_share: float


@dataclass(slots=True)
class _Batch:
    arrived_s: float
    first_answer_s: float
    last_answer_s: float
    frames: set[FrameKey]


def measure_model_times(traffic: Traffic) -> ModelTimes:
    """Fit the time of a batch over its number of frames.

    A worker answers all frames of a batch at its end. The batch began when the one before was answered, or when the
    first of its frames came, whichever was later.
    """
    sizes: dict[int, list[float]] = {}
    idle = batches = 0
    for found in _batches(traffic).values():
        before_s = float("-inf")
        for batch in found:
            idle += batch.arrived_s > before_s
            batches += 1
            took_s = batch.first_answer_s - max(batch.arrived_s, before_s)
            if took_s > 0:
                sizes.setdefault(len(batch.frames), []).append(took_s)
            before_s = batch.last_answer_s
    if not sizes:
        return ModelTimes(0.0, 0.0, 0, 0.0)
    batch_s, frame_s = _line(sizes)
    return ModelTimes(batch_s, frame_s, batches, idle / batches)


def _batches(traffic: Traffic) -> dict[str, list[_Batch]]:
    """Batches of each worker in the order of their answers."""
    passes: dict[str, dict[tuple[FrameKey, int], _Batch]] = {}
    for query in traffic.queries.values():
        key = (query.camera, query.frame)
        for answered_ns, answer in query.answers:
            if answer.outcome in (Outcome.FAILED, Outcome.DEGRADED):
                continue  # said by a timer or an error, not at the end of a batch
            arrived_ns = _arrived_ns(traffic.frames[key], answer, answered_ns)
            if arrived_ns is None:
                continue
            answered_s = answered_ns / _NS
            inference_pass = passes.setdefault(answer.worker, {}).setdefault(
                (key, answer.latents), _Batch(arrived_ns / _NS, answered_s, answered_s, {key})
            )
            inference_pass.first_answer_s = min(inference_pass.first_answer_s, answered_s)
            inference_pass.last_answer_s = max(inference_pass.last_answer_s, answered_s)
    return {worker: _joined(found.values()) for worker, found in passes.items()}


def _joined(passes: Iterable[_Batch]) -> list[_Batch]:
    """Passes whose answers came together, as one batch each."""
    batches: list[_Batch] = []
    for inference_pass in sorted(passes, key=lambda inference_pass: inference_pass.first_answer_s):
        if batches and inference_pass.first_answer_s - batches[-1].last_answer_s < _SAME_BATCH_S:
            batch = batches[-1]
            batch.arrived_s = min(batch.arrived_s, inference_pass.arrived_s)
            batch.last_answer_s = max(batch.last_answer_s, inference_pass.last_answer_s)
            batch.frames |= inference_pass.frames
        else:
            batches.append(inference_pass)
    return batches


def _arrived_ns(frame: FrameTrace, answer: Answer, answered_ns: int) -> int | None:
    """When the last latents of a pass were sent to its worker."""
    came = [
        *(ns for ns, opened in frame.opens if opened.stop == answer.latents),
        *(ns for ns, _, passed in frame.handovers if passed.stop == answer.latents),
        *(ns for ns, worker, chunk in frame.chunks if chunk.stop == answer.latents and worker == answer.worker),
    ]
    return max((ns for ns in came if ns <= answered_ns), default=None)


def _line(samples: Mapping[int, Sequence[float]]) -> tuple[float, float]:
    """Time of a batch beside its frames, and of a frame in it: medians, which a stalled batch does not move."""
    smallest = min(samples)
    least_s = median(samples[smallest])
    slopes = [
        (took_s - least_s) / (count - smallest)
        for count, times in samples.items()
        if count > smallest
        for took_s in times
    ]
    # With batches of one size only, all of the time is taken as the frames'.
    frame_s = min(max(median(slopes), 0.0), least_s / smallest) if slopes else least_s / smallest
    return least_s - frame_s * smallest, frame_s
