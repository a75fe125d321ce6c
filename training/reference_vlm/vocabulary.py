"""The words that the model must know as one token each: kinds of objects, of photographs, colours, places, numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pipeline.scenes.catalogue import COLORS, COLUMN_WORDS, COUNT_WORDS, KINDS, POSITIONS, ROW_WORDS

BACKGROUND_WORD: Final = " nothing"
ANCHOR_WORD: Final = " object"
PART_WORD: Final = " part"
MOVING_WORD: Final = " moving"
STILL_WORD: Final = " still"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What can be seen, by name.

    Attributes:
        kinds: Singular nouns, those of rendered objects first.
        plurals: Their plurals, in the same order.
    """

    kinds: tuple[str, ...]
    plurals: tuple[str, ...]

    @classmethod
    def of(cls, photo_classes: Iterable[tuple[str, str]] = ()) -> Vocabulary:
        """Rendered kinds and classes of photographs; a word that both have is one kind.

        Args:
            photo_classes: Singular and plural of each class.
        """
        words = {kind.name: kind.plural for kind in KINDS.values()}
        for name, plural in photo_classes:
            words.setdefault(name, plural)
        return cls(tuple(words), tuple(words.values()))

    @property
    def single_tokens(self) -> list[str]:
        """Words that become one token with a space before them."""
        words = [*COLORS, *COUNT_WORDS, *ROW_WORDS, *COLUMN_WORDS, *self.kinds, *self.plurals, "yes", "no", "total"]
        extra = [word.strip() for word in (BACKGROUND_WORD, ANCHOR_WORD, PART_WORD, MOVING_WORD, STILL_WORD)]
        return list(dict.fromkeys(piece for word in [*words, *extra, *POSITIONS] for piece in word.split()))
