"""A video file that plays in real time, as a camera would."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from edge_nodes.clock import Clock, MonotonicClock
from edge_nodes.sources.base import CapturedFrame
from edge_nodes.work_thread import WorkThread
from schemas.errors import SourceError

MAX_CATCH_UP_S = 30.0
"""Media time that one call decodes at most. After a longer pause the video goes on where it was, instead of burning
seconds of processor time to reach a place that nobody has asked for."""

_DEFAULT_FPS = 25.0


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A frame out of the decoder, not yet converted.

    Attributes:
        index: position in the file, 0 for the first.
        time_s: presentation time from the first frame on.
        picture: the decoder's frame.
    """

    index: int
    time_s: float
    picture: av.VideoFrame

    def pixels(self) -> NDArray[np.uint8]:
        """RGB, uint8 [H, W, 3], upright: phones write a rotation beside the pixels."""
        pixels = np.asarray(self.picture.to_ndarray(format="rgb24"), dtype=np.uint8)
        quarter_turns = round(self.picture.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, quarter_turns)) if quarter_turns else pixels


class VideoReader:
    """Decodes the first video stream of a file, frame by frame. Blocking; one thread at a time.

    Args:
        path: the file.

    Attributes:
        damaged_packets: packets that did not decode and were skipped.

    Raises:
        SourceError: no such file, or no video in it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damaged_packets = 0
        try:
            # A playlist must not make the edge fetch from the network.
            self._container = av.open(
                str(path.absolute()), mode="r", options={"protocol_whitelist": "file,crypto,data"}
            )
        except (OSError, av.FFmpegError) as error:
            raise SourceError(str(path), f"cannot be opened: {_words(error)}") from error
        if not self._container.streams.video:
            self._container.close()
            raise SourceError(str(path), "has no video stream")
        self._stream = self._container.streams.video[0]
        # One thread a camera: frame threads would multiply the memory of the decoder by the number of cores.
        self._stream.codec_context.thread_count = 1
        rate = self._stream.average_rate
        self.fps = float(rate) if rate else _DEFAULT_FPS

    def frames(self) -> Iterator[DecodedFrame]:
        """One pass through the file, from its beginning.

        Raises:
            SourceError: not one frame decodes.
        """
        index = 0
        first_s: float | None = None
        time_s = -1.0
        problem = "no frame in it"
        self._container.seek(0)
        try:
            for packet in self._container.demux(self._stream):
                try:
                    pictures = packet.decode()
                except av.FFmpegError as error:
                    self.damaged_packets += 1
                    problem = _words(error)
                    continue
                for picture in pictures:
                    stamp_s = picture.time if picture.time is not None else index / self.fps
                    first_s = stamp_s if first_s is None else first_s
                    # A file with broken time stamps must still play forwards.
                    time_s = max(stamp_s - first_s, time_s + 1e-6) if index else 0.0
                    yield DecodedFrame(index, time_s, picture)
                    index += 1
        except (OSError, av.FFmpegError) as error:
            # The end of a file that was cut off in the middle: what came before it is good.
            self.damaged_packets += 1
            problem = _words(error)
        if index == 0:
            raise SourceError(str(self._path), f"no frame decodes: {problem}")

    def close(self) -> None:
        """Release the file."""
        self._container.close()


class VideoFile:
    """A :class:`~edge_nodes.sources.base.FrameSource` that plays a file at its own pace.

    ``newest`` decodes up to the present and converts only the last frame; what nobody asked for is never kept.

    Args:
        camera: name of the camera.
        path: the file.
        loop: start again at the end.
        clock: what the file plays by.

    Attributes:
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
            await self.close()
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
        """Release file and thread."""
        self._closing.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.close(self._release)

    # ---- in the thread ----------------------------------------------------------------------------------------------

    def _start(self, now_s: float) -> None:
        self._reader = VideoReader(self._path)
        self._frames = self._reader.frames()
        self._ahead = next(self._frames)
        self._pass_start_s = now_s

    def _advance(self, now_s: float) -> tuple[CapturedFrame | None, float | None]:
        """The newest frame that is due, or when the next one will be; None twice at the end of the file."""
        behind_s = now_s - self._due_s() if self._ahead is not None else 0.0
        if behind_s > MAX_CATCH_UP_S:
            self._pass_start_s += behind_s - MAX_CATCH_UP_S
            self.skipped_s += behind_s - MAX_CATCH_UP_S
        newest: DecodedFrame | None = None
        while self._ahead is not None and self._due_s() <= now_s and not self._closing.is_set():
            newest = self._ahead
            self._ahead = self._next()
        if newest is not None:
            return CapturedFrame(self._camera, newest.index, newest.time_s, newest.pixels()), None
        return None, None if self._ahead is None else self._due_s()

    def _due_s(self) -> float:
        assert self._ahead is not None  # noqa: S101 - both callers have just looked
        return self._pass_start_s + self._ahead.time_s

    def _next(self) -> DecodedFrame | None:
        following = next(self._frames, None)
        if following is None and self._loop and self._reader is not None and self._ahead is not None:
            # The last frame is shown for one frame period before the first one comes again.
            self._pass_start_s += self._ahead.time_s + 1 / self._reader.fps
            self._frames = self._reader.frames()
            following = next(self._frames)
        return following

    def _release(self) -> None:
        self._frames, self._ahead = iter(()), None
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _words(error: Exception) -> str:
    """What the library says, without the path that it repeats."""
    return getattr(error, "strerror", None) or str(error)
