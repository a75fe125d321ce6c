"""The batches that a worker's model has in hand: started while it has room, and what becomes of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from pipeline.protocol.effects import Look
from pipeline.protocol.ports import LookFailure, LookResult, RunBatch
from pipeline.protocol.worker_frames import WorkerFrames
from schemas.errors import StateError
from schemas.messages import RejectReason

_NO_RESULT = LookFailure(RejectReason.MODEL, "the model gave no result")


@dataclass(frozen=True, slots=True)
class _InHand:
    looks: tuple[Look, ...]
    started_s: float


class Batches:
    """Batches by token.

    Args:
        frames: of the worker.
        max_batches: batches at the model at a time.
        max_frames: frames in one batch.
        max_work: work of one batch, see :class:`~pipeline.protocol.worker_work.WorkCosts`.
    """

    def __init__(self, frames: WorkerFrames, *, max_batches: int, max_frames: int, max_work: float) -> None:
        self._frames = frames
        self._max_batches = max_batches
        self._max_frames = max_frames
        self._max_work = max_work
        self._in_hand: dict[int, _InHand] = {}
        self._tokens = 0
        self._last_done_s = -math.inf

    def __len__(self) -> int:
        return len(self._in_hand)

    def start(self, now_s: float) -> RunBatch | None:
        """The next batch, if the model has room for one and a frame waits."""
        if len(self._in_hand) >= self._max_batches:
            return None
        token = self._tokens + 1
        looks = tuple(self._frames.looks.take(self._max_frames, now_s, self._max_work, batch=token))
        if not looks:
            return None
        self._tokens = token
        self._in_hand[token] = _InHand(looks, now_s)
        return RunBatch(token, looks)

    def done(self, token: int, results: Sequence[LookResult], now_s: float) -> None:
        """What became of a batch. A look without a result has failed.

        Raises:
            StateError: no batch of this token is at the model.
        """
        batch = self._in_hand.pop(token, None)
        if batch is None:
            raise StateError(f"batch {token} is not at the model")
        looks = self._frames.looks
        counted_s = now_s - max(batch.started_s, self._last_done_s)
        self._last_done_s = now_s
        pairs = list(zip_longest(batch.looks, results[: len(batch.looks)]))
        work = sum(look.work for look, result in pairs if _is_answered(result))
        looks.note_batch(now_s - batch.started_s, work, counted_s=counted_s, batch=token)
        for look, result in pairs:
            with self._frames.alone("look", look.camera, look.frame):
                if isinstance(given := _NO_RESULT if result is None else result, LookFailure):
                    looks.fail(look, given.reason, given.problem, batch=token)
                else:
                    looks.finish(look, given, now_s, batch=token)


def _is_answered(result: LookResult | None) -> bool:
    """Whether the model has read a look: one that failed at once says nothing about its speed."""
    return not (result is None or isinstance(result, LookFailure) or all(answer.problem for answer in result))
