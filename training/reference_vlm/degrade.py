"""What cameras, codecs and links do to frames, so that the model has seen it.

Image files are baselines of the latent codec: a model that had never met their artefacts would punish them unfairly.
"""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, features

_RESAMPLERS: Final = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.BOX,
)
_SMALLEST_SHARE: Final = 1 / 6
_HAS_AVIF: Final = bool(features.check("avif"))


def _resampler(rng: np.random.Generator) -> Image.Resampling:
    return _RESAMPLERS[int(rng.integers(len(_RESAMPLERS)))]


def resize(frame: NDArray[np.uint8], size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Resize a square frame with a random common filter, uint8 [size, size, 3]."""
    return np.asarray(Image.fromarray(frame).resize((size, size), _resampler(rng)))


def recompress(frame: NDArray[np.uint8], image_format: str, quality: int) -> NDArray[np.uint8]:
    """Encode and decode with an image codec.

    Args:
        frame: uint8 [H, W, 3].
        image_format: `"JPEG"`, `"WEBP"` or `"AVIF"`.
        quality: 0 to 100.
    """
    buffer = io.BytesIO()
    options = {"speed": 9} if image_format == "AVIF" else {}
    Image.fromarray(frame).save(buffer, image_format, quality=quality, **options)
    return np.asarray(Image.open(buffer).convert("RGB"))


def degrade(frame: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply a random degradation, or none.

    About 45 % stay clean; the rest meets JPEG, WebP or AVIF at any quality, a smaller size and back (down to a sixth,
    perhaps with a codec in between), or blur.

    Args:
        frame: uint8 [S, S, 3].
        rng: Source of randomness.

    Returns:
        A frame of the same shape.
    """
    size = frame.shape[0]
    draw = rng.random()
    if draw < 0.45:
        return frame
    if draw < 0.70:
        return recompress(frame, *_codec(rng))
    if draw < 0.92:
        # Even in the logarithm: small sizes are as frequent as they are cheap to send.
        small = resize(frame, max(int(size * _SMALLEST_SHARE ** rng.random()), 16), rng)
        if rng.random() < 0.6:
            small = recompress(small, *_codec(rng))
        return resize(small, size, rng)
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.5)))))


def _codec(rng: np.random.Generator) -> tuple[str, int]:
    draw = rng.random()
    if draw < 0.15 and _HAS_AVIF:
        return "AVIF", int(rng.integers(5, 80))
    if draw < 0.55:
        return "JPEG", int(rng.integers(8, 96))
    return "WEBP", int(rng.integers(0, 91))
