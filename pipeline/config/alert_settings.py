"""When an answer is an alert: the condition of a question, or of a rule of the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.section import Section
from schemas.answer_value import bare
from schemas.types import AnswerType, Name

MAX_CHANNELS: Final = 64

_Text = Annotated[str, Field(min_length=1, max_length=500)]
_CONDITIONS: Final = ("equals", "differs", "contains", "above", "below")


class AlertConditionSettings(Section):
    """When the answer to a question is an alert, and who is told."""

    equals: _Text | None = None
    """The answer is this, upper and lower case alike."""
    differs: _Text | None = None
    """The answer is another one than this."""
    contains: _Text | None = None
    """This is part of the answer."""
    above: float | None = None
    """The answer is a number above this."""
    below: float | None = None
    """The answer is a number below this."""
    n: Annotated[int, Field(ge=1, le=100)] = 1
    """It alerts when so many of the last ``of`` answers match, and ends when so many of them do not."""
    of: Annotated[int, Field(ge=1, le=100)] = 1
    """How many answers are looked at."""
    cooldown_s: Annotated[float, Field(ge=0, le=604_800)] = 300.0
    """Least time from one notification of a camera to the next."""
    max_duration_s: Annotated[float, Field(ge=1, le=2_678_400)] | None = None
    """An alert that goes on for so long is over, and begins again only after the condition was not met; null: never."""
    severity: Literal["info", "warning", "critical"] = "warning"
    """Shown, and sent along."""
    channels: Annotated[tuple[Name, ...], Field(max_length=MAX_CHANNELS)] | None = None
    """Webhooks and addresses that are told, by name; null tells all."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        given = [name for name in _CONDITIONS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs one condition of {', '.join(_CONDITIONS)}; has {', '.join(given) or 'none'}")
        if not self.of / 2 < self.n <= self.of:
            raise ValueError(
                f"{self.n} of {self.of}: n must be more than half of it, or it would alert and end at once"
            )
        return self


def check_condition(condition: AlertConditionSettings, answer_type: AnswerType, options: Sequence[str]) -> None:
    """Whether answers to a question can meet a condition.

    Raises:
        ValueError: they never can.
    """
    named = condition.equals or condition.differs
    numbers = condition.above is not None or condition.below is not None
    match answer_type:
        case AnswerType.YES_NO if named is None or bare(named) not in ("yes", "no"):
            raise ValueError('an alert of a yes_no question: equals or differs, "yes" or "no"')
        case AnswerType.COUNT if not (numbers or (named is not None and named.strip().isdecimal())):
            raise ValueError("an alert of a count: above or below a number, or equals or differs from one")
        case AnswerType.CHOICE if named is None or bare(named) not in {bare(option) for option in options}:
            raise ValueError("an alert of a choice: equals or differs from one of its options")
        case AnswerType.WORD | AnswerType.TEXT if numbers:
            raise ValueError(f"above and below need numbers: answer type count, not {answer_type}")
        case _:
            pass
