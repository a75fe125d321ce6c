"""What each visual token of a frame shows: the supervision of the vision tower."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.scenes.catalogue import COLORS
from training.reference_vlm.text_blocks import AnyScene
from training.reference_vlm.vocabulary import Vocabulary

LABELS: Final = ("kind", "color", "row", "column", "anchor", "moving")
IGNORE: Final = -100
"""Label of a token that has none (colour of the background); what `cross_entropy` skips."""

_COLOR_INDEX: Final = {name: index for index, name in enumerate(COLORS)}
_MIN_COVER: Final = 0.35
Box = tuple[float, float, float, float]
WHOLE: Final[Box] = (0.0, 0.0, 1.0, 1.0)


def views(tiles_per_edge: int) -> list[Box]:
    """Windows of the views of a frame that is shown in detail, as the prompt has them: tiles row by row, the whole."""
    edge = 1 / tiles_per_edge
    tiles = [
        (x * edge, y * edge, (x + 1) * edge, (y + 1) * edge)
        for y in range(tiles_per_edge)
        for x in range(tiles_per_edge)
    ]
    return [*tiles, WHOLE]


def dense_labels(
    scene: AnyScene, grid: int, vocabulary: Vocabulary, window: Box = WHOLE, *, bins: int = 3
) -> NDArray[np.int16]:
    """Label every visual token of one view.

    A token belongs to the nearest object whose bounding box covers at least 35 % of its cell, and always to the object
    whose centre it holds (its anchor): counting objects is counting anchors.

    Args:
        scene: What the frame shows, objects far to near.
        grid: Tokens along one edge of the view.
        vocabulary: Numbers the kinds; the background comes after the last.
        window: Part of the frame that the view shows (left, top, right, bottom).
        bins: Rows and columns that places are told apart by.

    Returns:
        int16 [6, grid, grid] in the order of `LABELS`. Row and column are those of the cell of the *view* (of `bins` x
        `bins`) that holds the object's centre, since a tile does not know its place in the frame; they are `IGNORE`
        where the centre is outside of the view. Colour, row, column and moving are `IGNORE` on background.
    """
    labels = np.full((len(LABELS), grid, grid), IGNORE, dtype=np.int16)
    labels[0] = len(vocabulary.kinds)
    labels[4] = 0
    edges = np.arange(grid, dtype=np.float64)
    left, top, right, bottom = window
    anchors: list[tuple[int, int, tuple[int, ...]]] = []
    value: tuple[int, ...]
    for item in scene.objects:
        box = item.box
        x0, x1 = ((value - left) / (right - left) * grid for value in (box[0], box[2]))
        y0, y1 = ((value - top) / (bottom - top) * grid for value in (box[1], box[3]))
        if x1 <= 0 or y1 <= 0 or x0 >= grid or y0 >= grid:
            continue
        x, y = (item.x - left) / (right - left), (item.y - top) / (bottom - top)
        inside = 0 <= x < 1 and 0 <= y < 1
        value = (
            vocabulary.kinds.index(item.kind),
            _COLOR_INDEX[item.color] if item.color else IGNORE,
            int(y * bins) if inside else IGNORE,
            int(x * bins) if inside else IGNORE,
            0,
            int(item.moving),
        )
        cover_x = np.clip(np.minimum(edges + 1, x1) - np.maximum(edges, x0), 0, 1)
        cover_y = np.clip(np.minimum(edges + 1, y1) - np.maximum(edges, y0), 0, 1)
        covered = cover_y[:, None] * cover_x[None, :] >= _MIN_COVER
        labels[:, covered] = np.array(value, dtype=np.int16)[:, None]
        if inside:
            anchors.append((int(y * grid), int(x * grid), value))
    for row, column, value in anchors:
        labels[:, row, column] = value
        labels[4, row, column] = 1
    return labels
