"""Pictures for calibrations: smooth patches of colour, each another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture(number: int, size: tuple[int, int] = (48, 40)) -> NDArray[np.uint8]:
    """RGB, uint8 [H, W, 3]."""
    patches: NDArray[np.uint8] = np.random.default_rng([number, 77]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(patches).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def write_pictures(folder: Path, count: int) -> Path:
    """So many files `000.png`, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(picture(number)).save(folder / f"{number:03}.png")
    return folder
