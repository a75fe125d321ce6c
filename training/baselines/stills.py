"""Image files as baselines: JPEG, WebP, AVIF and JPEG XL of every useful size, and what of their bytes is container."""

from __future__ import annotations

import importlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

StillFormat: TypeAlias = Literal["JPEG", "WEBP", "AVIF", "JXL"]

_GREY: Final = 120
_JXL_EFFORT: Final = 7
_QUALITIES: Final[dict[StillFormat, tuple[int, ...]]] = {
    "JPEG": (5, 10, 20, 30, 45, 60, 80),
    "WEBP": (0, 5, 10, 20, 30, 45, 60, 80),
    "AVIF": (1, 5, 10, 20, 30, 40, 55, 70),
    "JXL": (5, 10, 20, 30, 45, 60, 80),
}
_SIZES_PX: Final = (32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True, slots=True)
class StillCoder:
    """One way to write a picture.

    Attributes:
        format: `JPEG` (optimised, progressive), `WEBP` (method 6), `AVIF` or `JXL` (JPEG XL, effort 7).
        quality: Of the encoder, 0 to 100.
        speed: Of the AVIF encoder: 4 writes files a fortieth smaller than 6 and takes five times as long.
    """

    format: StillFormat
    quality: int
    speed: int = 4

    def encode(self, picture: NDArray[np.uint8]) -> bytes:
        """A whole file.

        Args:
            picture: RGB uint8 [H, W, 3], or grey uint8 [H, W].
        """
        if self.format == "JXL":
            codec: Any = _jpeg_xl()
            return bytes(codec.jpegxl_encode(picture, level=self.quality, effort=_JXL_EFFORT, numthreads=1))
        out = io.BytesIO()
        Image.fromarray(picture).save(out, self.format, **self._options(grey=picture.ndim == 2))
        return out.getvalue()

    def decode(self, data: bytes, *, grey: bool = False) -> NDArray[np.uint8]:
        """What a file shows: uint8 [H, W, 3], or [H, W] if it is grey."""
        if self.format == "JXL":
            codec: Any = _jpeg_xl()
            return np.asarray(codec.jpegxl_decode(data, numthreads=1), dtype=np.uint8)
        with Image.open(io.BytesIO(data)) as file:
            return np.asarray(file.convert("L" if grey else "RGB"))

    def _options(self, *, grey: bool) -> dict[str, Any]:
        """Arguments of Pillow's `save`."""
        match self.format:
            case "JPEG":
                return {"quality": self.quality, "optimize": True, "progressive": True}
            case "WEBP":
                return {"quality": self.quality, "method": 6}
            case _:  # one thread for each file: they are small, and several are written at once
                options = {"quality": self.quality, "speed": self.speed, "max_threads": 1}
                return {**options, "subsampling": "4:0:0"} if grey else options


@dataclass(frozen=True, slots=True)
class ImageSetting:
    """One way to make an image file of a frame.

    Attributes:
        format: See `StillCoder`.
        size_px: Height and width it is resized to first.
        quality: See `StillCoder`.
        speed: See `StillCoder`.
    """

    format: StillFormat
    size_px: int
    quality: int
    speed: int = 4

    def __str__(self) -> str:
        return f"{self.format} {self.size_px} px q{self.quality}"

    @property
    def coder(self) -> StillCoder:
        """What writes the file."""
        return StillCoder(self.format, self.quality, self.speed)

    def at_speed(self, speed: int) -> Self:
        """The same with another effort of the AVIF encoder."""
        return type(self)(self.format, self.size_px, self.quality, speed)


def formats() -> tuple[StillFormat, ...]:
    """Formats that can be written here."""
    return ("JPEG", "WEBP", *(("AVIF",) if features.check("avif") else ()), *(("JXL",) if _jpeg_xl() else ()))


def missing_formats() -> dict[str, str]:
    """Formats that are not measured here, each with the reason and the fix."""
    missing = {}
    if not features.check("avif"):
        missing["AVIF"] = "this Pillow cannot write it: install a wheel of Pillow >= 11.3"
    if _jpeg_xl() is None:
        missing["JXL"] = "imagecodecs is not installed: pip install 'latentbus[baselines]'"
    return missing


def default_settings(size_px: int) -> list[ImageSetting]:
    """Settings that cover the useful range for a model with inputs of `size_px`, in the formats of every Pillow."""
    qualities: dict[StillFormat, tuple[int, ...]] = {
        "JPEG": (10, 30, 60, 90),
        "WEBP": (0, 5, 10, 30, 60, 90),
        "AVIF": (5, 15, 30, 60, 85),
    }
    sizes = [size_px * share // 8 for share in (3, 4, 6, 8)]
    known = [name for name in formats() if name in qualities]
    return [ImageSetting(name, size, quality) for name in known for size in sizes for quality in qualities[name]]


def full_grid(size_px: int) -> list[ImageSetting]:
    """Every setting that is looked at: from 32 px to the full size, from the worst quality to a good one."""
    sizes = sorted({min(32, size_px), *(size for size in _SIZES_PX if size < size_px), size_px})
    return [ImageSetting(name, size, quality) for name in formats() for size in sizes for quality in _QUALITIES[name]]


def quick_grid(size_px: int) -> list[ImageSetting]:
    """A few settings that span the range, of the two formats that do best on small pictures."""
    sizes = sorted({max(min(32, size_px), size_px * share // 8) for share in (2, 4)})
    qualities: dict[StillFormat, tuple[int, ...]] = {"WEBP": (0, 20, 60), "AVIF": (5, 40)}
    known = [name for name in formats() if name in qualities]
    return [ImageSetting(name, size, quality) for name in known for size in sizes for quality in qualities[name]]


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
        frame = np.asarray(frames[index])
        data = setting.coder.encode(resized(frame, setting.size_px))
        sizes[index] = len(data)
        decoded[index] = enlarged(setting.coder.decode(data), frame.shape[0], frame.shape[1])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(len(frames))))
    return decoded, sizes


@cache
def container_bytes(setting: ImageSetting) -> int:
    """Bytes of a file of one grey area: container, headers and tables, and the little that an empty picture takes.

    Taking them off a file is in the baseline's favour, since a stream without a container still says what is empty.
    """
    return len(setting.coder.encode(np.full((setting.size_px, setting.size_px, 3), _GREY, dtype=np.uint8)))


def resized(frame: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """A frame as it is sent: uint8 [H, W, 3] to [size, size, 3]."""
    if frame.shape[:2] == (size_px, size_px):
        return frame
    return np.asarray(Image.fromarray(frame).resize((size_px, size_px), Image.Resampling.LANCZOS))


def enlarged(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A picture that was sent as the model takes it: uint8 [h, w, 3] to [H, W, 3]."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


@cache
def _jpeg_xl() -> Any | None:
    """The library that writes JPEG XL; None where it is missing or was built without."""
    try:
        library: Any = importlib.import_module("imagecodecs")
    except ImportError:
        return None
    return library if library.JPEGXL.available else None
