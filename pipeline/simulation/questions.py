"""Questions of simulated sites and clients. Each text says whose it is, so that an answer shows what was asked."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.identity import QuestionContent, owner_of
from schemas.messages import Question


def standing(site: str, question_id: str) -> QuestionContent:
    """A standing question of a site."""
    return QuestionContent(owner_of("site", site), question_id, f"{question_id} of {site}?")


def ad_hoc(client: str, query_id: str) -> QuestionContent:
    """A client's question."""
    return QuestionContent(owner_of("client", client), query_id, f"{query_id} of {client}?")


def published(sites: Iterable[str], question_ids: Iterable[str]) -> tuple[Question, ...]:
    """The same standing questions at several sites, as they are retained at the broker."""
    ids = tuple(question_ids)
    return tuple(
        Question(site=site, question_id=question_id, text=standing(site, question_id).text)
        for site in sites
        for question_id in ids
    )
