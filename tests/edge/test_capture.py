from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import structlog
from numpy.typing import NDArray

from edge_nodes import capture
from edge_nodes.camera_problems import CameraProblems
from edge_nodes.capture import CameraCapture
from edge_nodes.capture_policy import CapturePolicy
from edge_nodes.sources import CapturedFrame, SourceState
from pipeline.config.logs import get_logger
from pipeline.node.containment import Containment
from schemas.errors import ArtifactError, SourceError
from schemas.types import SourceReason
from tests.edge.support import SkippingClock


class FakeSource:
    """Frames on demand; fails or ends as told."""

    def __init__(self, clock: SkippingClock) -> None:
        self.clock = clock
        self.counters: Counter[str] = Counter()
        self.open_errors: list[Exception] = []
        self.script: list[BaseException | None] = []
        self.pictures: list[NDArray[Any]] = []
        self.is_open = False
        self.opened = 0
        self.index = 0
        self.open_blocks, self.read_blocks, self.close_blocks = asyncio.Event(), asyncio.Event(), asyncio.Event()
        for event in (self.open_blocks, self.read_blocks, self.close_blocks):
            event.set()
        self.entered = {"open": asyncio.Event(), "read": asyncio.Event()}

    async def open(self) -> None:
        self.opened += 1
        self.entered["open"].set()
        await self.open_blocks.wait()
        if self.open_errors:
            raise self.open_errors.pop(0)
        self.is_open = True

    async def newest(self) -> CapturedFrame | None:
        assert self.is_open
        self.entered["read"].set()
        await self.read_blocks.wait()
        self.index += 1
        if self.script:
            step = self.script.pop(0)
            if step is None:
                return None
            raise step
        pixels = self.pictures.pop(0) if self.pictures else np.zeros((2, 2, 3), np.uint8)
        return CapturedFrame("gate", self.index, self.clock.now_s(), pixels)

    async def close(self) -> None:
        await self.close_blocks.wait()
        self.is_open = False


class WatchedProblems(CameraProblems):
    def __init__(self) -> None:
        super().__init__()
        self.reported = asyncio.Event()

    def report(self, camera: str, kind: str, error: BaseException, **context: Any) -> None:
        super().report(camera, kind, error, **context)
        self.reported.set()


class Taker:
    def __init__(self, clock: SkippingClock) -> None:
        self.clock = clock
        self.taken: list[tuple[float, bool]] = []
        self.ups: list[bool] = []
        self.kept: list[float] = []
        self.for_ring: list[bool] = []
        self.ask_waits = False
        self.uplink_free = asyncio.Event()
        self.uplink_free.set()
        self.after: Callable[[], None] = lambda: None
        self.enough = asyncio.Event()
        self.count = 0
        self.grants: Iterator[bool] = itertools.repeat(True)
        self.slots = 0

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.uplink_free.wait()

    def has_room(self, camera: str) -> bool:
        return self.uplink_free.is_set()

    def asked(self, camera: str) -> bool:
        return self.ask_waits

    def takes_standing(self, camera: str) -> bool:
        self.slots += 1
        return next(self.grants)

    async def take(self, captured: CapturedFrame, *, standing: bool, ring: bool) -> None:
        self.taken.append((self.clock.now_s(), standing))
        self.for_ring.append(ring)
        self.ask_waits = False
        self.after()
        if len(self.taken) >= self.count:
            self.enough.set()
            await asyncio.Event().wait()

    async def keep(self, captured: CapturedFrame) -> None:
        self.kept.append(self.clock.now_s())
        self.after()

    def source_changed(self, camera: str, up: bool) -> None:
        self.ups.append(up)


class Rig:
    def __init__(
        self, interval_s: float | None = 1.0, phase_s: float = 0.0, ring_interval_s: float | None = None
    ) -> None:
        self.clock = SkippingClock()
        self.start_s = self.clock.now_s()
        self.source = FakeSource(self.clock)
        self.taker = Taker(self.clock)
        self.problems = WatchedProblems()
        self.containment = Containment(get_logger(__name__), sleep=self.clock.sleep)
        self.capture = CameraCapture(
            "gate",
            self.source,
            policy=CapturePolicy("gate", interval_s, phase_s, self.taker, ring_interval_s=ring_interval_s),
            taker=self.taker,
            clock=self.clock,
            problems=self.problems,
            containment=self.containment,
            draw=lambda: 1.0,
        )

    async def problems_seen(self, kind: str | None = None) -> None:
        """Wait for a report."""
        while not (self.problems.counts if kind is None else self.problems.counts["gate", kind]):
            await self.problems.reported.wait()
            self.problems.reported.clear()

    async def until(self, count: int) -> list[tuple[float, bool]]:
        self.taker.count = count
        task = asyncio.create_task(self.capture.run())
        await self.taker.enough.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not self.source.is_open
        return [(time_s - self.start_s, standing) for time_s, standing in self.taker.taken]


