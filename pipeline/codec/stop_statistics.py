"""How often passes were safe when the stop rule was calibrated; the edge plans first prefixes with it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from schemas.types import AnswerType


@dataclass(frozen=True, slots=True)
class StopStatistics:
    """Shares of safe passes, by answer type, rung of the ladder and size of the frame.

    Attributes:
        ladder: prefix lengths of the passes, in latents.
        size_edges_bytes: ascending sizes of whole latents that part the frames into bins. A frame of many bytes shows
            much, and its answers settle later.
        safe_share: [rung][bin] for each answer type.
        by_frame: the answers of a pass were judged together: safe all, or none.
    """

    ladder: tuple[int, ...]
    size_edges_bytes: tuple[float, ...]
    safe_share: Mapping[AnswerType, tuple[tuple[float, ...], ...]]
    by_frame: bool = False

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: edges that do not rise, or shares of another shape or outside [0, 1].
        """
        if list(self.size_edges_bytes) != sorted(set(self.size_edges_bytes)):
            raise ValueError(f"size_edges_bytes {self.size_edges_bytes} do not rise")
        for kind, rows in self.safe_share.items():
            if len(rows) != len(self.ladder) or any(len(row) != len(self.size_edges_bytes) + 1 for row in rows):
                raise ValueError(
                    f"safe_share of {kind}: {len(self.ladder)} x {len(self.size_edges_bytes) + 1} expected"
                )
            if not all(math.isfinite(share) and 0 <= share <= 1 for row in rows for share in row):
                raise ValueError(f"safe_share of {kind}: shares are in [0, 1]")

    def knows(self, kind: AnswerType) -> bool:
        """Whether the calibration met this answer type."""
        return kind in self.safe_share

    def share(self, kind: AnswerType, rung: int, whole_bytes: int) -> float:
        """How often a pass was safe; 0 for an answer type that the calibration did not meet.

        Args:
            kind: answer type of the question.
            rung: place of the pass in the ladder.
            whole_bytes: coded size of the frame's whole latent.
        """
        rows = self.safe_share.get(kind)
        return 0.0 if rows is None else rows[rung][bisect_right(self.size_edges_bytes, whole_bytes)]

    @classmethod
    def from_json(cls, data: Any, ladder: tuple[int, ...]) -> Self:
        """The object ``statistics`` of ``stop.json``.

        Raises:
            ValueError: a field is missing or wrong.
        """
        try:
            if not isinstance(data["by_frame"], bool):
                raise ValueError(f"by_frame is {data['by_frame']!r}, not true or false")
            return cls(
                ladder,
                tuple(float(edge) for edge in data["size_edges_bytes"]),
                {
                    AnswerType(kind): tuple(tuple(float(share) for share in row) for row in rows)
                    for kind, rows in data["safe_share"].items()
                },
                data["by_frame"],
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"field {error} of the statistics is missing or wrong") from None

    def as_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads."""
        return {
            "by_frame": self.by_frame,
            "size_edges_bytes": list(self.size_edges_bytes),
            "safe_share": {str(kind): [list(row) for row in rows] for kind, rows in sorted(self.safe_share.items())},
        }
