"""Sets of frames in parts of bounded memory, whether a frame has a thousand values or five million."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torch import Tensor

_MOST_FRAMES: Final = 512
_MOST_VALUES: Final = 1 << 25
"""128 MB in single precision."""


def frames_at_once(values: int, most: int = _MOST_FRAMES) -> int:
    """How many frames are computed with at once.

    Args:
        values: Of one frame.
        most: Frames, however small they are.
    """
    return max(1, min(most, _MOST_VALUES // max(values, 1)))


def chunks_of(tokens: Tensor, most: int = _MOST_FRAMES) -> Iterator[Tensor]:
    """Visual tokens [F, N, D] by parts; of a file that is mapped into memory only one part is read at a time."""
    size = frames_at_once(tokens[0].numel() if len(tokens) else 1, most)
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size]