async def test_frames_are_taken_at_the_interval_from_the_phase_on() -> None:
    rig = Rig(interval_s=2.0, phase_s=0.5)
    assert await rig.until(3) == [(0.5, True), (2.5, True), (4.5, True)]
    assert rig.taker.ups == [True, False]
    assert await rig.capture.first_open is None


async def test_a_slow_encoder_costs_frames_and_builds_no_queue() -> None:
    rig = Rig()

    def slow() -> None:
        rig.clock.time_s += 2.25

    rig.taker.after = slow
    assert await rig.until(3) == [(0.0, True), (2.25, True), (4.5, True)]
    assert rig.capture.policy.missed == 2


async def test_a_question_takes_a_frame_at_once_and_leaves_the_interval_as_it_is() -> None:
    rig = Rig()

    def ask_once() -> None:
        if len(rig.taker.taken) == 1:
            rig.clock.time_s += 0.25
            rig.taker.ask_waits = True

    rig.taker.after = ask_once
    assert await rig.until(3) == [(0.0, True), (0.25, False), (1.0, True)]


async def test_a_slot_that_load_shedding_skips_passes_without_a_frame() -> None:
    rig = Rig()
    rig.taker.grants = iter([True, False, False, True, True])
    assert await rig.until(3) == [(0.0, True), (3.0, True), (4.0, True)]
    assert rig.capture.policy.missed == 0, "left out on purpose is not missed"


async def test_an_ad_hoc_question_is_asked_in_a_slot_that_is_left_out() -> None:
    rig = Rig()
    rig.taker.grants = iter([False, True])
    rig.taker.ask_waits = True
    assert await rig.until(2) == [(0.0, False), (1.0, True)]


async def test_a_slot_is_granted_once_however_long_the_uplink_takes() -> None:
    rig = Rig()
    rig.taker.uplink_free.clear()
    task = asyncio.create_task(rig.until(1))
    for _ in range(10):
        await asyncio.sleep(0)
    rig.taker.uplink_free.set()
    assert await task == [(0.0, True)]
    assert rig.taker.slots == 1


async def test_a_camera_without_standing_questions_waits_to_be_asked() -> None:
    rig = Rig(interval_s=None)
    task = asyncio.create_task(rig.until(1))
    for _ in range(10):
        await asyncio.sleep(0)
    assert rig.taker.taken == []
    rig.taker.ask_waits = True
    rig.capture.wake()
    assert await task == [(0.0, False)]


async def test_no_frame_is_taken_before_there_is_room_for_it() -> None:
    rig = Rig()
    rig.taker.uplink_free.clear()
    task = asyncio.create_task(rig.until(1))
    for _ in range(10):
        await asyncio.sleep(0)
    assert rig.source.index == 0
    rig.taker.uplink_free.set()
    await task


async def test_a_source_that_fails_is_opened_again() -> None:
    rig = Rig()
    rig.source.open_errors = [SourceError("gate.mp4", "not there"), SourceError("gate.mp4", "not there")]
    rig.source.script = [SourceError("gate.mp4", "cable")]
    assert await rig.until(1) == [(7.0, True)]  # after 1, 2 and 4 seconds
    assert rig.source.opened == 4
    error = await rig.capture.first_open
    assert isinstance(error, SourceError)


@pytest.mark.parametrize(
    "error", [PermissionError(1, "seek"), ValueError("rtsp://u:secret@h/ broke"), AssertionError()]
)
async def test_whatever_a_source_raises_costs_an_attempt_and_no_more(error: Exception) -> None:
    rig = Rig()
    rig.source.open_errors = [error]
    rig.source.script = [error, asyncio.CancelledError()]
    with structlog.testing.capture_logs() as lines:
        assert await rig.until(1) == [(7.0, True)]
    assert rig.problems.counts == {("gate", "lost"): 3}
    assert isinstance(await rig.capture.first_open, SourceError)
    assert "secret" not in str(lines)


