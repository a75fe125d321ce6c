"""Single pictures, as cameras send and upload them."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from schemas.errors import SourceError
from schemas.types import SourceReason

MAX_PICTURE_BYTES: Final = 33_554_432
MAX_PICTURE_PIXELS: Final = 67_108_864
FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")


def read_picture(data: bytes, shown: str) -> NDArray[np.uint8]:
    """Decode a picture, turned as its EXIF data say.

    Args:
        data: a JPEG, PNG, WebP or BMP file.
        shown: where it comes from, for errors.

    Returns:
        RGB, uint8 [H, W, 3].

    Raises:
        SourceError: it is none, is damaged, or is larger than :data:`MAX_PICTURE_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PICTURE_PIXELS:
                problem = f"a picture of {width} x {height} pixels is over the limit of {MAX_PICTURE_PIXELS} pixels"
                raise SourceError(shown, problem, SourceReason.CODEC)
            upright = ImageOps.exif_transpose(_eight_bits(image))
            return np.asarray(upright.convert("RGB"), dtype=np.uint8)
    except UnidentifiedImageError:
        found = data[:16].hex(" ") if data else "nothing"
        formats = ", ".join(FORMATS)
        raise SourceError(shown, f"is no picture ({formats}): it begins with {found}", SourceReason.CODEC) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SourceError(shown, f"picture is damaged: {error}", SourceReason.CODEC) from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts 16 bits of grey off at 255 instead of scaling them."""
    if not image.mode.startswith("I;16"):
        return image
    scaled = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    scaled.info, exif = image.info, image.getexif()
    scaled.getexif().update(exif)
    return scaled
