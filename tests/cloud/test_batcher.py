"""Several batches in flight at a backend that is elsewhere: order, bounds, failures, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from cloud_workers.batcher import Batcher
from cloud_workers.inference.backend import Capabilities, InferenceAnswer, InferenceItem, InferenceResult
from cloud_workers.look_engine import VlmLookEngine
from cloud_workers.prefix_store import PrefixStore
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder
from pipeline.codec.spec import TABLES_FILE
from pipeline.codec.tables import FrequencyTables
from pipeline.config.logs import get_logger
from pipeline.node.clock import MonotonicClock
from pipeline.node.containment import Containment
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_session import WorkerSession
from schemas.errors import EngineError, ModelError
from schemas.messages import Open
from schemas.types import FrameId
from tests.cloud.engines import THREAD
from tests.cloud.tiny_codec import LADDER, LATENT_COUNT, encode, random_symbols
from tests.cloud.tiny_models import TOKEN_COUNT, TOKEN_DIM
from tests.protocol.questions import published, ref

FINGERPRINT = b"tiny"
SYMBOLS = random_symbols(8, seed=3)


class Elsewhere:
    """A backend whose batches end when the test says, in any order."""

    def __init__(self, max_concurrent_batches: int = 3) -> None:
        self.capabilities = Capabilities(
            "elsewhere", "tiny", "f", TOKEN_COUNT, TOKEN_DIM, max_concurrent_batches=max_concurrent_batches
        )
        self.batches: list[tuple[Sequence[InferenceItem], asyncio.Future[Sequence[InferenceResult]]]] = []
        self.cancelled: list[int] = []
        self.in_flight = self.most_in_flight = 0
        self._begun = asyncio.Condition()

    async def submit(self, items: Sequence[InferenceItem]) -> Sequence[InferenceResult]:
        number = len(self.batches)
        done: asyncio.Future[Sequence[InferenceResult]] = asyncio.get_running_loop().create_future()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        async with self._begun:
            self.batches.append((items, done))
            self._begun.notify_all()
        try:
            return await done
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        finally:
            self.in_flight -= 1

    async def close(self) -> None:
        return

    async def begun(self, count: int) -> None:
        """Wait until so many batches have begun."""
        async with asyncio.timeout(20), self._begun:
            await self._begun.wait_for(lambda: len(self.batches) >= count)

    def end(self, number: int, make: Callable[[InferenceItem], InferenceResult] | None = None) -> None:
        """A batch ends, with a result for each item."""
        items, done = self.batches[number]
        done.set_result([(make or answer)(item) for item in items])


def answer(item: InferenceItem) -> InferenceResult:
    return InferenceAnswer("yes", 0.99, 2, 0.9, 0.1)


class SetClock(MonotonicClock):
    """Stands where the test puts it."""

    time_s = 0.0

    def now_s(self) -> float:
        return self.time_s


class Running:
    """A session, a batcher and an engine around a backend, on a clock of the test."""

    def __init__(self, codec_dir: Path, backend: Elsewhere) -> None:
        self.clock = SetClock()
        self.backend = backend
        self.codec_dir = codec_dir
        self.containment = Containment(get_logger(__name__))
        self.session = WorkerSession(
            WorkerProtocolSettings(),
            worker="w0",
            pool="main",
            fingerprint=FINGERPRINT,
            stop_rule=StopRule(LADDER, (0.9, 0.6, 0.0), {}, 0.02),
            contain=self.containment.note,
        )
        self.session.receive_question(published("q0"))
        store = PrefixStore(FrequencyTables.load(codec_dir / TABLES_FILE), load_prefix_decoder(codec_dir))
        self.engine = VlmLookEngine(store, backend, THREAD)
        self.ended = asyncio.Condition()
        self.batches_done = 0
        self.batcher = Batcher(
            self.session,
            self.engine,
            max_batch_frames=1,
            max_batch_work=1e9,
            clock=self.clock,
            effects_due=lambda: self.batcher.wake(),
            batch_done=self._batch_done,
            containment=self.containment,
        )

    def open(self, index: int) -> None:
        payload = encode(SYMBOLS[index], self.codec_dir).payload(0, LATENT_COUNT)
        message = Open(
            frame=FrameId(1, index),
            attempt=1,
            site="north",
            fingerprint=FINGERPRINT,
            queries=(ref("q0", 60_000),),
            stop=LATENT_COUNT,
            payload=payload,
        )
        self.session.receive_open(f"c{index}", message, self.clock.time_s)
        self.batcher.wake()

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait, looking again whenever a batch was reported."""
        async with asyncio.timeout(20), self.ended:
            await self.ended.wait_for(done)

    def _batch_done(self, seconds: float, frames: int) -> None:
        self.batches_done += 1
        self._told = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        async with self.ended:
            self.ended.notify_all()


