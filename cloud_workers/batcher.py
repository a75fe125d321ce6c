"""Micro-batches across cameras: a free model takes the most urgent frames that wait, be it one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter

from cloud_workers.look_engine import LookDone, LookEngine, LookFailed, LookResult
from cloud_workers.model_thread import ModelThread
from pipeline.node.containment import Containment
from pipeline.protocol.effects import Look
from pipeline.protocol.worker_session import WorkerSession
from schemas.messages import RejectReason


class Batcher:
    """Moves looks from the session to the model and their results back.

    Args:
        session: touched on the event loop only.
        engine: the model; touched in the model's thread only.
        thread: that thread.
        max_batch_frames: frames in one batch.
        max_batch_work: work of one batch, see :class:`~pipeline.protocol.worker_work.WorkCosts`.
        clock: monotonic time in seconds.
        effects_due: called on the loop whenever the session may have effects: looks were taken, or results are in.
        batch_done: called on the loop with the seconds and frames of each batch.
        containment: takes what nobody else has handled.
    """

    def __init__(
        self,
        session: WorkerSession,
        engine: LookEngine,
        thread: ModelThread,
        *,
        max_batch_frames: int,
        max_batch_work: float,
        clock: Callable[[], float],
        effects_due: Callable[[], None],
        batch_done: Callable[[float, int], None],
        containment: Containment,
    ) -> None:
        self._session = session
        self._engine = engine
        self._thread = thread
        self._max_batch_frames = max_batch_frames
        self._max_batch_work = max_batch_work
        self._clock = clock
        self._effects_due = effects_due
        self._batch_done = batch_done
        self._containment = containment
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something may be waiting for the model."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled."""
        await self._containment.repeat("batcher", self._pass)

    async def _pass(self) -> None:
        await self._woken.wait()
        # Left set until the work is done: after a pass that failed, the next one tries again.
        while looks := self._session.take_looks(self._max_batch_frames, self._clock(), self._max_batch_work):
            self._effects_due()
            await self._look(looks)
        self._woken.clear()

    async def _look(self, looks: list[Look]) -> None:
        try:
            seconds, results = await self._thread.call(self._timed, looks)
        except Exception as error:  # noqa: BLE001 - the looks must not hang at the model for ever
            problem = f"{type(error).__name__}: {error}"
            self._end([LookFailed(look, RejectReason.MODEL, problem) for look in looks])
            self._effects_due()
            self._containment.note("batch", error)
            return
        self._session.note_batch(seconds, sum(look.work for look in looks))
        self._end(results)
        self._effects_due()
        self._batch_done(seconds, len(looks))

    def _end(self, results: Sequence[LookResult]) -> None:
        now_s = self._clock()
        for result in results:
            with self._session.alone("look", result.look.camera, result.look.frame):
                if isinstance(result, LookDone):
                    self._session.finish_look(result.look, result.answers, now_s)
                else:
                    self._session.fail_look(result.look, result.reason, result.problem)

    def _timed(self, looks: list[Look]) -> tuple[float, list[LookResult]]:
        started = perf_counter()
        results = self._engine.run(looks)
        return perf_counter() - started, results
