"""Image files as rivals: what the same model answers from JPEG, WebP and AVIF of every useful size."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features


@dataclass(frozen=True, slots=True)
class ImageSetting:
    """One way to write an image file.

    Attributes:
        format: `JPEG` (optimised, progressive), `WEBP` (method 6) or `AVIF` (speed 4).
        size_px: Height and width it is resized to first.
        quality: Of the encoder, 0 to 100.
    """

    format: str
    size_px: int
    quality: int

    def __str__(self) -> str:
        return f"{self.format} {self.size_px} px q{self.quality}"


_OPTIONS: Final[dict[str, dict[str, int | bool]]] = {
    "JPEG": {"optimize": True, "progressive": True},
    "WEBP": {"method": 6},
    "AVIF": {"speed": 4},
}


def default_settings(size_px: int) -> list[ImageSetting]:
    """Settings that cover the useful range for a model with inputs of `size_px`."""
    qualities = {"JPEG": (10, 30, 60, 90), "WEBP": (0, 5, 10, 30, 60, 90), "AVIF": (5, 15, 30, 60, 85)}
    formats = [name for name in qualities if name != "AVIF" or features.check("avif")]
    sizes = [size_px * share // 8 for share in (3, 4, 6, 8)]
    return [ImageSetting(name, size, quality) for name in formats for size in sizes for quality in qualities[name]]


def through_image_files(
    frames: NDArray[np.uint8], setting: ImageSetting
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Frames as the far end sees them.

    Args:
        frames: uint8 [F, H, W, 3].
        setting: How they are written.

    Returns:
        The decoded frames at their first size, uint8 [F, H, W, 3], and the files' sizes in bytes [F].
    """
    decoded = np.empty(frames.shape, dtype=np.uint8)
    sizes = np.empty(len(frames), dtype=np.int64)
    for index, frame in enumerate(frames):
        image = Image.fromarray(np.asarray(frame))
        if setting.size_px != image.width:
            image = image.resize((setting.size_px, setting.size_px), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        image.save(out, setting.format, quality=setting.quality, **_OPTIONS[setting.format])
        sizes[index] = out.tell()
        with Image.open(out) as file:
            decoded[index] = np.asarray(file.convert("RGB").resize(frame.shape[1::-1], Image.Resampling.BICUBIC))
    return decoded, sizes
