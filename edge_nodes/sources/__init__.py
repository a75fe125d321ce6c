"""Cameras by the way they are configured: by the scheme of their source; what has none is a video file.

Another kind of camera is a class with the methods of :class:`~edge_nodes.sources.base.FrameSource`, in a package of
its own that names a factory in the entry point group ``latentbus.sources``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edge_nodes.sources.address import VIDEO_SCHEMES, device_address, network_address
from edge_nodes.sources.base import CapturedFrame, FrameSource, WatchedSource, redacted
from edge_nodes.sources.image_folder import ImageFolder
from edge_nodes.sources.live_video import LiveVideo
from edge_nodes.sources.plugins import GROUP, SourceFactory, plugin_factory, plugin_schemes
from edge_nodes.sources.rendered_camera import RenderedCamera
from edge_nodes.sources.snapshot import Snapshots
from edge_nodes.sources.state import SourceMachine, SourceState
from edge_nodes.sources.video_file import VideoFile
from pipeline.config.camera_settings import CameraSettings
from schemas.errors import SourceError
from schemas.types import SourceReason


def _video_file(camera: str, settings: CameraSettings) -> FrameSource:
    return VideoFile(camera, Path(settings.source.removeprefix("file:")), loop=settings.loop)


def _rendered_camera(camera: str, settings: CameraSettings) -> FrameSource:
    return RenderedCamera.from_source(camera, settings.source)


def _network_video(camera: str, settings: CameraSettings) -> FrameSource:
    address = network_address(settings.source, stall_s=settings.stall_s, verify_tls=settings.verify_tls)
    return LiveVideo(camera, address, interval_s=settings.interval_s, stall_s=settings.stall_s, loop=settings.loop)


def _device(camera: str, settings: CameraSettings) -> FrameSource:
    device = settings.source.partition(":")[2]
    if not device.startswith("/"):
        raise SourceError(settings.source, "names no device: write v4l2:/dev/video0", SourceReason.NOT_FOUND)
    address = device_address(device, stall_s=settings.stall_s)
    return LiveVideo(camera, address, interval_s=settings.interval_s, stall_s=settings.stall_s)


def _snapshots(camera: str, settings: CameraSettings) -> FrameSource:
    return Snapshots(camera, settings.source, stall_s=settings.stall_s, verify_tls=settings.verify_tls)


def _folder(camera: str, settings: CameraSettings) -> FrameSource:
    scheme, _, path = settings.source.partition(":")
    if not path:
        raise SourceError(settings.source, f"names no folder: write {scheme}:PATH", SourceReason.NOT_FOUND)
    return ImageFolder(camera, Path(path), live=scheme.lower() == "folder", loop=settings.loop)


FACTORIES: Final[dict[str, SourceFactory]] = {
    "file": _video_file,
    "folder": _folder,
    "images": _folder,
    "snapshot": _snapshots,
    "test": _rendered_camera,
    "v4l2": _device,
    **dict.fromkeys(VIDEO_SCHEMES, _network_video),
}
"""Kinds of cameras by the scheme of their source."""


def make_source(camera: str, settings: CameraSettings) -> FrameSource:
    """The source of a camera, not yet open.

    Raises:
        SourceError: there is no such kind of source, or it is none of that kind.
    """
    scheme, colon, _ = settings.source.partition(":")
    # A single letter before the colon is a Windows drive.
    if not colon or len(scheme) == 1 or "/" in scheme:
        scheme = "file"
    factory = FACTORIES.get(scheme.lower()) or plugin_factory(scheme.lower())
    if factory is None:
        known = ", ".join(f"{name}:" for name in sorted({*FACTORIES, *plugin_schemes()}))
        problem = f"no source of kind {scheme!r}: give the path of a video file, or one of {known}"
        raise SourceError(redacted(settings.source), problem)
    return factory(camera, settings)


__all__ = [
    "FACTORIES",
    "GROUP",
    "CapturedFrame",
    "FrameSource",
    "SourceFactory",
    "SourceMachine",
    "SourceState",
    "WatchedSource",
    "make_source",
    "redacted",
]
