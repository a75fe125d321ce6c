"""What of a camera's frames is looked at, for every kind of source: masks, region, and how a frame becomes a square."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_nodes.sources.base import CapturedFrame, FrameSource, WatchedSource
from pipeline.codec.frame_fit import as_square, black_out, cut_out, masked_pixels
from pipeline.codec.spec import FitMode
from pipeline.config.camera_settings import CameraSettings
from pipeline.node.work_thread import WorkThread


class ViewedSource:
    """A :class:`~edge_nodes.sources.base.FrameSource` that shows of another one what may be looked at.

    Masks lie between the source and everything else: no encoder, observer, ring or snapshot has the pixels behind them.

    Args:
        camera: name of the camera.
        source: where the frames come from.
        settings: of the camera.
        fit: how a frame becomes a square; None leaves it to the codec.

    Attributes:
        counters: those of the source.
    """

    def __init__(self, camera: str, source: FrameSource, settings: CameraSettings, fit: FitMode | None) -> None:
        self.counters = source.counters
        self._fit: FitMode | None = fit
        self._camera = camera
        self._source = source
        self._settings = settings
        self._thread: WorkThread | None = None
        self._hidden: NDArray[np.bool_] | None = None

    async def open(self) -> None:
        """Open the source."""
        self._thread = self._thread or WorkThread(f"view-{self._camera}")
        await self._source.open()

    async def newest(self) -> CapturedFrame | None:
        """The newest frame of the source, as it may be looked at."""
        captured = await self._source.newest()
        # What is no picture is refused by who takes the frame.
        if captured is None or self._thread is None or captured.pixels.ndim != 3 or captured.pixels.size == 0:
            return captured
        return replace(captured, pixels=await self._thread.call(self._view, captured.pixels))

    async def close(self) -> None:
        """Close the source."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.end()
        await self._source.close()

    def _view(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        settings = self._settings
        if settings.masks:
            height, width = pixels.shape[:2]
            if self._hidden is None or self._hidden.shape != (height, width):
                self._hidden = masked_pixels(settings.masks, height, width)
            pixels = black_out(pixels, self._hidden)
        if settings.region is not None:
            pixels = cut_out(pixels, settings.region)
        # No rule of a codec changes the proportions of a square.
        return pixels if self._fit is None else as_square(pixels, self._fit)


class WatchedView(ViewedSource):
    """The view of a source that knows when it is lost."""

    def __init__(self, camera: str, source: WatchedSource, settings: CameraSettings, fit: FitMode | None) -> None:
        super().__init__(camera, source, settings, fit)
        self._watched = source

    async def watch(self) -> None:
        """See :class:`~edge_nodes.sources.base.WatchedSource`."""
        await self._watched.watch()


def viewed(camera: str, source: FrameSource, settings: CameraSettings, codec: FitMode) -> FrameSource:
    """The source, seen as the settings of its camera say; itself where they say nothing.

    Args:
        camera: its name.
        source: where its frames come from.
        settings: of the camera.
        codec: how the codec makes a square of a frame.
    """
    fit = None if settings.fit == codec else settings.fit
    if settings.region is None and fit is None and not settings.masks:
        return source
    if isinstance(source, WatchedSource):
        return WatchedView(camera, source, settings, fit)
    return ViewedSource(camera, source, settings, fit)
