"""Topics: built, parsed, filtered and held against their payload."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from schemas import topics, wire
from schemas.errors import SchemaVersionError, TopicError, WireError
from schemas.messages import BINARY_MESSAGES, JSON_MESSAGES
from schemas.topics import LEVELS, MAX_TOPIC_BYTES, MESSAGES, ROUTES, Family, Role, Topic
from tests.schemas.golden import GOLDEN, Golden
from tests.schemas.strategies import names

BUILDERS: dict[Family, Callable[..., str]] = {
    Family.OPEN: topics.open_topic,
    Family.CHUNK: topics.chunk_topic,
    Family.KEY: topics.key_topic,
    Family.HANDOVER: topics.handover_topic,
    Family.CONTROL: topics.control_topic,
    Family.ANSWER: topics.answer_topic,
    Family.OUTCOME: topics.outcome_topic,
    Family.QUESTION: topics.question_topic,
    Family.ASK: topics.ask_topic,
    Family.REPLY: topics.reply_topic,
    Family.RECEIPT: topics.receipt_topic,
    Family.CONFIG: topics.config_topic,
    Family.STATUS: topics.status_topic,
    Family.LOAD: topics.load_topic,
    **{family: partial(topics.request_topic, family) for family in (Family.RING, Family.PICTURES, Family.ERASE)},
    **{family: partial(topics.event_topic, family) for family in (Family.EVENTS, Family.CLIP, Family.PICTURE)},
}


@pytest.mark.parametrize("family", Family)
@given(data=st.data())
def test_what_is_built_is_parsed_and_filtered(family: Family, data: st.DataObject) -> None:
    levels = tuple(data.draw(names) for _ in LEVELS[family])
    topic = BUILDERS[family](*levels)

    assert topics.parse(topic) == Topic(family, levels)
    assert [topics.parse(topic).name(level) for level in LEVELS[family]] == list(levels)
    assert len(topic.encode()) <= MAX_TOPIC_BYTES
    assert [other for other in Family if topic_matches_sub(topics.family_filter(other), topic)] == [family]


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("name", ["", "+", "#", "a/b", "A", "-a", "a" * 33, "ä", "a\n", "a\x00", "$share"])
def test_names_that_would_change_a_topic_are_refused(family: Family, name: str) -> None:
    good = ["a"] * len(LEVELS[family])
    for position in range(len(good)):
        levels = [*good[:position], name, *good[position + 1 :]]
        with pytest.raises(TopicError):
            BUILDERS[family](*levels)
        with pytest.raises(TopicError):
            topics.parse("/".join((topics.ROOT, family, *levels)))


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "lb/v2",
        "lb/v2/",
        "lb/v1",
        "lb/vx/open/main/gate",
        "lb/v2/open/main",
        "lb/v2/open/main/gate/x",
        "lb/v2/nothing/a",
        "lb/v2/config/north/x",
        "lb/v2/ring/me",
        "/lb/v2/open/main/gate",
        "$share/main/lb/v2/open/main/gate",
        "LB/v2/open/main/gate",
        "lb/v2/open/main/" + "g" * 200,
    ],
)
def test_foreign_topics_are_refused(topic: str) -> None:
    with pytest.raises(TopicError) as caught:
        topics.parse(topic)
    assert caught.value.reason == "topic"


@pytest.mark.parametrize(
    ("version", "older"), [(0, "the peer"), (1, "the peer"), (3, "the process"), (999_999, "the process")]
)
def test_a_topic_of_another_wire_version_is_refused_with_both_versions_and_the_fix(version: int, older: str) -> None:
    with pytest.raises(SchemaVersionError) as caught:
        topics.parse(f"lb/v{version}/open/main/gate")
    assert (caught.value.version, caught.value.accepted) == (version, frozenset({2}))
    assert str(caught.value) == (
        f"open: wire version {version} of the peer, this process speaks 2: update the older side, {older}"
    )


@given(st.text(max_size=60).map(lambda text: f"{topics.ROOT}/{text}") | st.text(max_size=60))
def test_any_text_parses_or_raises(text: str) -> None:
    try:
        topic = topics.parse(text)
    except (TopicError, SchemaVersionError):
        return
    assert "/".join((topics.ROOT, topic.family, *topic.names)) == text


def test_share_group_is_the_pool_and_takes_its_open_topics_only() -> None:
    share, group, filter_ = topics.share_filter("main").split("/", 2)

    assert (share, group) == ("$share", "main")
    assert topic_matches_sub(filter_, topics.open_topic("main", "gate"))
    assert not topic_matches_sub(filter_, topics.open_topic("night", "gate"))


def test_inbox_takes_all_cameras_of_one_worker() -> None:
    assert topic_matches_sub(topics.inbox_filter("w-01"), topics.chunk_topic("w-01", "gate"))
    assert not topic_matches_sub(topics.inbox_filter("w-01"), topics.chunk_topic("w-02", "gate"))


def test_every_message_has_one_home() -> None:
    for message in (*BINARY_MESSAGES, *JSON_MESSAGES):
        homes = {family for family, admitted in MESSAGES.items() if message in admitted}
        assert len(homes - {Family.REPLY, Family.LOAD, Family.EVENTS} or homes) == 1, message


def test_routes_keep_the_thin_link_free_of_acknowledgements() -> None:
    # What a person wants of events is rare, and must not get lost.
    wanted = {Family.RING, Family.PICTURES, Family.ERASE}
    to_edge_only = [
        route for family, route in ROUTES.items() if route.receivers == (Role.EDGE,) and family not in wanted
    ]

    assert to_edge_only
    assert {route.qos for route in to_edge_only} == {0}
    assert {family for family, route in ROUTES.items() if route.retain} == {
        Family.KEY,
        Family.QUESTION,
        Family.CONFIG,
        Family.STATUS,
    }


SELF_NAMING = [
    case
    for case in GOLDEN
    if case.name
    in {"chunk", "gone", "text", "answer_answered", "answer_degraded", "outcome_expired", "question", "status_worker"}
    | {"outcome_for_its_client"}
]


@pytest.mark.parametrize("case", SELF_NAMING, ids=[case.name for case in SELF_NAMING])
def test_topic_and_payload_must_agree(case: Golden) -> None:
    above, _, _ = case.topic.rpartition("/")

    with pytest.raises(TopicError):
        wire.decode_publish(f"{above}/other", case.path.read_bytes())


@pytest.mark.parametrize("family", Family)
def test_empty_payload_deletes_what_is_retained_and_is_no_message_elsewhere(family: Family) -> None:
    topic = BUILDERS[family](*("a" for _ in LEVELS[family]))

    if ROUTES[family].retain:
        assert wire.decode_publish(topic, b"") == (topics.parse(topic), None)
    else:
        with pytest.raises(WireError):
            wire.decode_publish(topic, b"")


def test_unknown_topic_is_refused_before_its_payload() -> None:
    with pytest.raises(WireError) as caught:
        wire.decode_publish("lb/v2/unknown", b"\x00")
    assert isinstance(caught.value, TopicError)