async def test_a_mistake_that_is_made_again_and_again_is_logged_at_the_first_and_tenth_time() -> None:
    rig = Rig()
    missing: Exception = SourceError("gate.mp4", "not there")
    rig.source.open_errors = [*[missing] * 20, SourceError("gate.mp4", "new")]
    with structlog.testing.capture_logs() as lines:
        await rig.until(1)
    lost = [(line["problem"], line["count"]) for line in lines if line["event"] == "camera lost"]
    assert lost == [("gate.mp4: not there", 1), ("gate.mp4: not there", 10), ("gate.mp4: new", 1)]
    assert [line["event"] for line in lines][-1] == "camera back"


async def test_a_frame_that_cannot_be_encoded_is_dropped_and_the_next_one_is_taken() -> None:
    rig = Rig()

    def fail_twice() -> None:
        if len(rig.taker.taken) <= 2:
            raise ArtifactError("encoder.onnx", f"a latent of {30_000 + len(rig.taker.taken)} bytes")

    rig.taker.after = fail_twice
    with structlog.testing.capture_logs() as lines:
        times = await rig.until(3)
    assert times == [(0.0, True), (1.0, True), (3.0, True)]  # after pauses of 1 and 2 seconds
    assert rig.problems.counts == {("gate", "frame"): 2}
    assert [line["event"] for line in lines].count("frame dropped") == 2, "two mistakes, each new"


@pytest.mark.usefixtures("contained")
async def test_a_bug_that_a_frame_meets_costs_that_frame() -> None:
    rig = Rig()

    def fail_once() -> None:
        if len(rig.taker.taken) == 1:
            raise ZeroDivisionError

    rig.taker.after = fail_once
    assert await rig.until(2) == [(0.0, True), (1.0, True)]
    assert rig.containment.counts == {"frame/ZeroDivisionError": 1}
    assert rig.taker.ups == [True, False]


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))],
)
async def test_what_is_no_picture_never_reaches_the_encoder(pixels: NDArray[Any]) -> None:
    rig = Rig()
    rig.source.pictures = [pixels]
    assert await rig.until(1) == [(1.0, True)]
    assert rig.problems.counts == {("gate", "frame"): 1}


@pytest.mark.parametrize("step", ["open", "read"])
async def test_a_source_that_blocks_is_reported_waited_for_and_not_entered_twice(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "OPEN_LIMIT_S", 0.01)
    monkeypatch.setattr(capture, "SILENCE_LIMIT_S", 0.01)
    rig = Rig()
    blocked = rig.source.open_blocks if step == "open" else rig.source.read_blocks
    blocked.clear()
    task = asyncio.create_task(rig.until(1))
    await rig.problems_seen()
    assert rig.problems.counts == {("gate", f"{step}_blocked"): 1}
    assert rig.taker.ups[-1] is False
    first = await rig.capture.first_open
    assert (first is None) is (step == "read")
    blocked.set()
    assert [standing for _, standing in await task] == [True]
    assert rig.taker.ups[-2:] == [True, False]
    assert rig.source.opened == 1


async def test_a_source_that_does_not_close_is_not_opened_again_before_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "CLOSE_LIMIT_S", 0.01)
    rig = Rig()
    rig.source.script = [SourceError("gate.mp4", "cable")]
    rig.source.close_blocks.clear()
    task = asyncio.create_task(rig.until(1))
    await rig.problems_seen("close_blocked")
    assert rig.source.opened == 1
    rig.source.close_blocks.set()
    await task
    assert rig.source.opened == 2


@pytest.mark.parametrize("step", ["open", "read", "close"])
async def test_a_camera_that_is_stopped_leaves_a_blocked_source_behind(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "CLOSE_LIMIT_S", 0.01)
    rig = Rig()
    getattr(rig.source, f"{step}_blocks").clear()
    rig.source.close_blocks.clear()
    task = asyncio.create_task(rig.capture.run())
    await rig.source.entered[step if step != "close" else "read"].wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert rig.problems.counts["gate", "close_blocked"] == 1


async def test_a_source_that_ends_ends_the_camera() -> None:
    rig = Rig()
    rig.source.script = [None]
    await rig.capture.run()
    assert rig.taker.taken == []
    assert rig.taker.ups == [True, False]


