"""Photographs for tests: generated, since the project carries none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "frog", "ship")
PER_CLASS = 40


def write_photo_folder(path: Path, *, classes: tuple[str, ...] = CLASSES, per_class: int = PER_CLASS) -> Path:
    """A class folder of small pictures; those of one class share a colour and a stripe.

    Args:
        path: Folder to write.
        classes: Names of the classes.
        per_class: Pictures of each.
    """
    for number, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for index in range(per_class):
            rng = np.random.default_rng([number, index])
            pixels = rng.integers(0, 60, (40, 32, 3), dtype=np.uint8)
            pixels[:, :, number % 3] += np.uint8(150)
            pixels[4 + index % 20 : 12 + index % 20] = 255
            Image.fromarray(pixels).save(path / name / f"{index:03d}.png")
    return path
