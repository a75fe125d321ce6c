"""Which answers to a standing question are events: conditions that its settings, or the question on the bus, name.

A condition is an answer (``yes``, ``red``), or for a count a comparison with a number (``>= 3``). An answer that meets
one of them is an event.
"""

from __future__ import annotations

import operator
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Annotated, Final

from pydantic import Field

from schemas.limits import MAX_CHOICE_OPTIONS, MAX_OPTION_CHARS
from schemas.types import AnswerType

KeepWhen = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=MAX_OPTION_CHARS)], ...], Field(max_length=MAX_CHOICE_OPTIONS)
]

_COMPARISON: Final = re.compile(r"\s*(>=|<=|!=|=|>|<)?\s*(\d{1,9})\s*")
_COMPARE: Final[dict[str, Callable[[int, int], bool]]] = {
    ">=": operator.ge, "<=": operator.le, "!=": operator.ne, "=": operator.eq, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_NUMBERS: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_FIRST_WORD: Final = re.compile(r"\W*(\w+)")
_AROUND: Final = " .,;!?\"'`*"


def check_keep_when(answer_type: AnswerType, options: Sequence[str], keep_when: Sequence[str]) -> None:
    """Whether conditions can be met by answers of a type.

    Raises:
        ValueError: one of them never can.
    """
    for condition in keep_when:
        match answer_type:
            case AnswerType.TEXT:
                raise ValueError("keep_when needs an answer type with short answers: yes_no, word, count or choice")
            case AnswerType.YES_NO if _bare(condition) not in ("yes", "no"):
                raise ValueError(f"keep_when of a yes_no question: yes or no, not {condition[:40]!r}")
            case AnswerType.CHOICE if _bare(condition) not in {_bare(option) for option in options}:
                raise ValueError(f"keep_when of a choice names its options; {condition[:40]!r} is none of them")
            case AnswerType.COUNT if not _COMPARISON.fullmatch(condition):
                raise ValueError(f"keep_when of a count: a number or a comparison, '>= 3', not {condition[:40]!r}")
            case _:
                pass


def is_event(answer_type: AnswerType, keep_when: Sequence[str], text: str) -> bool:
    """Whether an answer meets a condition.

    Args:
        answer_type: of the question.
        keep_when: its conditions.
        text: the answer.
    """
    if answer_type is AnswerType.COUNT:
        count = _count(text)
        return count is not None and any(_compares(condition, count) for condition in keep_when)
    said = _bare(text)
    if answer_type is AnswerType.YES_NO:
        first = _FIRST_WORD.match(said)
        said = first[1] if first else ""
    return said in {_bare(condition) for condition in keep_when}


def _count(text: str) -> int | None:
    word = _FIRST_WORD.match(text.casefold())
    if word is None:
        return None
    if word[1].isdecimal() and len(word[1]) <= 9:
        return int(word[1])
    if word[1] in ("no", "none"):
        return 0
    return _NUMBERS.index(word[1]) if word[1] in _NUMBERS else None


def _compares(condition: str, count: int) -> bool:
    found = _COMPARISON.fullmatch(condition)
    return found is not None and _COMPARE[found[1] or "="](count, int(found[2]))


def _bare(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split()).strip(_AROUND).casefold()
