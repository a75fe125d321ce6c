"""Whether an answer has the form that its question asked for. Pure; English, as the bundled models answer.

A model that does not do what it was told may be very sure of it, so its score says nothing about the form.
"""

from __future__ import annotations

import re
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
_COUNT: Final = re.compile(rf"\W*(\d{{1,9}}|{_NUMBERS})\b", re.IGNORECASE)
_SAYS_SOMETHING: Final = re.compile(r"\w")


def fits(answer_type: AnswerType, text: str, options: Sequence[str] = ()) -> bool:
    """Whether an answer has the form of its type.

    Args:
        answer_type: what was asked for.
        text: the answer.
        options: where the question came with some, the answer is one of them, whatever its case.
    """
    if not _SAYS_SOMETHING.search(text):
        return False
    if options:
        said = text.strip().rstrip(".!").casefold()
        return any(said == option.strip().casefold() for option in options)
    match answer_type:
        case AnswerType.YES_NO:
            return _YES_NO.match(text) is not None
        case AnswerType.COUNT:
            return _COUNT.match(text) is not None
        case AnswerType.WORD:
            return len(text.split()) <= _WORDS
        case _:
            return True