class WatchedFake(FakeSource):
    """Is lost while nobody asks, when the test says so."""

    def __init__(self, clock: SkippingClock) -> None:
        super().__init__(clock)
        self.loss: BaseException | None = None
        self.lose = asyncio.Event()

    async def watch(self) -> None:
        await self.lose.wait()
        if self.loss is not None:
            self.lose.clear()
            raise self.loss


@pytest.mark.parametrize("loss", [SourceError("gate", "gone", SourceReason.ENDED), RuntimeError("rtsp://u:secret@h/")])
async def test_a_source_that_is_lost_while_nobody_asks_is_opened_again_at_once(loss: Exception) -> None:
    rig = Rig(interval_s=None)
    rig.source = rig.capture._source = WatchedFake(rig.clock)
    rig.source.loss = loss
    rig.source.lose.set()
    task = asyncio.create_task(rig.until(1))
    await rig.problems_seen("lost")
    while rig.source.opened < 2:
        rig.source.entered["open"].clear()
        await rig.source.entered["open"].wait()
    rig.taker.ask_waits = True
    rig.capture.wake()
    await task
    assert rig.taker.ups == [True, False, True, False]


async def test_a_source_that_has_ended_while_nobody_asks_is_read_once_more() -> None:
    rig = Rig(interval_s=None)
    rig.source = rig.capture._source = WatchedFake(rig.clock)
    rig.source.lose.set()
    task = asyncio.create_task(rig.until(1))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    rig.taker.ask_waits = True
    rig.capture.wake()
    await task
    assert rig.source.opened == 1


@pytest.mark.parametrize(
    ("reason", "state", "waits_s"),
    [
        (SourceReason.TIMEOUT, SourceState.STALLED, 1.0),
        (SourceReason.ENDED, SourceState.FAILED, 1.0),
        (SourceReason.AUTH, SourceState.FAILED, 15.0),
    ],
)
async def test_a_loss_has_a_state_a_reason_and_a_wait(reason: SourceReason, state: SourceState, waits_s: float) -> None:
    rig = Rig()
    rig.source.script = [SourceError("gate", "gone", reason)]
    seen: list[tuple[SourceState, SourceReason | None]] = []
    changed = rig.taker.source_changed

    def watch(camera: str, up: bool) -> None:
        seen.append((rig.capture.machine.state, rig.capture.machine.reason))
        changed(camera, up)

    rig.taker.source_changed = watch  # type: ignore[method-assign]
    with structlog.testing.capture_logs() as lines:
        assert await rig.until(1) == [(waits_s, True)]
    assert seen[:3] == [(SourceState.RUNNING, None), (state, reason), (SourceState.RUNNING, None)]
    assert [line["reason"] for line in lines if line["event"] == "camera lost"] == [reason.value]


async def test_waits_are_spread_so_that_cameras_do_not_come_back_in_one_instant() -> None:
    rig = Rig()
    draws = iter([0.0, 0.5])
    rig.capture._draw = lambda: next(draws)
    rig.source.open_errors = [SourceError("gate", "gone"), SourceError("gate", "gone")]
    assert await rig.until(1) == [(0.5 + 1.5, True)]


async def test_a_file_that_ends_leaves_its_camera_ended() -> None:
    rig = Rig()
    rig.source.script = [None]
    await rig.capture.run()
    assert rig.capture.machine.state is SourceState.ENDED


async def test_frames_for_the_ring_are_taken_at_their_own_interval_and_asked_what_is_due() -> None:
    rig = Rig(interval_s=2.0, ring_interval_s=0.5)
    assert await rig.until(5) == [(0.0, True), (0.5, False), (1.0, False), (1.5, False), (2.0, True)]
    assert rig.taker.for_ring == [True] * 5
    assert rig.taker.kept == []


async def test_without_room_on_the_uplink_frames_go_to_the_ring_and_nothing_is_asked_of_them() -> None:
    rig = Rig(interval_s=10.0, ring_interval_s=1.0)
    rig.taker.uplink_free.clear()

    def after_three() -> None:
        if len(rig.taker.kept) == 3:
            rig.taker.uplink_free.set()

    rig.taker.after = after_three
    taken = await rig.until(1)
    assert [time_s - rig.start_s for time_s in rig.taker.kept] == [0.0, 1.0, 2.0]
    assert taken == [(taken[0][0], True)]


async def test_without_an_interval_of_its_own_the_ring_costs_no_frame() -> None:
    rig = Rig(interval_s=2.0)
    assert await rig.until(2) == [(0.0, True), (2.0, True)]
    assert rig.taker.for_ring == [False, False]
