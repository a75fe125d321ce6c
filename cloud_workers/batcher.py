"""Micro-batches across cameras: a free model takes the most urgent frames that wait, be it one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from cloud_workers.look_engine import LookDone, LookEngine, LookFailed, LookResult
from pipeline.node.clock import Clock
from pipeline.node.containment import Containment
from pipeline.protocol.effects import Look
from pipeline.protocol.worker_session import WorkerSession
from schemas.messages import RejectReason


class Batcher:
    """Moves looks from the session to the model and their results back.

    As many batches are in flight as the engine takes; what waits longer can still be overtaken by what is more urgent.

    Args:
        session: touched on the event loop only.
        engine: the model.
        max_batch_frames: frames in one batch.
        max_batch_work: work of one batch, see :class:`~pipeline.protocol.worker_work.WorkCosts`.
        clock: monotonic time.
        effects_due: called on the loop whenever the session may have effects: looks were taken, or results are in.
        batch_done: called on the loop with the seconds and frames of each batch.
        containment: takes what nobody else has handled.
    """

    def __init__(
        self,
        session: WorkerSession,
        engine: LookEngine,
        *,
        max_batch_frames: int,
        max_batch_work: float,
        clock: Clock,
        effects_due: Callable[[], None],
        batch_done: Callable[[float, int], None],
        containment: Containment,
    ) -> None:
        self._session = session
        self._engine = engine
        self._max_batch_frames = max_batch_frames
        self._max_batch_work = max_batch_work
        self._clock = clock
        self._effects_due = effects_due
        self._batch_done = batch_done
        self._containment = containment
        self._woken = asyncio.Event()
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Batches that the model has not finished."""
        return self._in_flight

    def wake(self) -> None:
        """Something may be waiting for the model."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled; batches in flight are cancelled as well."""
        async with asyncio.TaskGroup() as batches:
            await self._containment.repeat("batcher", lambda: self._pass(batches))

    async def _pass(self, batches: asyncio.TaskGroup) -> None:
        await self._woken.wait()
        # Left set until the work is done: after a pass that failed, the next one tries again.
        while self._in_flight < self._engine.max_concurrent_batches and (looks := self._take()):
            self._in_flight += 1
            batches.create_task(self._run(looks), name=f"batch[{looks[0].batch}]")
            self._effects_due()
        self._woken.clear()

    def _take(self) -> list[Look]:
        return self._session.take_looks(
            self._max_batch_frames, self._clock.now_s(), self._max_batch_work, self._engine.max_concurrent_batches
        )

    async def _run(self, looks: list[Look]) -> None:
        started_s = self._clock.now_s()
        results: Sequence[LookResult]
        failure: Exception | None = None
        try:
            results = await self._engine.run(looks)
        except Exception as error:  # noqa: BLE001 - the looks must not hang at the model for ever
            failure = error
            results = [LookFailed(look, RejectReason.MODEL, f"{type(error).__name__}: {error}") for look in looks]
        finally:
            self._in_flight -= 1
        with self._containment.around("batch"):
            self._report(results, started_s, looks[0].batch)
            if failure is not None:
                raise failure

    def _report(self, results: Sequence[LookResult], started_s: float, batch: int) -> None:
        now_s = self._clock.now_s()
        self._session.note_batch(now_s - started_s, sum(map(_work_done, results)), now_s, batch)
        self._end(results, now_s)
        self._effects_due()
        self.wake()
        self._batch_done(now_s - started_s, len(results))

    def _end(self, results: Sequence[LookResult], now_s: float) -> None:
        for result in results:
            with self._session.alone("look", result.look.camera, result.look.frame):
                if isinstance(result, LookDone):
                    self._session.finish_look(result.look, result.answers, now_s)
                else:
                    self._session.fail_look(result.look, result.reason, result.problem)


def _work_done(result: LookResult) -> int:
    """Work of a look that the model has answered: one that failed at once says nothing about its speed."""
    done = isinstance(result, LookDone) and not all(answer.problem for answer in result.answers)
    return result.look.work if done else 0
