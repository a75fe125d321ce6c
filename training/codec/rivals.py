"""Image files as rivals: JPEG, WebP and AVIF of every useful size, and what of their bytes is container."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

_GREY: Final = (118, 122, 120)


@dataclass(frozen=True, slots=True)
class ImageSetting:
    """One way to write an image file.

    Attributes:
        format: `JPEG` (optimised, progressive), `WEBP` (method 6) or `AVIF`.
        size_px: Height and width it is resized to first.
        quality: Of the encoder, 0 to 100.
        speed: Of the AVIF encoder: 4 writes files a fortieth smaller than 6 and takes five times as long.
    """

    format: str
    size_px: int
    quality: int
    speed: int = 4

    def __str__(self) -> str:
        return f"{self.format} {self.size_px} px q{self.quality}"

    def at_speed(self, speed: int) -> Self:
        """The same with another effort of the AVIF encoder."""
        return replace(self, speed=speed)

    def options(self) -> dict[str, Any]:
        """Arguments of Pillow's `save`."""
        match self.format:
            case "JPEG":
                return {"quality": self.quality, "optimize": True, "progressive": True}
            case "WEBP":
                return {"quality": self.quality, "method": 6}
            case _:  # one thread for each file: they are small, and several are written at once
                return {"quality": self.quality, "speed": self.speed, "max_threads": 1}


def default_settings(size_px: int) -> list[ImageSetting]:
    """Settings that cover the useful range for a model with inputs of `size_px`."""
    qualities = {"JPEG": (10, 30, 60, 90), "WEBP": (0, 5, 10, 30, 60, 90), "AVIF": (5, 15, 30, 60, 85)}
    sizes = [size_px * share // 8 for share in (3, 4, 6, 8)]
    return [ImageSetting(name, size, quality) for name in _formats() for size in sizes for quality in qualities[name]]


def full_grid(size_px: int) -> list[ImageSetting]:
    """Every setting that is looked at: from 32 px to the full size, from the worst quality to a good one."""
    qualities = {
        "JPEG": (10, 30, 60),
        "WEBP": (0, 10, 30, 60),
        "AVIF": (5, 20, 40, 65),
    }
    steps = (32, 48, 64, 96, 128, 192, 256, 384, 512)
    sizes = sorted({min(32, size_px), *(size for size in steps if size < size_px), size_px})
    return [ImageSetting(name, size, quality) for name in _formats() for size in sizes for quality in qualities[name]]


def quick_grid(size_px: int) -> list[ImageSetting]:
    """A few settings that span the range."""
    sizes = sorted({max(min(32, size_px), size_px * share // 8) for share in (2, 4)})
    return [ImageSetting("WEBP", size, quality) for size in sizes for quality in (0, 20, 60)]


def through_image_files(
    frames: NDArray[np.uint8], setting: ImageSetting, *, threads: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Frames as the far end sees them.

    Args:
        frames: uint8 [F, H, W, 3].
        setting: How they are written.
        threads: Files that are written at once.

    Returns:
        The decoded frames at their first size, uint8 [F, H, W, 3], and the files' sizes in bytes [F].
    """
    decoded = np.empty(frames.shape, dtype=np.uint8)
    sizes = np.empty(len(frames), dtype=np.int64)

    def write(index: int) -> None:
        decoded[index], sizes[index] = _through(np.asarray(frames[index]), setting)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(len(frames))))
    return decoded, sizes


@cache
def container_bytes(setting: ImageSetting) -> int:
    """Bytes of a file of one grey area: container, headers and tables, and the little that an empty picture takes.

    Taking them off a file is in the rival's favour, since a stream without a container still says what is empty.
    """
    out = io.BytesIO()
    grey = Image.new("RGB", (setting.size_px, setting.size_px), _GREY)
    grey.save(out, setting.format, **setting.options())
    return out.tell()


def _through(frame: NDArray[np.uint8], setting: ImageSetting) -> tuple[NDArray[np.uint8], int]:
    image = Image.fromarray(frame)
    if setting.size_px != image.width:
        image = image.resize((setting.size_px, setting.size_px), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, setting.format, **setting.options())
    size = out.tell()
    with Image.open(out) as file:
        return np.asarray(file.convert("RGB").resize(frame.shape[1::-1], Image.Resampling.BICUBIC)), size


def _formats() -> list[str]:
    return ["JPEG", "WEBP", *(["AVIF"] if features.check("avif") else [])]
