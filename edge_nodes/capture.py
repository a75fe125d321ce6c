"""The loop of a camera: takes a frame when its policy says so, and survives its source.

A source is a library with a network, a disk or a device behind it. It may raise anything and may block for ever; the
loop of its camera contains both. A call that blocks is reported and waited for, and the source is not entered again
before it returns, so that a camera blocks one thread at most.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from edge_nodes.camera_problems import CameraProblems
from edge_nodes.capture_policy import CapturePolicy
from edge_nodes.picture_detail import picture_detail
from edge_nodes.sources import CapturedFrame, FrameSource, SourceMachine, WatchedSource, redacted
from pipeline.bus.backoff import Backoff
from pipeline.config.logs import get_logger
from pipeline.node.clock import Clock
from pipeline.node.containment import Containment
from pipeline.node.tasks import first_of
from schemas.errors import LatentbusError, SourceError
from schemas.types import SourceReason

T = TypeVar("T")

_log = get_logger(__name__)

OPEN_LIMIT_S: Final = 20.0
"""A source that takes longer to open counts as blocked."""
SILENCE_LIMIT_S: Final = 30.0
"""A source that is asked and shows no frame for so long counts as blocked."""
CLOSE_LIMIT_S: Final = 1.0
"""A camera that ends waits so long for its source to close."""

DETAIL_EVERY_S: Final = 5.0
"""Between two looks whether a camera is covered."""

REOPEN = Backoff(initial_s=1.0, maximum_s=30.0, growth=2.0, stable_s=10.0)
"""Waits between attempts to open a source that failed: cameras reboot, file shares come back."""
REOPEN_REFUSED = Backoff(initial_s=15.0, maximum_s=300.0, growth=2.0, stable_s=10.0)
"""The same after a refused password: many cameras lock an account after a few attempts."""


class FrameTaker(Protocol):
    """Whom a camera works for."""

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds that an event at the site can make hold."""

    async def take(self, captured: CapturedFrame, *, standing: bool, ring: bool) -> None:
        """Ask questions of a frame: the ad-hoc ones that wait, and the standing ones if it is their time.

        Args:
            captured: the frame.
            standing: it is time for the standing questions.
            ring: it is kept for questions about the past even if nothing is asked of it.
        """

    async def keep(self, captured: CapturedFrame) -> None:
        """Keep a frame for questions about the past, and ask nothing of it."""

    def source_changed(self, camera: str, up: bool) -> None:
        """The source was opened, or was lost."""


