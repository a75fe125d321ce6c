"""The batches that a worker's model has in hand: started while it has room, and what becomes of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from pipeline.protocol.effects import InferencePass
from pipeline.protocol.ports import PassFailure, PassResult, RunBatch
from pipeline.protocol.worker_frames import WorkerFrames
from schemas.errors import StateError
from schemas.messages import RejectReason

_NO_RESULT = PassFailure(RejectReason.MODEL, "the model gave no result")


@dataclass(frozen=True, slots=True)
class _InHand:
    passes: tuple[InferencePass, ...]
    started_s: float


class Batches:
    """Batches by token.

    Args:
        frames: of the worker.
        max_batches: batches at the model at a time.
        max_frames: frames in one batch.
        max_work: work of one batch, see :class:`~pipeline.protocol.worker_work.WorkCosts`.
        gather_s: a frame that finds the model idle waits so long at most for others to share its batch. What came
            while the model was busy has waited already.
    """

    def __init__(
        self, frames: WorkerFrames, *, max_batches: int, max_frames: int, max_work: float, gather_s: float = 0.0
    ) -> None:
        self._frames = frames
        self._gather_s = gather_s
        self._none_waited = True
        self._gathers_until_s: float | None = None
        self._max_batches = max_batches
        self._max_frames = max_frames
        self._max_work = max_work
        self._in_hand: dict[int, _InHand] = {}
        self._tokens = 0
        self._last_done_s = -math.inf

    def __len__(self) -> int:
        return len(self._in_hand)

    def due_s(self) -> float | None:
        """When frames that wait for others have waited long enough; None while none do."""
        return self._gathers_until_s

    def start(self, now_s: float) -> RunBatch | None:
        """The next batch, if the model has room for one and a frame waits that has waited for others."""
        if len(self._in_hand) >= self._max_batches:
            self._none_waited, self._gathers_until_s = False, None
            return None
        if self._gather_s and self._gathers(now_s):
            return None
        token = self._tokens + 1
        passes = tuple(self._frames.passes.take(self._max_frames, now_s, self._max_work, batch=token))
        if not passes:
            return None
        self._tokens = token
        self._in_hand[token] = _InHand(passes, now_s)
        return RunBatch(token, passes)

    def _gathers(self, now_s: float) -> bool:
        """Whether further frames are waited for; decides so anew after each moment in which none waited."""
        waiting = self._frames.passes.waiting()
        if not waiting:
            self._none_waited, self._gathers_until_s = True, None
            return False
        if self._gathers_until_s is None and self._none_waited:
            self._gathers_until_s = now_s + self._gather_s
        self._none_waited = False
        if self._gathers_until_s is not None and now_s < self._gathers_until_s and waiting < self._max_frames:
            return True
        self._gathers_until_s = None
        return False

    def done(self, token: int, results: Sequence[PassResult], now_s: float) -> None:
        """What became of a batch. A pass without a result has failed.

        Raises:
            StateError: no batch of this token is at the model.
        """
        batch = self._in_hand.pop(token, None)
        if batch is None:
            raise StateError(f"batch {token} is not at the model")
        passes = self._frames.passes
        counted_s = now_s - max(batch.started_s, self._last_done_s)
        self._last_done_s = now_s
        pairs = list(zip_longest(batch.passes, results[: len(batch.passes)]))
        work = sum(inference_pass.work for inference_pass, result in pairs if _is_answered(result))
        passes.note_batch(now_s - batch.started_s, work, counted_s=counted_s, batch=token)
        for inference_pass, result in pairs:
            with self._frames.alone("pass", inference_pass.camera, inference_pass.frame):
                if isinstance(given := _NO_RESULT if result is None else result, PassFailure):
                    passes.fail(inference_pass, given.reason, given.problem, batch=token)
                else:
                    passes.finish(inference_pass, given, now_s, batch=token)


def _is_answered(result: PassResult | None) -> bool:
    """Whether the model has read a pass: one that failed at once says nothing about its speed."""
    return not (result is None or isinstance(result, PassFailure) or all(answer.problem for answer in result))
