"""A live stream: a thread that always reads on, and the newest frame."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_nodes.sources.address import Address
from edge_nodes.sources.base import CapturedFrame
from edge_nodes.sources.key_frames import KeyFrames
from edge_nodes.sources.lag import Lag
from edge_nodes.sources.video_reader import DecodedFrame, Note, VideoReader
from pipeline.config.logs import get_logger
from pipeline.node.clock import Clock, MonotonicClock
from pipeline.node.tasks import first_of
from pipeline.node.work_thread import WorkThread
from schemas.errors import SourceError
from schemas.types import SourceReason

_log = get_logger(__name__)

GRACE_S: Final = 2.0
"""FFmpeg notices silence itself; the watchdog is for what it does not notice, such as data without a picture."""

PROBED_S: Final = 0.3
"""A connection that took longer may begin with frames that are as old."""
CATCH_UP_S: Final = 1.0
"""Limit for leaving them behind."""

ReaderFactory = Callable[[Address, Note, KeyFrames], VideoReader]
"""Opens a stream. A seam: no test machine has a camera."""


@dataclass(frozen=True, slots=True)
class _Arrived:
    frame: DecodedFrame
    at_s: float
    lag_s: float


def _open_reader(address: Address, note: Note, keys: KeyFrames) -> VideoReader:
    return VideoReader(address, note, keys=keys)


class LiveVideo:
    """A :class:`~edge_nodes.sources.base.WatchedSource` on a stream that does not wait.

    One thread reads and decodes for as long as the source is open, whether anybody asks or not, so that no old data
    piles up on the way. It keeps one frame; a second thread converts it when it is asked for.

    Args:
        camera: name of the camera.
        address: what is opened.
        interval_s: time between the frames that are wanted.
        stall_s: a stream that shows no new frame for so long has stalled.
        loop: begin a recording again at its end; a live stream has none.
        clock: what arrivals are timed by; read from the thread too.
        open_reader: opens the stream.

    Attributes:
        counters: ``damaged_packet``, ``corrupt_frame``, ``splice``.
    """

    def __init__(
        self,
        camera: str,
        address: Address,
        *,
        interval_s: float,
        stall_s: float,
        loop: bool = True,
        clock: Clock | None = None,
        open_reader: ReaderFactory = _open_reader,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._camera = camera
        self._address = address
        self._interval_s = interval_s
        self._stall_s = stall_s
        self._loop = loop
        self._clock = clock or MonotonicClock()
        self._open_reader = open_reader
        self._threads: tuple[WorkThread, WorkThread] | None = None
        self._reading: asyncio.Future[None] | None = None
        self._keys = KeyFrames(interval_s)
        self._reader: VideoReader | None = None
        self._newest: _Arrived | None = None
        self._shown: _Arrived | None = None
        self._changed = asyncio.Event()
        self._steady = asyncio.Event()
        self._closing = threading.Event()
        self._opened_s = 0.0

    async def open(self) -> None:
        """Connect, and wait for the first frame.

        Raises:
            SourceError: no connection, no video, or no frame in time.
        """
        self._closing.clear()
        self._newest = self._shown = None
        self._keys = KeyFrames(self._interval_s)
        self._changed = asyncio.Event()
        reading, converting = (WorkThread(f"camera-{self._camera}-{work}") for work in ("read", "convert"))
        self._threads = reading, converting
        loop = asyncio.get_running_loop()
        began_s = self._clock.now_s()
        await reading.call(self._connect)
        self._opened_s = self._clock.now_s()
        self._steady = asyncio.Event()
        self._reading = asyncio.ensure_future(reading.call(self._read_on, loop, self._changed, self._steady))
        self._reading.add_done_callback(self._over)
        await self._until_newer()
        if self._opened_s - began_s > PROBED_S:
            # What FFmpeg read to learn what the stream is comes first, and is as old as that took.
            await first_of(self._steady.wait(), asyncio.wait({self._reading}), self._clock.sleep(CATCH_UP_S))

    async def newest(self) -> CapturedFrame | None:
        """The newest frame; waits for the next one if it was returned already.

        Raises:
            SourceError: the stream is lost or has stalled, or is not open.
        """
        arrived = await self._until_newer()
        if arrived is None or self._threads is None:
            return None
        self._shown = arrived
        pixels = await self._threads[1].call(arrived.frame.pixels)
        age_s = arrived.lag_s + self._clock.now_s() - arrived.at_s
        return CapturedFrame(self._camera, arrived.frame.index, arrived.frame.time_s, pixels, max(0.0, age_s))

    async def watch(self) -> None:
        """See :class:`~edge_nodes.sources.base.WatchedSource`."""
        while not self._ended() and self._reading is not None:
            await first_of(asyncio.wait({self._reading}), self._clock.sleep(self._left_s()))

    async def close(self) -> None:
        """End both threads; waits for a read that is under way."""
        self._closing.set()
        threads, self._threads = self._threads, None
        if threads is not None:
            reading, converting = threads
            converting.end()
            ended = reading.end(self._release)
            await asyncio.shield(asyncio.wrap_future(ended))

    async def _until_newer(self) -> _Arrived | None:
        while True:
            newest = self._newest
            if newest is not None and newest is not self._shown and self._left_s() > 0:
                return newest
            if self._ended():
                return None
            self._changed.clear()
            if self._newest is newest:
                await first_of(self._changed.wait(), self._clock.sleep(self._left_s()))

    def _ended(self) -> bool:
        """Whether a recording has come to its end.

        Raises:
            SourceError: the stream is lost or has stalled, or is not open.
        """
        if self._threads is None or self._reading is None:
            raise SourceError(self._address.shown, "is not open")
        if self._reading.done():
            self._reading.result()
            return True
        if self._left_s() <= 0:
            raise SourceError(self._address.shown, f"no new frame for {self._limit_s():g} s", SourceReason.TIMEOUT)
        return False

    def _left_s(self) -> float:
        since_s = self._opened_s if self._newest is None else self._newest.at_s
        return since_s + self._limit_s() + GRACE_S - self._clock.now_s()

    def _limit_s(self) -> float:
        distance_s = self._keys.distance_s if self._keys.only else None
        return self._stall_s + (distance_s or 0.0)

    def _over(self, reading: asyncio.Future[None]) -> None:
        if not reading.cancelled():
            reading.exception()  # whoever asks next raises it
        self._changed.set()

    # ---- in the reading thread --------------------------------------------------------------------------------------

    def _connect(self) -> VideoReader:
        self._reader = self._open_reader(self._address, self._note, self._keys)
        return self._reader

    def _read_on(self, loop: asyncio.AbstractEventLoop, changed: asyncio.Event, steady: asyncio.Event) -> None:
        reader = self._reader
        if reader is None:
            return
        paced = reader.finite
        while not self._closing.is_set():
            lag, began_s = Lag(), self._clock.now_s()
            for frame in reader.frames():
                if paced:
                    # A recording comes faster than it was seen; its pace is that of its time stamps.
                    self._closing.wait(max(0.0, began_s + frame.time_s - self._clock.now_s()))
                if self._closing.is_set():
                    return
                at_s = self._clock.now_s()
                self._newest = _Arrived(frame, at_s, lag.place(frame.time_s, at_s))
                _wake(loop, changed)
                if not lag.catching_up:
                    _wake(loop, steady)
            if not self._loop:
                return
            reader.close()
            reader = self._connect()

    def _release(self) -> None:
        self._newest = self._shown = None
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _note(self, kind: str, problem: str) -> None:
        self.counters[kind] += 1
        if self.counters[kind] == 1:
            _log.warning("video is damaged", camera=self._camera, kind=kind, problem=problem)


def _wake(loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> None:
    # The frame stands before the flag is read: who clears it looks for a frame once more before waiting.
    if not changed.is_set():
        try:
            loop.call_soon_threadsafe(changed.set)
        except RuntimeError:  # the loop has ended; so will this thread
            return
