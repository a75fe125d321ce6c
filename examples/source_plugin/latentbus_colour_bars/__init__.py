"""A camera of colour bars that move: ``source: bars:SECONDS`` shows a new frame every so many seconds.

Copy it for a camera that has a library of its own. The edge pulls: it calls ``newest`` when it has a use for a frame,
one call at a time, on its event loop. A library that blocks belongs into a thread of its own
(:class:`pipeline.node.work_thread.WorkThread`), and a camera that does not wait for its reader keeps its newest frame
alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np

from edge_nodes.sources.base import CapturedFrame, FrameSource
from pipeline.config.camera_settings import CameraSettings
from schemas.errors import SourceError
from schemas.types import SourceReason

BARS = np.array(
    [[255, 255, 255], [255, 255, 0], [0, 255, 255], [0, 255, 0], [255, 0, 255], [255, 0, 0], [0, 0, 255]], np.uint8
)
HEIGHT_PX, BAR_PX = 120, 24


class ColourBars:
    """A :class:`~edge_nodes.sources.base.FrameSource` of bars that move by one a frame.

    Args:
        camera: name of the camera.
        period_s: time between frames.

    Attributes:
        counters: stays empty.
    """

    def __init__(self, camera: str, period_s: float) -> None:
        self.counters: Counter[str] = Counter()
        self._camera = camera
        self._period_s = period_s
        self._index = -1

    async def open(self) -> None:
        """Begin anew."""
        self._index = -1

    async def newest(self) -> CapturedFrame | None:
        """The next frame, after its time."""
        await asyncio.sleep(self._period_s)
        self._index += 1
        line = np.repeat(np.roll(BARS, self._index, axis=0), BAR_PX, axis=0)
        pixels = np.repeat(line[np.newaxis], HEIGHT_PX, axis=0)
        return CapturedFrame(self._camera, self._index, self._index * self._period_s, pixels)

    async def close(self) -> None:
        """Nothing is held."""


def make(camera: str, settings: CameraSettings) -> FrameSource:
    """The entry point.

    Args:
        camera: name of the camera.
        settings: of the camera; ``source`` begins with the name of the entry point.

    Raises:
        SourceError: ``source`` does not read as it should.
    """
    text = settings.source.partition(":")[2]
    try:
        period_s = float(text)
    except ValueError:
        period_s = -1.0
    if not 0 <= period_s <= 3600:
        raise SourceError(settings.source, "write bars:SECONDS, 0 to 3600", SourceReason.NOT_FOUND)
    return ColourBars(camera, period_s)
