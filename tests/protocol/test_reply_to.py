"""The reply topic of an ask."""

from __future__ import annotations

import pytest

from pipeline.protocol.effects import ReplyTo
from pipeline.protocol.reply_to import reply_to
from schemas import topics
from schemas.errors import WireSizeError
from schemas.limits import MAX_CORRELATION_BYTES

MINE = topics.reply_topic("me", "gate", "q1")


def _read(response_topic: str | None, correlation_data: bytes = b"42") -> ReplyTo | None:
    return reply_to(response_topic, correlation_data, "gate", "me", "q1")


def test_without_a_response_topic_nobody_waits() -> None:
    assert _read(None) is None


def test_the_client_gets_its_correlation_data_back() -> None:
    assert _read(MINE) == ReplyTo(MINE, b"42")


@pytest.mark.parametrize(
    "topic",
    [
        topics.open_topic("main", "gate"),
        "home/x",
        "",
        f"{topics.ROOT}/reply/me/+/q1",
        topics.reply_topic("me", "gate", "q2"),
        topics.reply_topic("eve", "gate", "q1"),
        topics.reply_topic("me", "yard", "q1"),
        topics.receipt_topic("me", "north", "q1"),
        "lb/v1/reply/me/q1",
    ],
)
def test_an_ask_cannot_make_others_publish_elsewhere_and_is_answered_in_public(topic: str) -> None:
    assert _read(topic) is None


def test_correlation_data_has_a_bound() -> None:
    assert _read(MINE, bytes(MAX_CORRELATION_BYTES)) is not None
    with pytest.raises(WireSizeError, match="129 bytes are over the limit of 128"):
        _read(MINE, bytes(MAX_CORRELATION_BYTES + 1))
