"""What each patch of a frame shows: the supervision of the vision tower."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.scenes.catalogue import COLORS, KINDS
from pipeline.scenes.scene import Scene, cell_index

LABELS: Final = ("kind", "color", "row", "column", "anchor")
IGNORE: Final = -100
"""Label of a patch that has none (colour of the background); what `cross_entropy` skips."""
BACKGROUND: Final = len(KINDS)

_KIND_INDEX: Final = {name: index for index, name in enumerate(KINDS)}
_COLOR_INDEX: Final = {name: index for index, name in enumerate(COLORS)}
_MIN_COVER: Final = 0.35


def dense_labels(scene: Scene, grid: int) -> NDArray[np.int64]:
    """Label every patch.

    A patch belongs to the object whose bounding box covers at least 35 % of it, the nearest one where boxes overlap,
    and always to the object whose centre it holds (its anchor): counting objects is counting anchors.

    Args:
        scene: What the frame shows.
        grid: Patches along one edge.

    Returns:
        int64 [5, grid, grid] in the order of `LABELS`: kind (`BACKGROUND` where there is none), colour, row and column
        of the 3x3 cell that holds the object's centre, anchor (1 at the centre, else 0). Colour, row and column are
        `IGNORE` on background.
    """
    labels = np.full((len(LABELS), grid, grid), IGNORE, dtype=np.int64)
    labels[0] = BACKGROUND
    labels[4] = 0
    edges = np.arange(grid, dtype=np.float64)
    values: list[tuple[int, int, int, int]] = []
    for item in scene.objects:
        left, top, right, bottom = (value * grid for value in item.box)
        cover_x = np.clip(np.minimum(edges + 1, right) - np.maximum(edges, left), 0, 1)
        cover_y = np.clip(np.minimum(edges + 1, bottom) - np.maximum(edges, top), 0, 1)
        covered = cover_y[:, None] * cover_x[None, :] >= _MIN_COVER
        cell = cell_index(item.x, item.y)
        value = (_KIND_INDEX[item.kind], _COLOR_INDEX[item.color], cell // 3, cell % 3)
        values.append(value)
        labels[:4, covered] = np.array(value)[:, None]
    for item, value in zip(scene.objects, values, strict=True):
        row, column = int(item.y * grid), int(item.x * grid)
        labels[:4, row, column] = value
        labels[4, row, column] = 1
    return labels
