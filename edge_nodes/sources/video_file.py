"""A video file that plays in real time, as a camera would."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from edge_nodes.sources.base import CapturedFrame
from edge_nodes.sources.video_reader import DecodedFrame, VideoReader
from pipeline.config.logs import get_logger
from pipeline.node.clock import Clock, MonotonicClock
from pipeline.node.work_thread import WorkThread
from schemas.errors import SourceError

_log = get_logger(__name__)

MAX_CATCH_UP_S = 30.0
"""Media time that one call decodes at most. After a longer pause the video goes on where it was, instead of burning
seconds of processor time to reach a place that nobody has asked for."""


class VideoFile:
    """A :class:`~edge_nodes.sources.base.FrameSource` that plays a file at its own pace.

    ``newest`` decodes up to the present and converts only the last frame; what nobody asked for is never kept.

    Args:
        camera: name of the camera.
        path: the file.
        loop: start again at the end.
        clock: what the file plays by.

    Attributes:
        counters: ``damaged_packet``, ``corrupt_frame``, ``splice``.
        skipped_s: media time that was given up because decoding could not keep pace, or nobody asked for long.
    """

    def __init__(self, camera: str, path: Path, *, loop: bool = True, clock: Clock | None = None) -> None:
        self._camera = camera
        self._path = path
        self._loop = loop
        self._clock = clock or MonotonicClock()
        self._thread: WorkThread | None = None
        self._reader: VideoReader | None = None
        self._frames: Iterator[DecodedFrame] = iter(())
        self._ahead: DecodedFrame | None = None
        self._pass_start_s = 0.0
        self._closing = threading.Event()
        self.counters: Counter[str] = Counter()
        self.skipped_s = 0.0

    async def open(self) -> None:
        """Open the file; its first frame is due now.

        Raises:
            SourceError: it is no video.
        """
        self._closing.clear()
        self._thread = WorkThread(f"camera-{self._camera}")
        try:
            await self._thread.call(self._start, self._clock.now_s())
        except BaseException:
            self._end()
            raise

    async def newest(self) -> CapturedFrame | None:
        """The frame that a camera would show now; waits for the next one if it was returned already.

        Raises:
            SourceError: the file cannot be read any more, or is not open.
        """
        while True:
            if self._thread is None:
                raise SourceError(str(self._path), "is not open")
            frame, due_s = await self._thread.call(self._advance, self._clock.now_s())
            if frame is not None or due_s is None:
                return frame
            await self._clock.sleep(due_s - self._clock.now_s())

    async def close(self) -> None:
        """Release file and thread, as soon as the thread is free."""
        ended = self._end()
        if ended is not None:
            await asyncio.shield(asyncio.wrap_future(ended))

    def _end(self) -> Future[None] | None:
        self._closing.set()
        thread, self._thread = self._thread, None
        return None if thread is None else thread.end(self._release)

    # ---- in the thread ----------------------------------------------------------------------------------------------

    def _start(self, now_s: float) -> None:
        self._begin_pass()
        self._pass_start_s = now_s

    def _begin_pass(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = VideoReader(self._path, self._note)
        self._frames = self._reader.frames()
        self._ahead = next(self._frames)

    def _advance(self, now_s: float) -> tuple[CapturedFrame | None, float | None]:
        """The newest frame that is due, or when the next one will be; None twice at the end of the file."""
        behind_s = now_s - self._due_s() if self._ahead is not None else 0.0
        if behind_s > MAX_CATCH_UP_S:
            self._pass_start_s += behind_s - MAX_CATCH_UP_S
            self.skipped_s += behind_s - MAX_CATCH_UP_S
        newest: DecodedFrame | None = None
        while self._ahead is not None and self._due_s() <= now_s and not self._closing.is_set():
            newest = self._ahead
            self._go_on(newest, now_s)
        if newest is not None:
            return CapturedFrame(self._camera, newest.index, newest.time_s, newest.pixels()), None
        return None, None if self._ahead is None else self._due_s()

    def _due_s(self) -> float:
        assert self._ahead is not None  # noqa: S101 - both callers have just looked
        return self._pass_start_s + self._ahead.time_s

    def _go_on(self, last: DecodedFrame, now_s: float) -> None:
        """Look one frame ahead."""
        self._ahead = next(self._frames, None)
        if self._ahead is None and self._loop and self._reader is not None:
            # The last frame is shown for one frame period before the first one comes again.
            pass_s = last.time_s + self._reader.period_s
            # Passes that lie wholly in the past need not be decoded.
            self._pass_start_s += pass_s * max(1, math.floor((now_s - self._pass_start_s) / pass_s))
            self._begin_pass()

    def _note(self, kind: str, problem: str) -> None:
        self.counters[kind] += 1
        if self.counters[kind] == 1:
            _log.warning("video is damaged", camera=self._camera, kind=kind, problem=problem)

    def _release(self) -> None:
        self._frames, self._ahead = iter(()), None
        if self._reader is not None:
            self._reader.close()
            self._reader = None
