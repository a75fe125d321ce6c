"""What an answer says, in the form that its question asked for. Pure; English, as the bundled models answer.

A model that does not do what it was told may be very sure of it, so its score says nothing about the form.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final, TypeAlias

from schemas.types import AnswerType

AnswerValue: TypeAlias = bool | int | str
"""A truth, a count, or a text; of a choice the option as its question has it."""

_WORDS: Final = 4
"""Of a ``word``: "top left", "at the gate"."""

_NUMBERS: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_NOTHING: Final = ("none", "no")
# A chatty model is cut in the middle of its sentence: what it was asked for has to come first.
_YES_NO: Final = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
# Neither signs nor parts of something else: "-3", "2.5", "1/2" and "10:30" are no counts.
_COUNT: Final = re.compile(
    rf"\W*?(?<![-\d])(\d{{1,9}}(?![.,/:-]?\d)|{'|'.join((*_NUMBERS, *_NOTHING))})\b", re.IGNORECASE
)
_WORD_CHARACTER: Final = re.compile(r"[^\W_]")
_AROUND: Final = " .,;!?\"'`*"
"""What a model puts around an option that it chose."""


def answer_value(answer_type: AnswerType, text: str, options: Sequence[str] = ()) -> AnswerValue | None:
    """What an answer says; None where it has not the form of its type.

    Args:
        answer_type: what was asked for.
        text: the answer.
        options: where the question came with some, the answer is one of them, whatever its case.
    """
    if not says_something(text):
        return None
    if options:
        said = bare(text)
        return next((option for option in options if bare(option) == said), None)
    match answer_type:
        case AnswerType.YES_NO:
            found = _YES_NO.match(text)
            return None if found is None else found[1].casefold() == "yes"
        case AnswerType.COUNT:
            found = _COUNT.match(text)
            return None if found is None else _number(found[1])
        case AnswerType.WORD:
            return text if len(text.split()) <= _WORDS else None
        case AnswerType.CHOICE:
            return None  # a choice of nothing
        case AnswerType.TEXT:
            return text


def says_something(text: str) -> bool:
    """Whether there is a letter or a digit in an answer. One without is shown to nobody."""
    return _WORD_CHARACTER.search(text) is not None


def bare(text: str) -> str:
    """A short answer without what a model puts around it, whatever its case."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).strip(_AROUND).casefold()


def _number(word: str) -> int:
    if word.isdecimal():
        return int(word)
    word = word.casefold()
    return 0 if word in _NOTHING else _NUMBERS.index(word)
