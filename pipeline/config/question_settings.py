"""Settings of a standing question."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.config.alert_settings import AlertConditionSettings, check_condition
from pipeline.config.asking_settings import MAX_DURATION_S, Interval
from pipeline.config.section import Section
from schemas.event_rule import KeepWhen, check_keep_when
from schemas.messages import Options, check_options
from schemas.types import AnswerType, Milliseconds, Probability, QuestionText
from schemas.week_hours import WeekHours


class QuestionSettings(Section):
    """A standing question."""

    text: QuestionText
    """The question, as a person would ask it."""
    answer_type: AnswerType = AnswerType.TEXT
    """What the answer may look like: ``yes_no``, ``word``, ``count``, ``choice`` or ``text``."""
    options: Options = ()
    """Answers to choose from, for answer type ``choice``."""
    deadline_ms: Annotated[Milliseconds, Field(ge=100)] = 10_000
    """Time from the frame to the terminal outcome."""
    risk: Probability | None = None
    """Accepted chance that an early answer differs from the whole latent's, or one that holds on from the frame's own;
    left out takes the pool's."""
    interval_s: Interval | None = None
    """Time from one asking to the next; null asks it of every analysed frame of a camera."""
    schedule: WeekHours | None = None
    """Hours of the week in which it is asked, in the time zone of the camera: ``mon-fri 08:00-18:00``; null takes those
    of the camera."""
    max_duration_s: Annotated[float, Field(ge=1, le=MAX_DURATION_S)] | None = None
    """It is asked for so long, from its first frame on; null: on and on."""
    change_gate: bool = True
    """Not asked of frames that show what the last answered one showed; false asks it of every frame."""
    keep_when: KeepWhen = ()
    """Answers that are events: ``yes``, an option, or for a count a comparison as in ``>= 3``."""
    alert: AlertConditionSettings | None = None
    """When an answer is an alert; read by the gateway. Null: never."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        check_options(self.answer_type, self.options)
        check_keep_when(self.answer_type, self.options, self.keep_when)
        if self.alert is not None:
            check_condition(self.alert, self.answer_type, self.options)
        return self
