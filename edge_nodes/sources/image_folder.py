"""A folder of pictures: one that a camera uploads to, or a set that is played."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_nodes.sources.base import CapturedFrame
from edge_nodes.sources.reasons import reason_of, words_of
from edge_nodes.sources.still_picture import MAX_PICTURE_BYTES, read_picture
from pipeline.config.logs import get_logger
from pipeline.node.clock import Clock, MonotonicClock
from pipeline.node.work_thread import WorkThread
from schemas.errors import SourceError
from schemas.types import SourceReason

_log = get_logger(__name__)

POLL_S: Final = 0.5
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


class _Entry(NamedTuple):
    changed_ns: int
    name: str
    size_bytes: int


class ImageFolder:
    """A :class:`~edge_nodes.sources.base.FrameSource` of the pictures in one folder.

    Live, it shows the newest picture by time of change, once, and waits for the next: what came between two frames is
    left out. A picture that is still being written does not decode, and is tried again once it has changed. Played, it
    shows every picture, one a frame, in the order of their names.

    Args:
        camera: name of the camera.
        folder: where the pictures are; folders in it are not looked at.
        live: wait for new pictures, instead of playing those that are there.
        loop: played, begin again after the last one.
        clock: what the camera waits by.

    Attributes:
        counters: ``corrupt_frame``.
    """

    def __init__(self, camera: str, folder: Path, *, live: bool, loop: bool = True, clock: Clock | None = None) -> None:
        self.counters: Counter[str] = Counter()
        self._camera = camera
        self._folder = folder
        self._live = live
        self._loop = loop
        self._clock = clock or MonotonicClock()
        self._thread: WorkThread | None = None
        self._last: _Entry | None = None
        self._damaged: _Entry | None = None
        self._left: list[_Entry] = []
        self._index = 0
        self._opened_s = 0.0

    async def open(self) -> None:
        """Look into the folder.

        Raises:
            SourceError: it cannot be read, or there is nothing to play.
        """
        self._thread = WorkThread(f"camera-{self._camera}")
        self._index, self._opened_s = 0, self._clock.now_s()
        self._left = self._in_order(await self._thread.call(self._entries))
        if not self._live and not self._left:
            raise SourceError(str(self._folder), f"no picture in it ({_names()})", SourceReason.NOT_FOUND)

    async def newest(self) -> CapturedFrame | None:
        """The newest picture that was not shown yet, or the next one.

        Returns:
            None after the last one of those that are played once.

        Raises:
            SourceError: the folder cannot be read, or not one picture of it; or it is not open.
        """
        while True:
            if self._thread is None:
                raise SourceError(str(self._folder), "is not open")
            step = self._next_live if self._live else self._next_played
            pixels = await self._thread.call(step)
            if pixels is not None:
                frame = CapturedFrame(self._camera, self._index, self._clock.now_s() - self._opened_s, pixels)
                self._index += 1
                return frame
            if not self._live:
                return None
            await self._clock.sleep(POLL_S)

    async def close(self) -> None:
        """End the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.end()

    # ---- in the thread ----------------------------------------------------------------------------------------------

    def _next_live(self) -> NDArray[np.uint8] | None:
        newest = max(self._entries(), default=None)
        if newest is None or newest == self._damaged or (self._last is not None and newest <= self._last):
            return None
        pixels = self._read(newest)
        if pixels is None:
            self._damaged = newest
        else:
            self._last = newest
        return pixels

    def _next_played(self) -> NDArray[np.uint8] | None:
        damaged = 0
        while True:
            if not self._left:
                if not self._loop:
                    return None
                self._left = self._in_order(self._entries())
                if damaged >= len(self._left):
                    raise SourceError(str(self._folder), "no picture in it decodes", SourceReason.CODEC)
            pixels = self._read(self._left.pop())
            if pixels is not None:
                return pixels
            damaged += 1

    def _in_order(self, entries: list[_Entry]) -> list[_Entry]:
        return sorted(entries, key=lambda entry: entry.name, reverse=True)

    def _entries(self) -> list[_Entry]:
        found = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file():
                        stat = entry.stat()
                        found.append(_Entry(stat.st_mtime_ns, entry.name, stat.st_size))
        except FileNotFoundError as error:
            if not self._folder.is_dir():
                raise SourceError(str(self._folder), "no such folder", SourceReason.NOT_FOUND) from error
            return found  # a picture was taken away meanwhile
        except OSError as error:
            raise SourceError(str(self._folder), f"cannot be read: {words_of(error)}", reason_of(error)) from error
        return found

    def _read(self, entry: _Entry) -> NDArray[np.uint8] | None:
        path = self._folder / entry.name
        try:
            if entry.size_bytes > MAX_PICTURE_BYTES:
                problem = f"{entry.size_bytes} bytes are over the limit of {MAX_PICTURE_BYTES}"
                raise SourceError(str(path), problem, SourceReason.CODEC)
            return read_picture(path.read_bytes(), str(path))
        except (OSError, SourceError) as error:
            self.counters["corrupt_frame"] += 1
            if self.counters["corrupt_frame"] == 1:
                _log.warning("picture is left out", camera=self._camera, problem=str(error))
            return None


def _names() -> str:
    return ", ".join(sorted(SUFFIXES))
