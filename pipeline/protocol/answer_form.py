"""Whether an answer has the form that its question asked for. Pure; English, as the bundled models answer.

A model that does not do what it was told may be very sure of it, so its score says nothing about the form.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from schemas.types import AnswerType

_WORDS: Final = 4
"""Of a ``word``: "top left", "at the gate"."""

_NUMBERS: Final = (
    "zero|none|no|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|"
    "seventeen|eighteen|nineteen|twenty"
)
# A chatty model is cut in the middle of its sentence: what it was asked for has to come first.
_YES_NO: Final = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
# Neither signs nor parts of something else: "-3", "2.5", "1/2" and "10:30" are no counts.
_COUNT: Final = re.compile(rf"\W*?(?<![-\d])(\d{{1,9}}(?![.,/:-]?\d)|{_NUMBERS})\b", re.IGNORECASE)
_WORD_CHARACTER: Final = re.compile(r"[^\W_]")
_AROUND: Final = " .,;!?\"'`*"
"""What a model puts around an option that it chose."""


def fits(answer_type: AnswerType, text: str, options: Sequence[str] = ()) -> bool:
    """Whether an answer has the form of its type.

    Args:
        answer_type: what was asked for.
        text: the answer.
        options: where the question came with some, the answer is one of them, whatever its case.
    """
    if not says_something(text):
        return False
    if options:
        return _bare(text) in {_bare(option) for option in options}
    match answer_type:
        case AnswerType.YES_NO:
            return _YES_NO.match(text) is not None
        case AnswerType.COUNT:
            return _COUNT.match(text) is not None
        case AnswerType.WORD:
            return len(text.split()) <= _WORDS
        case AnswerType.CHOICE:
            return False  # a choice of nothing
        case AnswerType.TEXT:
            return True


def says_something(text: str) -> bool:
    """Whether there is a letter or a digit in an answer. One without is shown to nobody."""
    return _WORD_CHARACTER.search(text) is not None


def _bare(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split()).strip(_AROUND).casefold()