async def running(codec_dir: Path, backend: Elsewhere, work: Callable[[Running], Awaitable[None]]) -> Running:
    """Do something beside a running batcher, then cancel it."""
    rig = Running(codec_dir, backend)
    task = asyncio.create_task(rig.batcher.run())
    try:
        await work(rig)
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()
    return rig


async def test_as_many_batches_are_in_flight_as_the_backend_takes_and_end_in_any_order(codec_dir: Path) -> None:
    async def work(rig: Running) -> None:
        for index in range(6):
            rig.open(index)
        await rig.backend.begun(3)
        assert rig.batcher.in_flight == 3
        assert rig.session.parked() == 3, "the others can still be overtaken"
        rig.clock.time_s = 1.0
        rig.backend.end(2)
        await rig.backend.begun(4)
        rig.clock.time_s = 2.0
        rig.backend.end(0)
        await rig.backend.begun(5)
        for number in (4, 1, 3):
            rig.backend.end(number)
        await rig.backend.begun(6)
        rig.backend.end(5)
        await rig.until(lambda: rig.session.unfinished() == 0)

    rig = await running(codec_dir, Elsewhere(), work)
    assert rig.session.outcomes() == {("answered", "standing"): 6}
    assert rig.backend.most_in_flight == 3
    assert rig.batches_done == 6
    assert rig.batcher.in_flight == 0


async def test_throughput_counts_overlapping_batches_once(codec_dir: Path) -> None:
    async def work(rig: Running) -> None:
        for index in range(3):
            rig.open(index)
        await rig.backend.begun(3)
        rig.clock.time_s = 0.9
        for number in (1, 0, 2):
            rig.backend.end(number)
        await rig.until(lambda: rig.batches_done == 3)

    rig = await running(codec_dir, Elsewhere(), work)
    alone = WorkerSession(
        WorkerProtocolSettings(), worker="w1", pool="main", fingerprint=b"", stop_rule=StopRule.never_early(LADDER)
    )
    for _ in range(3):
        alone.note_batch(0.3, 1)
    assert rig.session.throughput() == pytest.approx(alone.throughput()), "three batches in 0.9 s"


async def test_an_item_that_fails_ends_its_question_and_no_other(codec_dir: Path) -> None:
    async def work(rig: Running) -> None:
        for index in range(3):
            rig.open(index)
        await rig.backend.begun(3)
        rig.backend.end(1, lambda item: ModelError("elsewhere", "no"))
        rig.backend.end(0, lambda item: EngineError("elsewhere", "out of reach"))
        rig.backend.end(2)
        await rig.until(lambda: rig.session.unfinished() == 0)

    rig = await running(codec_dir, Elsewhere(), work)
    assert rig.session.outcomes() == {("failed", "standing"): 2, ("answered", "standing"): 1}
    assert rig.session.counters["query_failed_engine"] == rig.session.counters["query_failed_model"] == 1
    reasons = {effect.message.reason for effect in rig.session.take_effects() if hasattr(effect.message, "reason")}
    assert {"engine: out of reach", "model: no"} <= reasons


@pytest.mark.usefixtures("contained")
async def test_a_backend_that_breaks_its_contract_costs_its_batch_and_no_other(codec_dir: Path) -> None:
    async def work(rig: Running) -> None:
        for index in range(4):
            rig.open(index)
        await rig.backend.begun(3)
        rig.backend.batches[0][1].set_exception(RuntimeError("a bug"))
        rig.backend.batches[1][1].set_result([])
        rig.backend.end(2)
        await rig.backend.begun(4)
        rig.backend.end(3)
        await rig.until(lambda: rig.session.unfinished() == 0)

    rig = await running(codec_dir, Elsewhere(), work)
    assert rig.session.outcomes() == {("failed", "standing"): 2, ("answered", "standing"): 2}
    assert rig.containment.counts == {"batch/RuntimeError": 1, "batch/ModelError": 1}


async def test_what_is_in_flight_at_the_end_is_cancelled(codec_dir: Path) -> None:
    async def work(rig: Running) -> None:
        for index in range(5):
            rig.open(index)
        await rig.backend.begun(3)
        rig.backend.end(1)
        await rig.backend.begun(4)

    rig = await running(codec_dir, Elsewhere(), work)
    assert sorted(rig.backend.cancelled) == [0, 2, 3]
    assert (rig.backend.in_flight, rig.batcher.in_flight) == (0, 0)


async def test_one_batch_at_a_time_where_the_backend_takes_one(codec_dir: Path) -> None:
    async def work(rig: Running) -> None:
        for index in range(3):
            rig.open(index)
        for number in range(3):
            await rig.backend.begun(number + 1)
            assert rig.batcher.in_flight == 1
            rig.backend.end(number)
        await rig.until(lambda: rig.session.unfinished() == 0)

    rig = await running(codec_dir, Elsewhere(1), work)
    assert rig.backend.most_in_flight == 1
