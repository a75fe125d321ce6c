"""What cameras, codecs and links do to frames, so that the model has seen it."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipeline.scenes.video import decode_frames, encode_frames

_RESAMPLERS: Final = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def _resampler(rng: np.random.Generator) -> Image.Resampling:
    return _RESAMPLERS[int(rng.integers(len(_RESAMPLERS)))]


def resize(frame: NDArray[np.uint8], size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Resize a square frame with a random common filter, uint8 [size, size, 3]."""
    return np.asarray(Image.fromarray(frame).resize((size, size), _resampler(rng)))


def recompress(frame: NDArray[np.uint8], image_format: str, quality: int) -> NDArray[np.uint8]:
    """Encode and decode with an image codec.

    Args:
        frame: uint8 [H, W, 3].
        image_format: `"JPEG"` or `"WEBP"`.
        quality: 0 to 100.
    """
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, image_format, quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def recompress_video(frames: list[NDArray[np.uint8]], crf: int) -> list[NDArray[np.uint8]]:
    """Encode frames as one H.264 stream and decode it.

    Args:
        frames: uint8 [S, S, 3] each, of one even size.
        crf: Constant rate factor; 18 is near transparent, 34 is poor.
    """
    buffer = io.BytesIO()
    encode_frames(buffer, frames, fps=10, size=frames[0].shape[0], crf=crf)
    buffer.seek(0)
    return list(decode_frames(buffer))


def degrade(frame: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply a random still-image degradation, or none.

    About 45 % stay clean; the rest meets JPEG or WebP at any quality, a smaller size and back (perhaps with a codec in
    between), or blur.

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
    if draw < 0.72:
        return recompress(frame, *_codec(rng))
    if draw < 0.9:
        small = resize(frame, int(rng.integers(size * 3 // 8, size)), rng)
        if rng.random() < 0.5:
            small = recompress(small, *_codec(rng))
        return resize(small, size, rng)
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.1)))))


def _codec(rng: np.random.Generator) -> tuple[str, int]:
    if rng.random() < 0.5:
        return "JPEG", int(rng.integers(15, 96))
    return "WEBP", int(rng.integers(2, 91))
