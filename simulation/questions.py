"""Questions of simulated sites and clients, and answers that say which of them they were given to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from schemas.identity import QuestionContent, owner_of
from schemas.messages import Question
from schemas.types import AnswerType

CROWD = "crowd"
"""Camera and site of the frames that fill a worker, which no edge has asked about."""

_LEAD = {AnswerType.YES_NO: "yes ", AnswerType.COUNT: "3 "}
"""How an answer begins, to have the form of its type."""


class Echo(NamedTuple):
    """What a simulated answer says.

    Attributes:
        safe: whether the model had read enough.
        text: what it was asked.
        mark: of the frame that it read.
    """

    safe: bool
    text: str
    mark: str


def echo(answer_type: AnswerType, safe: bool, text: str, mark: str) -> str:
    """An answer of a simulated model."""
    return f"{_LEAD.get(answer_type, '')}{'right' if safe else 'guess'} {text} {mark}"


def read_echo(answer: str) -> Echo | None:
    """What an answer says; None when no simulated model said it."""
    words = answer.split(" ")
    return Echo(words[-3] == "right", words[-2], words[-1]) if len(words) >= 3 else None


def question_text(*names: str, length: int = 0) -> str:
    """A question without a space, of so many characters or a few more."""
    name = ":".join(names)
    return f"{name}{'.' * (length - len(name) - 1)}?"


def standing(site: str, question_id: str) -> QuestionContent:
    """A standing question of a site."""
    return QuestionContent(owner_of("site", site), question_id, question_text(site, question_id))


def ad_hoc(client: str, query_id: str) -> QuestionContent:
    """A client's question."""
    return QuestionContent(owner_of("client", client), query_id, question_text(client, query_id))


def published(sites: Iterable[str], question_ids: Iterable[str]) -> tuple[Question, ...]:
    """The same standing questions at several sites, as they are retained at the broker."""
    ids = tuple(question_ids)
    return tuple(
        Question(site=site, question_id=question_id, text=standing(site, question_id).text)
        for site in sites
        for question_id in ids
    )


CROWD_QUESTION = standing(CROWD, "q0")
