"""Which answers to a standing question are events: conditions that its settings, or the question on the bus, name.

A condition is an answer (``yes``, ``red``), or for a count a comparison with a number (``>= 3``). An answer that meets
one of them is an event.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Final

from pydantic import Field

from schemas.answer_value import answer_value, bare
from schemas.limits import MAX_CHOICE_OPTIONS, MAX_OPTION_CHARS
from schemas.types import AnswerType

KeepWhen = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=MAX_OPTION_CHARS)], ...], Field(max_length=MAX_CHOICE_OPTIONS)
]

_COMPARISON: Final = re.compile(r"\s*(>=|<=|!=|=|>|<)?\s*(\d{1,9})\s*")
_COMPARE: Final[dict[str, Callable[[int, int], bool]]] = {
    ">=": operator.ge, "<=": operator.le, "!=": operator.ne, "=": operator.eq, ">": operator.gt, "<": operator.lt,
}  # fmt: skip


def check_keep_when(answer_type: AnswerType, options: Sequence[str], keep_when: Sequence[str]) -> None:
    """Whether conditions can be met by answers of a type.

    Raises:
        ValueError: one of them never can.
    """
    for condition in keep_when:
        match answer_type:
            case AnswerType.TEXT:
                raise ValueError("keep_when needs an answer type with short answers: yes_no, word, count or choice")
            case AnswerType.YES_NO if bare(condition) not in ("yes", "no"):
                raise ValueError(f"keep_when of a yes_no question: yes or no, not {condition[:40]!r}")
            case AnswerType.CHOICE if bare(condition) not in {bare(option) for option in options}:
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
    value = answer_value(answer_type, text)
    match value:
        case bool():
            said = "yes" if value else "no"
        case int():
            return any(_compares(condition, value) for condition in keep_when)
        case _:
            said = bare(text)
    return said in {bare(condition) for condition in keep_when}


def _compares(condition: str, count: int) -> bool:
    found = _COMPARISON.fullmatch(condition)
    return found is not None and _COMPARE[found[1] or "="](count, int(found[2]))
