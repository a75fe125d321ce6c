"""The places that cameras look at: ground in perspective, what stands in the distance, sky or wall."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.scenes.scene import Background


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> NDArray[np.float32]:
    """Low-frequency noise in [-1, 1], float32 [size, size]."""
    coarse = rng.random((cells, cells), dtype=np.float32) * 2 - 1
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)


@lru_cache(maxsize=16)
def place_pixels(background: Background, size: int) -> NDArray[np.uint8]:
    """A place without objects by plain daylight, uint8 [size, size, 3]. Cached: a camera looks at it for seconds."""
    rng = np.random.default_rng(background.seed)
    rows = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, size, dtype=np.float32)[None, :]
    horizon = background.horizon
    # Ground coordinates: distance grows towards the horizon, and so does what a pixel spans sideways.
    nearness = np.clip((rows - horizon) / (1 - horizon), 0.02, 1)
    across = (columns - 0.5) / nearness + np.float32(rng.uniform(-1, 1))
    along = 1 / nearness
    light = smooth_noise(rng, size, 6) * 10 + smooth_noise(rng, size, 21) * 5
    light += (rng.random((size, size), dtype=np.float32) - 0.5) * np.float32(rng.uniform(4, 14))
    light += (nearness - 0.5) * np.float32(rng.uniform(-24, 24))
    light += _pattern(background, rng, across, along, size)
    pixels = np.asarray(background.rgb, dtype=np.float32) + light[:, :, None]
    image = Image.fromarray(np.clip(pixels, 34, 200).astype(np.uint8))
    _distance(image, background, rng)
    return np.asarray(image)


def _pattern(
    background: Background,
    rng: np.random.Generator,
    across: NDArray[np.float32],
    along: NDArray[np.float32],
    size: int,
) -> NDArray[np.floating]:
    """Lines, tiles and planks of the ground, in grey levels."""
    zero = np.zeros(np.broadcast_shapes(across.shape, along.shape), dtype=np.float32)
    marks: NDArray[np.floating]
    fade = np.clip(1.6 - along / 8, 0, 1)
    match background.style:
        case "street":
            lane = np.abs((across * np.float32(rng.uniform(0.7, 1.1)) + 0.5) % 1.0 - 0.5)
            dashes = (lane < 0.022) & ((along * 1.3 + rng.uniform(0, 1)) % 1 < 0.55)
            marks = zero + dashes * 46 * fade
        case "parking":
            marks = zero + (np.abs((across * 1.6) % 1.0 - 0.5) < 0.03) * 40 * fade
        case "lawn":
            marks = smooth_noise(rng, size, max(size // 3, 4)) * 13 + ((across * 0.8) % 1 < 0.5) * 7
        case "yard":
            marks = smooth_noise(rng, size, max(size // 5, 4)) * 9
        case "hall":
            joint = ((across * 2.2) % 1 < 0.05) | ((along * 2.2) % 1 < 0.07)
            checker = ((across * 2.2).astype(int) + (along * 2.2).astype(int)) % 2
            marks = (checker * np.float32(rng.uniform(-14, 14)) - joint * 16).astype(np.float32) * fade
        case "quay":
            marks = zero - ((along * 3.1) % 1 < 0.09) * 20 * fade
    return marks


def _distance(image: Image.Image, background: Background, rng: np.random.Generator) -> None:
    """Sky, water or wall above the ground, and silhouettes in front of it. All muted, so that no object is imitated."""
    draw = ImageDraw.Draw(image)
    size, line = image.width, int(background.horizon * image.width)
    top = np.array((148, 168, 190)) if background.style != "hall" else np.array((168, 160, 150))
    top = top + rng.uniform(-16, 12, size=3)
    for row in range(line):
        share = row / max(line, 1)
        draw.line([(0, row), (size, row)], fill=tuple(int(v) for v in np.clip(top + 22 * share, 40, 215)))
    x = -int(rng.uniform(0, 0.1) * size)
    while x < size and background.style != "hall":
        width, height = int(rng.uniform(0.06, 0.2) * size), int(rng.uniform(0.15, 0.8) * line)
        grey = rng.uniform(80, 130)
        fill = tuple(int(v) for v in grey + rng.uniform(-10, 10, size=3))
        if background.style in ("lawn", "yard") and rng.random() < 0.6:
            draw.ellipse(
                [x, line - height, x + width, line + height // 2],
                fill=(int(grey * 0.6), int(grey * 0.8), int(grey * 0.55)),
            )
        else:
            draw.rectangle([x, line - height, x + width, line], fill=fill)
        x += width + int(rng.uniform(0, 0.12) * size)
    if background.style == "quay":
        draw.rectangle([0, int(line * 0.8), size, line], fill=(84, 108, 124))
    draw.line([(0, line), (size, line)], fill=(96, 96, 98), width=max(size // 128, 1))