class CameraCapture:
    """The loop of one camera.

    Args:
        camera: its name.
        source: where its frames come from.
        policy: when it takes a frame.
        taker: whom it works for.
        clock: the edge's clock.
        problems: told what goes wrong.
        containment: takes what nobody else has handled.
        draw: a random number in [0, 1), for the waits.

    Attributes:
        policy: as given.
        machine: what the source is doing.
        detail: of the latest picture, see :func:`~edge_nodes.picture_detail.picture_detail`; None before the first.
        first_open: result of the first attempt to open the source: None, or the error. An attempt that blocks
            counts as failed.
    """

    def __init__(
        self,
        camera: str,
        source: FrameSource,
        *,
        policy: CapturePolicy,
        taker: FrameTaker,
        clock: Clock,
        problems: CameraProblems,
        containment: Containment,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.policy = policy
        self.machine = SourceMachine()
        self.first_open: asyncio.Future[SourceError | None] = asyncio.get_running_loop().create_future()
        self._camera = camera
        self._source = source
        self._taker = taker
        self._clock = clock
        self._problems = problems
        self._containment = containment
        self._draw = draw
        self.detail: float | None = None
        self._detail_s = -math.inf
        self._up: bool | None = None
        self._called: tuple[str, float] | None = None
        self._woken = asyncio.Event()

    def held_s(self) -> float:
        """How long the source has not come back from being opened or closed; 0 when it is neither.

        A source may wait for a frame without end, as that of a folder does. What opens and closes it has limits of its
        own, so one that stays away is stuck, and nothing but the end of the process frees its thread.
        """
        if self._called is None or self._called[0] == "read":
            return 0.0
        return self._clock.now_s() - self._called[1]

    def wake(self) -> None:
        """Somebody asks: take a frame now."""
        self._woken.set()

    async def run(self) -> None:
        """Take frames until the source ends. A source that fails is opened again, for ever."""
        failures = 0
        try:
            while True:
                opened_s = self._clock.now_s()
                self.machine.opening()
                try:
                    await self._call("open", self._source.open(), OPEN_LIMIT_S)
                    self._opened(None)
                    self._shows()
                    await self._sample()
                except SourceError as error:
                    self._opened(error)
                    if self._clock.now_s() - opened_s >= REOPEN.stable_s:
                        failures = 0
                        self._problems.forget(self._camera)
                    failures += 1
                    backoff = REOPEN_REFUSED if error.reason is SourceReason.AUTH else REOPEN
                    delay_s = backoff.delay_s(failures, self._draw())
                    self._problems.report(self._camera, "lost", error, next_try_s=round(delay_s, 1))
                    self.machine.lost(error.reason)
                    self._told()
                else:
                    self.machine.ended()
                    _log.info("camera ended", camera=self._camera)
                    return
                await self._close()
                await self._clock.sleep(delay_s)
        finally:
            self._told(up=False)
            await self._leave()

    async def _sample(self) -> None:
        self.policy.source_opened(self._clock.now_s())
        failures = 0
        while True:
            await self._occasion()
            asks = await self._room()
            captured = await self._call("read", self._source.newest(), SILENCE_LIMIT_S)
            if captured is None:
                return
            now_s = self._clock.now_s()
            ring = self.policy.for_ring(now_s)
            standing = asks and self.policy.standing(now_s)
            if await self._take(captured, asks=asks, standing=standing, ring=ring):
                failures = 0
            else:
                failures += 1
                # What was asked of this frame is asked of the next one, but not without a pause.
                await self._clock.sleep(REOPEN.delay_s(failures, self._draw()))

    async def _room(self) -> bool:
        """Wait for room on the uplink; False where a frame for the ring is due first, of which nothing is asked."""
        while not self.policy.has_room():
            ring_s, now_s = self.policy.ring_due_s(), self._clock.now_s()
            if ring_s is not None and ring_s <= now_s:
                return False
            waits: list[Coroutine[Any, Any, object]] = [self._taker.until(self.policy.has_room)]
            if ring_s is not None:
                waits.append(self._clock.sleep(ring_s - now_s))
            await first_of(*waits)
        return True

    async def _take(self, captured: CapturedFrame, *, asks: bool, standing: bool, ring: bool) -> bool:
        """Whether a frame was asked about, or kept; one that cannot be fails by itself."""
        try:
            self.policy.check(captured)
            if (now_s := self._clock.now_s()) - self._detail_s >= DETAIL_EVERY_S:
                self._detail_s, self.detail = now_s, picture_detail(captured.pixels)
            if asks:
                await self._taker.take(captured, standing=standing, ring=ring)
            else:
                await self._taker.keep(captured)
        except LatentbusError as error:
            self._problems.report(self._camera, "frame", error, index=captured.index)
        except Exception as error:  # noqa: BLE001 - it ends this frame, not the site
            self._containment.note("frame", error)
        else:
            return True
        return False

    async def _call(self, step: str, work: Coroutine[Any, Any, T], limit_s: float) -> T:
        """Wait for a call of the source; one that takes too long is reported, and waited for all the same.

        Raises:
            SourceError: whatever the source raised.
        """
        task = asyncio.ensure_future(work)
        task.add_done_callback(_seen)
        self._called = step, self._clock.now_s()
        try:
            await asyncio.wait({task}, timeout=limit_s)
            if blocked := not task.done():
                said = f"{step} has not returned for {limit_s:g} s; still waiting"
                problem = SourceError(self._camera, said, SourceReason.TIMEOUT)
                self._opened(problem)
                self.machine.silent()
                self._told()
                self._problems.report(self._camera, f"{step}_blocked", problem)
                await asyncio.wait({task})
        except BaseException:
            task.cancel()
            raise
        finally:
            self._called = None
        if task.cancelled():
            raise SourceError(self._camera, f"{step} was cancelled from within")
        error = task.exception()
        if error is None:
            if blocked and step == "read":
                self._shows()
            return task.result()
        try:
            if isinstance(error, SourceError):
                raise error
            raise _foreign(self._camera, step, error) from error
        finally:
            # What is raised refers to this frame: a cycle would keep the stream that was lost.
            del task, error

    async def _close(self) -> None:
        """Close the source, however long it takes: it is not opened again before."""
        try:
            await self._call("close", self._source.close(), CLOSE_LIMIT_S)
        except SourceError as error:
            self._problems.report(self._camera, "close", error)

    async def _leave(self) -> None:
        """Close the source for the last time. One that blocks is left behind: its thread ends with the process."""
        task = asyncio.ensure_future(self._source.close())
        task.add_done_callback(_seen)
        done, _ = await asyncio.wait({task}, timeout=CLOSE_LIMIT_S)
        if not done:
            task.cancel()
            blocked = SourceError(self._camera, f"close has not returned for {CLOSE_LIMIT_S:g} s; left behind")
            self._problems.report(self._camera, "close_blocked", blocked)
        elif not task.cancelled() and (error := task.exception()) is not None:
            self._problems.report(self._camera, "close", error)

    def _shows(self) -> None:
        self.machine.shows()
        self._told()

    def _told(self, *, up: bool | None = None) -> None:
        up = self.machine.up if up is None else up
        if up is not self._up:
            if up and self._up is False:
                _log.info("camera back", camera=self._camera)
            self._up = up
            self._taker.source_changed(self._camera, up)

    async def _occasion(self) -> None:
        """Wait until a frame is due."""
        while not self.policy.due(self._clock.now_s()):
            self._woken.clear()
            due_s = self.policy.next_due_s()
            wait_s = None if due_s is None else due_s - self._clock.now_s()
            if wait_s is not None and wait_s <= 0:
                continue
            waits: list[Coroutine[Any, Any, object]] = [self._woken.wait()]
            if wait_s is not None:
                waits.append(self._clock.sleep(wait_s))
            if isinstance(self._source, WatchedSource):
                waits.append(self._watch(self._source))
            await first_of(*waits)

    async def _watch(self, source: WatchedSource) -> None:
        """Raises when the source is lost; what has only ended is noticed by who reads it."""
        try:
            await source.watch()
        except SourceError:
            raise
        except Exception as error:  # a source is a foreign library
            raise _foreign(self._camera, "watch", error) from error
        await asyncio.Event().wait()

    def _opened(self, error: SourceError | None) -> None:
        if not self.first_open.done():
            self.first_open.set_result(error)


def _foreign(camera: str, step: str, error: BaseException) -> SourceError:
    return SourceError(camera, f"{step}: {type(error).__name__}: {redacted(str(error))}")


def _seen(task: asyncio.Task[Any]) -> None:
    """Nobody may be left who looks at how a call ended."""
    if not task.cancelled():
        task.exception()
