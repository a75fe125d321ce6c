"""Where the scenes of training and evaluation come from, and how a training frame is drawn."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.scenes.renderer import render
from pipeline.scenes.scene import Scene
from training.reference_vlm.degrade import degrade, resize

RECIPE: Final = 2
"""Raised whenever scenes, renderer or degradations change, so that an old cache is never reused."""

TRAIN_SEEDS: Final = 10_000_000
HELD_OUT_SEEDS: Final = 1_000_000_000
"""First scene seeds of two disjoint sets; a run's own seed moves it by `seed * SEED_STRIDE` inside its set."""
SEED_STRIDE: Final = 1_000_000

_REDUCED_SHARE: Final = 0.06
"""A camera's own resolution is larger than the model's: so many frames are drawn at twice the size and reduced."""


def render_degraded(scene: Scene, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render a scene as it arrives: sometimes from a larger sensor, mostly through a codec, a smaller size or blur.

    Args:
        scene: What to draw.
        size: Height and width in pixels.
        rng: Source of randomness.

    Returns:
        RGB frame, uint8 [size, size, 3].
    """
    reduced = size <= 256 and rng.random() < _REDUCED_SHARE
    frame = resize(render(scene, 2 * size), size, rng) if reduced else render(scene, size)
    return degrade(frame, rng)
