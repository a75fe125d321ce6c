"""Questions of one site and its clients, in each form that the protocol machines take."""

from __future__ import annotations

from pipeline.protocol.effects import AskedQuery
from schemas.identity import QuestionContent, owner_of
from schemas.messages import Ask, QueryRef, Question
from schemas.types import AnswerType

SITE = "north"
CLIENT = "me"


def content(
    question_id: str,
    text: str = "",
    answer_type: AnswerType = AnswerType.TEXT,
    *,
    options: tuple[str, ...] = (),
    risk: float | None = None,
    site: str = SITE,
    ad_hoc: bool = False,
    client: str = CLIENT,
) -> QuestionContent:
    """A standing question of a site, or a client's."""
    owner = owner_of("client", client) if ad_hoc else owner_of("site", site)
    return QuestionContent(owner, question_id, text or f"{question_id}?", answer_type, options, risk)


def asked(question_id: str, deadline_s: float, *, ad_hoc: bool = False, client: str = CLIENT) -> AskedQuery:
    """A question as it is asked of a frame."""
    return AskedQuery(content(question_id, ad_hoc=ad_hoc, client=client), deadline_s)


def ref(question: QuestionContent | str, remaining_ms: int, *, ad_hoc: bool = False) -> QueryRef:
    """A question as an open message names it."""
    known = content(question, ad_hoc=ad_hoc) if isinstance(question, str) else question
    return QueryRef(known.question_id, remaining_ms, known.digest, known.client)


def published(question: QuestionContent | str) -> Question:
    """A standing question as it is retained at the broker."""
    known = content(question) if isinstance(question, str) else question
    return Question(
        site=known.owner.removeprefix("site/"),
        question_id=known.question_id,
        text=known.text,
        answer_type=known.answer_type,
        options=known.options,
        risk=known.risk,
    )


def ask_message(question: QuestionContent | str) -> Ask:
    """A client's question as it publishes it."""
    known = content(question, ad_hoc=True) if isinstance(question, str) else question
    return Ask(query_id=known.question_id, text=known.text, answer_type=known.answer_type, options=known.options)
