"""Where somebody's own pictures come from: a folder, a zip of one, or a video."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_nodes.sources.image_folder import SUFFIXES
from edge_nodes.sources.still_picture import MAX_PICTURE_BYTES, read_picture
from edge_nodes.sources.video_reader import VideoReader
from schemas.errors import ConfigError, SourceError

_ROUNDING: Final = 1e-6
"""Of a span: times that are meant to be whole numbers of spans may come a rounding below."""
_DAMAGED_MEMBER: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What a member of a zip raises that is damaged, encrypted or packed in a way that is not known."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was found.

    Attributes:
        name: Its path within the folder; of a frame, its time in the video.
        pixels: RGB, uint8 [H, W, 3]; None where it cannot be read.
        problem: Why not.
    """

    name: str
    pixels: NDArray[np.uint8] | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PictureSource:
    """Pictures of a folder, a zip or a video.

    Attributes:
        path: Where they are.
        names: All of them, sorted; of a video none, since nobody has counted its frames.
        video: Whether they follow one another.
        sha256: Differs whenever the pictures may: of names, sizes and times of change.
    """

    path: Path
    names: tuple[str, ...]
    video: bool
    sha256: str

    def read(self, names: Iterator[str]) -> Iterator[Picture]:
        """Pictures by name, one at a time; those that cannot be read have a problem."""
        if self.path.is_dir():
            for name in names:
                path = self.path / name
                try:
                    yield _decoded(name, path.read_bytes() if _fits(path.stat().st_size) else None)
                except OSError as error:
                    yield Picture(name, None, f"cannot be read: {error.strerror or error}")
            return
        with zipfile.ZipFile(self.path) as archive:
            for name in names:
                try:
                    yield _decoded(name, archive.read(name) if _fits(archive.getinfo(name).file_size) else None)
                except _DAMAGED_MEMBER as error:
                    yield Picture(name, None, f"cannot be unpacked: {str(error)[:100]}")

    def frames(self, every_s: float) -> Iterator[Picture]:
        """Frames of a video, one for each span of so many seconds.

        Raises:
            SourceError: not one frame decodes.
        """
        reader = VideoReader(self.path)
        try:
            last = -1
            for frame in reader.frames():
                span = math.floor(frame.time_s / every_s + _ROUNDING)
                if span > last:
                    yield Picture(f"{frame.time_s:.2f} s", frame.pixels())
                    last = span
        finally:
            reader.close()


def open_pictures(path: Path) -> PictureSource:
    """Look at a folder, a zip or a video; nothing is decoded yet.

    Raises:
        ConfigError: there is nothing, or no picture in it.
    """
    if path.is_dir():
        files = sorted(found for found in path.rglob("*") if found.suffix.lower() in SUFFIXES and found.is_file())
        listed = [[file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
        return _named(path, [str(name) for name, *_ in listed], listed)
    if not path.is_file():
        raise ConfigError("--images", f"no such folder, zip or video: {path}")
    stat = path.stat()
    listed = [[path.name, stat.st_size, stat.st_mtime_ns]]
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = sorted(name for name in archive.namelist() if PurePosixPath(name).suffix.lower() in SUFFIXES)
        except (*_DAMAGED_MEMBER, OSError) as error:
            raise ConfigError("--images", f"{path} is a damaged zip: {str(error)[:100]}") from error
        return _named(path, names, listed)
    try:
        VideoReader(path).close()
    except SourceError as error:
        raise ConfigError("--images", f"{path} is no folder, no zip and no video: {error.problem}") from error
    return PictureSource(path, (), True, _digest(listed))


def _named(path: Path, names: list[str], listed: Sequence[Sequence[object]]) -> PictureSource:
    if not names:
        raise ConfigError("--images", f"no picture in {path} ({', '.join(sorted(SUFFIXES))})")
    return PictureSource(path, tuple(names), False, _digest(listed))


def _digest(listed: Sequence[Sequence[object]]) -> str:
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _fits(size_bytes: int) -> bool:
    return size_bytes <= MAX_PICTURE_BYTES


def _decoded(name: str, data: bytes | None) -> Picture:
    if data is None:
        return Picture(name, None, f"is over the limit of {MAX_PICTURE_BYTES} bytes")
    try:
        return Picture(name, read_picture(data, name))
    except SourceError as error:
        return Picture(name, None, error.problem)
