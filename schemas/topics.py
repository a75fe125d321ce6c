"""Every topic, built and parsed in one place. They travel on the thin link, so they are short.

========================================= ================================= ==========================================
topic                                     from -> to                        messages
========================================= ================================= ==========================================
``lb/v1/open/{pool}/{camera}``            edge -> pool (share group)        Open
``lb/v1/chunk/{worker}/{camera}``         edge -> one worker                Chunk, Gone, Text
``lb/v1/handover/{worker}``               worker -> one worker              Handover
``lb/v1/control/{camera}``                worker -> edge                    Accept, Refine, Busy, Reject, NeedText
``lb/v1/answer/{camera}``                 worker -> anyone                  Answer
``lb/v1/outcome/{camera}``                edge -> anyone                    QueryOutcome
``lb/v1/question/{question_id}``          operator -> pool, edges; retained Question
``lb/v1/ask/{camera}``                    anyone -> edge, workers           Ask
``lb/v1/reply/{client}/{query_id}``       edge -> the asking client         Answer, QueryOutcome
``lb/v1/status/{kind}/{id}``              every process; retained           Status
========================================= ================================= ==========================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from schemas.errors import TopicError
from schemas.messages import (
    Accept, Answer, Ask, Busy, Chunk, Gone, Handover, Message, NeedText, Open, QueryOutcome, Question, Refine, Reject,
    Status, Text,
)  # fmt: skip
from schemas.types import NAME_PATTERN

ROOT = "lb/v1"
MAX_TOPIC_BYTES = 128
"""Root, family and two names of 32 bytes; well under the 256 bytes of the strictest public broker."""

_NAME = re.compile(NAME_PATTERN)


class Family(StrEnum):
    """First level below the root: what a topic is for."""

    OPEN = "open"
    CHUNK = "chunk"
    HANDOVER = "handover"
    CONTROL = "control"
    ANSWER = "answer"
    OUTCOME = "outcome"
    QUESTION = "question"
    ASK = "ask"
    REPLY = "reply"
    STATUS = "status"


LEVELS: dict[Family, tuple[str, ...]] = {
    Family.OPEN: ("pool", "camera"),
    Family.CHUNK: ("worker", "camera"),
    Family.HANDOVER: ("worker",),
    Family.CONTROL: ("camera",),
    Family.ANSWER: ("camera",),
    Family.OUTCOME: ("camera",),
    Family.QUESTION: ("question_id",),
    Family.ASK: ("camera",),
    Family.REPLY: ("client", "query_id"),
    Family.STATUS: ("kind", "id"),
}
"""Names of the levels below each family."""

MESSAGES: dict[Family, tuple[type[Message], ...]] = {
    Family.OPEN: (Open,),
    Family.CHUNK: (Chunk, Gone, Text),
    Family.HANDOVER: (Handover,),
    Family.CONTROL: (Accept, Refine, Busy, Reject, NeedText),
    Family.ANSWER: (Answer,),
    Family.OUTCOME: (QueryOutcome,),
    Family.QUESTION: (Question,),
    Family.ASK: (Ask,),
    Family.REPLY: (Answer, QueryOutcome),
    Family.STATUS: (Status,),
}
"""Messages that a topic family admits; anything else there is a wire error."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A parsed topic.

    Attributes:
        family: what it is for.
        names: the levels below the family, in the order of :data:`LEVELS`.
    """

    family: Family
    names: tuple[str, ...]

    def name(self, level: str) -> str:
        """The name at a level, for example ``topic.name("camera")``."""
        return self.names[LEVELS[self.family].index(level)]


def _build(family: Family, *names: str) -> str:
    for name in names:
        if not _NAME.fullmatch(name):
            raise TopicError(family, f"{name!r} is no topic name (lower case letters, digits, - and _, at most 32)")
    return "/".join((ROOT, family, *names))


def open_topic(pool: str, camera: str) -> str:
    """Where an edge opens frames of a camera."""
    return _build(Family.OPEN, pool, camera)


def chunk_topic(worker: str, camera: str) -> str:
    """Inbox of a worker for one camera."""
    return _build(Family.CHUNK, worker, camera)


def handover_topic(worker: str) -> str:
    """Where a worker takes parked open messages from others."""
    return _build(Family.HANDOVER, worker)


def control_topic(camera: str) -> str:
    """Where workers talk to a camera's edge."""
    return _build(Family.CONTROL, camera)


def answer_topic(camera: str) -> str:
    """Provisional and terminal answers about a camera."""
    return _build(Family.ANSWER, camera)


def outcome_topic(camera: str) -> str:
    """Terminal outcomes that only the edge can know."""
    return _build(Family.OUTCOME, camera)


def question_topic(question_id: str) -> str:
    """Retained text of a standing question."""
    return _build(Family.QUESTION, question_id)


def ask_topic(camera: str) -> str:
    """Ad-hoc questions to a camera."""
    return _build(Family.ASK, camera)


def reply_topic(client: str, query_id: str) -> str:
    """Response topic of one ad-hoc question."""
    return _build(Family.REPLY, client, query_id)


def status_topic(kind: str, process_id: str) -> str:
    """Retained status of a process."""
    return _build(Family.STATUS, kind, process_id)


def share_filter(pool: str) -> str:
    """Filter that deals a pool's open messages to its workers, one worker each."""
    return f"$share/{pool}/{_build(Family.OPEN, pool)}/+"


def inbox_filter(worker: str) -> str:
    """Filter of all chunks for a worker."""
    return f"{_build(Family.CHUNK, worker)}/+"


def family_filter(family: Family) -> str:
    """Filter of every topic of a family."""
    return "/".join((ROOT, family, *("+" for _ in LEVELS[family])))


def parse(topic: str) -> Topic:
    """Parse a topic name.

    Raises:
        TopicError: it is not one of ours.
    """
    if len(topic) > MAX_TOPIC_BYTES:
        raise TopicError("topic", f"{len(topic)} characters are over the limit of {MAX_TOPIC_BYTES}")
    if not topic.startswith(f"{ROOT}/"):
        raise TopicError("topic", f"{topic!r} is not below {ROOT}/")
    first, *names = topic.removeprefix(f"{ROOT}/").split("/")
    try:
        family = Family(first)
    except ValueError:
        raise TopicError("topic", f"{topic!r}: unknown family {first!r}") from None
    if len(names) != len(LEVELS[family]) or not all(_NAME.fullmatch(name) for name in names):
        raise TopicError(
            family, f"{topic!r} is not {ROOT}/{family}/" + "/".join(f"{{{level}}}" for level in LEVELS[family])
        )
    return Topic(family, tuple(names))
