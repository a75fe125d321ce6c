"""Draw a scene: textured background, shaded objects, exposure and sensor noise.

Objects are drawn with Pillow at twice the resolution and reduced, which is the cheapest antialiasing that keeps small
shapes apart. Same scene and size, same bytes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.scenes.catalogue import COLORS, KINDS
from pipeline.scenes.scene import Background, Scene
from pipeline.scenes.shapes import DRAW, Pen

DEFAULT_SIZE: Final = 128
_SUPERSAMPLING: Final = 2


def render(scene: Scene, size: int = DEFAULT_SIZE) -> NDArray[np.uint8]:
    """Render a scene.

    Args:
        scene: What to draw.
        size: Height and width of the square frame in pixels.

    Returns:
        RGB frame, uint8 [size, size, 3].
    """
    edge = size * _SUPERSAMPLING
    canvas = Image.fromarray(_background_pixels(scene.background, size)).resize((edge, edge), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas, "RGBA")
    for item in scene.objects:
        kind = KINDS[item.kind]
        pen = Pen(
            draw,
            center=(item.x * edge, item.y * edge),
            half_size=(item.size * kind.width * edge / 2, item.size * kind.height * edge / 2),
            faces_left=item.faces_left,
        )
        pen.ground_shadow()
        DRAW[item.kind](pen, COLORS[item.color])
    frame = np.asarray(canvas.reduce(_SUPERSAMPLING), dtype=np.float32)
    rng = np.random.default_rng(scene.noise_seed)
    # Uniform noise of the same variance: four times cheaper than normal numbers, and nothing downstream can tell.
    spread = scene.noise_sigma * float(np.sqrt(12.0))
    noise = rng.random(frame.shape, dtype=np.float32) - np.float32(0.5)
    frame = frame * np.float32(scene.brightness) + noise * np.float32(spread)
    pixels: NDArray[np.uint8] = np.clip(frame + np.float32(0.5), 0, 255).astype(np.uint8)
    return pixels


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> NDArray[np.float32]:
    """Low-frequency noise in [-1, 1], float32 [size, size]."""
    coarse = rng.random((cells, cells), dtype=np.float32) * 2 - 1
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)


@lru_cache(maxsize=16)
def _background_pixels(background: Background, size: int) -> NDArray[np.uint8]:
    """Background without objects, uint8 [size, size, 3]. Cached: a camera looks at the same wall for seconds."""
    rng = np.random.default_rng(background.seed)
    rows = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, size, dtype=np.float32)[None, :]
    light = _smooth_noise(rng, size, 5) * 12 + _smooth_noise(rng, size, 17) * 5
    angle = rng.uniform(0, 2 * np.pi)
    light += (columns * np.cos(angle) + rows * np.sin(angle)).astype(np.float32) * float(rng.uniform(0, 34))
    light += (rng.random((size, size), dtype=np.float32) - 0.5) * float(rng.uniform(4, 18))
    match background.style:
        case "asphalt":
            lane = abs((columns + rows * float(rng.uniform(-0.4, 0.4)) - float(rng.uniform(0.2, 0.8))) % 0.5)
            dashes = (lane < 0.014) & ((rows * 6 % 1) < 0.55)
            light += dashes * 42
        case "grass":
            light += _smooth_noise(rng, size, max(size // 2, 4)) * 14
        case "brick":
            courses = int(rng.integers(8, 14))
            course = (rows * courses).astype(int)
            joint_x = ((columns * courses / 2 + 0.5 * (course % 2)) % 1) < 0.06
            light -= (joint_x | ((rows * courses % 1) < 0.12)) * 24
        case "tiles":
            tiles = int(rng.integers(3, 9))
            joint = ((columns * tiles % 1) < 0.05) | ((rows * tiles % 1) < 0.05)
            checker = ((rows * tiles).astype(int) + (columns * tiles).astype(int)) % 2
            light += checker * float(rng.uniform(-16, 16)) - joint * 20
        case "horizon":
            light += np.where(rows < float(rng.uniform(0.2, 0.5)), float(rng.uniform(18, 42)), -10.0)
        case "gradient":
            light += (rows - 0.5) * float(rng.uniform(-50, 50))
    pixels = np.asarray(background.rgb, dtype=np.float32) + light[:, :, None]
    # White stays brighter than any background, black stays darker, before exposure and noise.
    return np.clip(pixels, 34, 200).astype(np.uint8)
