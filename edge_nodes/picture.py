"""A frame as a JPEG, small enough to be kept a while and to be fetched over a thin link."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_SIDE_PX: Final = 640
"""Of the longer side; larger frames are made smaller."""
QUALITIES: Final = (80, 60, 40, 20)
MAX_PICTURE_BYTES: Final = 131_072
"""A frame that is larger at the last of these qualities is left out."""


def jpeg_of(pixels: NDArray[np.uint8]) -> bytes | None:
    """The JPEG of a frame; None where none is small enough.

    Args:
        pixels: RGB, uint8 [H, W, 3], masked already.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    for quality in QUALITIES:
        made = io.BytesIO()
        image.save(made, "JPEG", quality=quality)
        if made.tell() <= MAX_PICTURE_BYTES:
            return made.getvalue()
    return None
