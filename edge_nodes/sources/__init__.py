"""Cameras by the way they are configured: ``test:7`` is rendered, anything without a scheme is a video file.

Another kind of camera is a class with the methods of :class:`~edge_nodes.sources.base.FrameSource` and one line in
:data:`FACTORIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_nodes.sources.base import CapturedFrame, FrameSource, redacted
from edge_nodes.sources.rendered_camera import RenderedCamera
from edge_nodes.sources.video_file import VideoFile
from pipeline.config.settings import CameraSettings
from schemas.errors import SourceError

SourceFactory = Callable[[str, CameraSettings], FrameSource]
"""Makes the source of a camera from its name and settings; opens nothing yet."""


def _video_file(camera: str, settings: CameraSettings) -> FrameSource:
    return VideoFile(camera, Path(settings.source.removeprefix("file:")), loop=settings.loop)


def _rendered_camera(camera: str, settings: CameraSettings) -> FrameSource:
    return RenderedCamera.from_source(camera, settings.source)


FACTORIES: dict[str, SourceFactory] = {"file": _video_file, "test": _rendered_camera}
"""Kinds of cameras by the scheme of their source."""


def make_source(camera: str, settings: CameraSettings) -> FrameSource:
    """The source of a camera, not yet open.

    Raises:
        SourceError: there is no such kind of source.
    """
    scheme, colon, _ = settings.source.partition(":")
    # A single letter before the colon is a Windows drive.
    if not colon or len(scheme) == 1 or "/" in scheme:
        scheme = "file"
    factory = FACTORIES.get(scheme.lower())
    if factory is None:
        known = ", ".join(f"{name}:" for name in sorted(FACTORIES))
        raise SourceError(
            redacted(settings.source), f"no source of kind {scheme!r}: give the path of a video file, or one of {known}"
        )
    return factory(camera, settings)


__all__ = ["FACTORIES", "CapturedFrame", "FrameSource", "SourceFactory", "make_source", "redacted"]
