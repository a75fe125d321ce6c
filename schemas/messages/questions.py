"""Questions, standing and ad-hoc, their texts, and what a client is told about its own."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from schemas.event_rule import KeepWhen, check_keep_when
from schemas.identity import (
    Owner,
    QuestionContent,
    owner_of,
)
from schemas.limits import (
    MAX_CHOICE_OPTIONS,
    MAX_JSON_BYTES,
    MAX_OPTION_CHARS,
    MAX_RECEIPT_CHARS,
)
from schemas.messages.base import BinaryMessage, Grown, JsonMessage, Kind
from schemas.types import (
    AnswerType,
    FrameId,
    Milliseconds,
    Name,
    Probability,
    QuestionText,
)


def read_answer_type(value: object) -> object:
    """The answer type that a bare string names; anything else as it is, for pydantic to refuse.

    msgpack gives the bare string, and pydantic would also take bytes. The error of the enumeration would quote what
    it was given.
    """
    return AnswerType(value) if type(value) is str and value in list(AnswerType) else value


Options = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=MAX_OPTION_CHARS)], ...], Field(max_length=MAX_CHOICE_OPTIONS)
]


def check_options(answer_type: AnswerType, options: tuple[str, ...]) -> None:
    """Whether a question has the options that its answer type needs.

    Raises:
        ValueError: it has not.
    """
    if answer_type is AnswerType.CHOICE:
        folded = {option.strip().casefold() for option in options}
        if len(options) < 2 or len(folded) < len(options) or "" in folded:
            raise ValueError("answer type choice needs two or more different options")
    elif options:
        raise ValueError(f"options belong to answer type choice, not to {answer_type}")


class Text(BinaryMessage):
    """Edge to a worker that asked for a question's text. Its digest is computed from what it says."""

    kind: ClassVar[Kind] = Kind.TEXT
    limit_bytes: ClassVar[int] = MAX_JSON_BYTES

    camera: Name
    """Camera of the frame that the question was asked of."""
    owner: Owner
    """Whose question it is."""
    question_id: Name
    """Id of the standing question, or the client's id of an ad-hoc one."""
    text: QuestionText
    """The question."""
    answer_type: Annotated[AnswerType, BeforeValidator(read_answer_type)]
    """What the answer may look like."""
    options: Options = ()
    """Answers to choose from, for answer type ``choice``."""
    risk: Probability | None = None
    """Accepted chance that an early answer differs from the whole latent's; left out takes the pool's."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        check_options(self.answer_type, self.options)
        return self

    def content(self) -> QuestionContent:
        """The question, with its digest."""
        return QuestionContent(self.owner, self.question_id, self.text, self.answer_type, self.options, self.risk)


class Question(Grown, JsonMessage):
    """Operator or edge to pool and edge, retained: a standing question of a site under its short id."""

    grown: ClassVar[frozenset[str]] = frozenset({"keep_when"})

    site: Name
    """The site that owns it, the same as in the topic."""
    question_id: Name
    """Short id, the same as in the topic."""
    text: QuestionText
    """The question, as a person would ask it."""
    answer_type: AnswerType = AnswerType.TEXT
    """What the answer may look like; it bounds the tokens that are generated."""
    options: Options = ()
    """Answers to choose from, for answer type ``choice``."""
    deadline_ms: Milliseconds = 10_000
    """Time from the frame to its outcome."""
    risk: Probability | None = None
    """Accepted chance that an early answer differs from the whole latent's; null takes the pool's."""
    cameras: Annotated[tuple[Name, ...], Field(max_length=128)] | None = None
    """Cameras of the site that are asked it; null leaves those of the site's settings. Empty: none, it is paused."""
    set_by: Literal["operator", "settings"] = "operator"
    """``settings`` in what an edge publishes from its own settings; anything else is an operator's word and wins."""
    keep_when: KeepWhen = ()
    """Answers that make an event, whose frames are kept where the settings of the camera say so: ``yes``, an option,
    or for a count a comparison as in ``>= 3``; left out: none."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        check_options(self.answer_type, self.options)
        check_keep_when(self.answer_type, self.options, self.keep_when)
        return self

    def content(self) -> QuestionContent:
        """What an answer depends on, with its digest."""
        owner = owner_of("site", self.site)
        return QuestionContent(owner, self.question_id, self.text, self.answer_type, self.options, self.risk)


class Ask(Grown, JsonMessage):
    """Anyone to an edge: one ad-hoc question. The query id makes asking again harmless."""

    grown: ClassVar[frozenset[str]] = frozenset({"ago_ms", "frame"})

    query_id: Name
    """Chosen by the client, unique among its questions to this camera."""
    text: QuestionText
    """The question, as a person would ask it."""
    answer_type: AnswerType = AnswerType.TEXT
    """What the answer may look like; it bounds the tokens that are generated."""
    options: Options = ()
    """Answers to choose from, for answer type ``choice``."""
    deadline_ms: Milliseconds = 30_000
    """Time from its arrival at the edge to its outcome."""
    ago_ms: Milliseconds | None = None
    """Ask the newest kept frame that is at least so old; null asks the next frame, unless ``frame`` names one."""
    frame: FrameId | None = None
    """Ask this frame, which an earlier answer names; null asks the next one, unless ``ago_ms`` is given."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        check_options(self.answer_type, self.options)
        if self.ago_ms is not None and self.frame is not None:
            raise ValueError("ago_ms and frame exclude each other")
        return self

    @property
    def of_the_past(self) -> bool:
        """Whether it is asked of a frame that was taken before; else of the next one."""
        return self.ago_ms is not None or self.frame is not None

    def same_question(self, other: Ask, client: str) -> bool:
        """Whether another ask of the same client asks the same of the same frame."""
        moment = (self.ago_ms, self.frame) == (other.ago_ms, other.frame)
        return moment and self.content(client) == other.content(client)

    def content(self, client: str) -> QuestionContent:
        """The question as the client of its topic owns it, with its digest."""
        return QuestionContent(owner_of("client", client), self.query_id, self.text, self.answer_type, self.options)


class Receipt(JsonMessage):
    """Edge to a client, below its reply topic: what became of a message that is no query, or no readable one."""

    site: Name
    """The edge that says so."""
    about: Annotated[str, Field(max_length=32)]
    """Id of the question or query; empty when the message did not have a readable one."""
    accepted: bool
    """Whether it took effect."""
    reason: Annotated[str, Field(max_length=MAX_RECEIPT_CHARS)] = ""
    """Why not, or what it changed."""
