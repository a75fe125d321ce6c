"""The pure parts of a replay: which part of a log, when, under which names."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.replay.playback import RATE_STEPS, PlayClock
from analysis.replay.remap import CameraRemap, parse_camera_map
from analysis.replay.selection import Moment, TimeRange, TopicFilter, TopicSelection, parse_moment, time_range
from analysis.traffic import read_traffic
from latentbus.replay.keyboard import Key, parse_keys
from pipeline.recording.message import LoggedMessage, MqttProperties
from pipeline.recording.reader import LogReader
from schemas import topics, wire
from schemas.errors import ConfigError
from schemas.identity import standing_query_id
from schemas.messages import Answer, Ask, Chunk, Open, QueryOutcome, QueryRef, Question, Status
from schemas.types import FrameId, Outcome
from tests.recording.golden_log import path_of

S = 1_000_000_000
LOG = TimeRange(1_000 * S, 1_100 * S)


# ---- topics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("lb/v2/#", ["lb/v2", "lb/v2/open/main/gate"], ["lb/v3/a", "lb"]),
        ("lb/v2/open/+/gate", ["lb/v2/open/main/gate"], ["lb/v2/open/gate", "lb/v2/open/a/b/gate"]),
        ("#", ["a", "a/b"], ["$local/latent/gate"]),
        ("+/b", ["a/b", "/b"], ["$local/b", "a/b/c"]),
        ("$local/#", ["$local/latent/gate"], ["local/latent/gate"]),
    ],
)
def test_filters_match_as_a_broker_matches_them(text: str, yes: list[str], no: list[str]) -> None:
    entry = TopicFilter(text)

    assert [topic for topic in yes if not entry.matches(topic)] == []
    assert [topic for topic in no if entry.matches(topic)] == []


@pytest.mark.parametrize("text", ["", "a/#/b", "a+/b", "a/b#", "a\0"])
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="topic filter"):
        TopicFilter(text)


def test_exclusion_wins_over_inclusion() -> None:
    chosen = TopicSelection(["lb/v2/answer/#", "lb/v2/open/#"], ["+/+/+/yard"])

    assert chosen("lb/v2/answer/gate")
    assert not chosen("lb/v2/answer/yard")
    assert not chosen("lb/v2/status/edge/north")
    assert TopicSelection()("anything")


# ---- time -----------------------------------------------------------------------------------------------------------


def test_moments_are_offsets_or_times() -> None:
    assert parse_moment("90.5", "--start").at_ns(LOG.start_ns) == LOG.start_ns + 90_500_000_000
    expected = round(datetime(2026, 5, 4, 10, 0, 0, 250_000, UTC).timestamp() * 1000) * 1_000_000
    for text in ("2026-05-04T10:00:00.250Z", "2026-05-04T12:00:00.250+02:00", "2026-05-04T10:00:00.25"):
        assert parse_moment(text, "--start").at_ns(0) == expected
    for text in ("soon", "-1", "inf", "nan"):
        with pytest.raises(ConfigError, match="--until"):
            parse_moment(text, "--until")


def test_the_part_that_is_meant_lies_in_the_log() -> None:
    def part(**given: object) -> tuple[float, float]:
        found = time_range(LOG, **given)  # type: ignore[arg-type]
        return found.start_ns / S - 1_000, found.stop_ns / S - 1_000

    assert part() == (0, 100)
    assert part(start=Moment(offset_s=30.0)) == (30, 100)
    assert part(start=Moment(offset_s=30.0), duration_s=20.0) == (30, 50)
    assert part(duration_s=20.0, until=Moment(time_ns=1_010 * S)) == (0, 10)
    assert part(start=Moment(time_ns=0), duration_s=1_000.0) == (0, 100)
    with pytest.raises(ConfigError, match=r"100\.0 seconds"):
        part(start=Moment(offset_s=100.0))


def test_messages_are_due_at_the_rate_from_one_anchor() -> None:
    clock = PlayClock(LOG.start_ns, 50.0, rate=10.0)

    assert clock.due_s(LOG.start_ns) == 50.0
    for late_s in (0.0, 3.0, 7.0):
        clock.played(LOG.start_ns + 20 * S, 52.0 + late_s)
        assert clock.due_s(LOG.start_ns + 40 * S) == pytest.approx(54.0), "being late once delays nothing else"
    assert clock.position_ns(54.0) == LOG.start_ns + 40 * S


def test_a_pause_stands_still_and_steps_let_one_go() -> None:
    clock = PlayClock(LOG.start_ns, 0.0, rate=1.0)
    clock.toggle_pause(5.0)

    assert clock.due_s(LOG.start_ns) is None
    assert clock.position_ns(100.0) == LOG.start_ns + 5 * S
    clock.step(100.0)
    assert clock.due_s(LOG.start_ns + 9 * S) == -math.inf
    clock.played(LOG.start_ns + 9 * S, 100.0)
    assert clock.due_s(LOG.start_ns + 10 * S) is None
    assert clock.position_ns(200.0) == LOG.start_ns + 9 * S
    clock.toggle_pause(200.0)
    assert clock.due_s(LOG.start_ns + 10 * S) == pytest.approx(201.0)


def test_a_step_pauses_first() -> None:
    clock = PlayClock(0, 0.0)
    clock.step(1.0)
    assert clock.paused
    clock.played(5 * S, 1.0)
    assert clock.due_s(6 * S) is None


def test_rates_go_up_to_as_fast_as_possible_and_down_again() -> None:
    clock = PlayClock(0, 0.0, rate=50.0)
    clock.faster(1.0)
    clock.faster(1.0)
    assert clock.rate == math.inf
    assert clock.due_s(10**18) == -math.inf
    clock.slower(1.0)
    assert clock.rate == RATE_STEPS[-1]
    assert clock.position_ns(1.0) == 50 * S, "a change of rate does not move the position"
    with pytest.raises(ValueError, match="rate"):
        PlayClock(0, 0.0, rate=0.0)


@given(
    st.lists(st.tuples(st.sampled_from(["pause", "step", "faster", "slower", "played"]), st.floats(0, 10)), max_size=30)
)
def test_log_time_never_runs_backwards(actions: list[tuple[str, float]]) -> None:
    clock, now_s, position = PlayClock(0, 0.0), 0.0, 0
    for action, passes_s in actions:
        now_s += passes_s
        if action == "pause":
            clock.toggle_pause(now_s)
        elif action == "step":
            clock.step(now_s)
        elif action == "played":
            clock.played(position + S, now_s)
        else:
            getattr(clock, action)(now_s)
        assert clock.position_ns(now_s) >= position
        position = clock.position_ns(now_s)


def test_keys_of_a_terminal() -> None:
    assert list(parse_keys(b" s\x1b[C+=-q")) == [
        Key.PAUSE, Key.STEP, Key.STEP, Key.FASTER, Key.FASTER, Key.SLOWER, Key.QUIT
    ]  # fmt: skip
    assert list(parse_keys(b"\x1b[A\x1b[1;5Dxyz q")) == [Key.PAUSE, Key.QUIT]
    assert list(parse_keys(b"\x1b[")) == []


# ---- names ----------------------------------------------------------------------------------------------------------

FRAME = FrameId(7, 3)


def logged(topic: str, payload: bytes) -> LoggedMessage:
    return LoggedMessage(LOG.start_ns, topic, payload, 1, retain=False)


def answer(camera: str, query_id: str) -> Answer:
    return Answer(
        query_id=query_id, owner="site/north", camera=camera, frame=FRAME, attempt=1, question_id="car", worker="w1",
        outcome=Outcome.ANSWERED, text="yes", score=0.9, latents=8, payload_bytes=40, looks=1,
    )  # fmt: skip


def test_the_reply_topic_of_an_ask_is_renamed_with_its_camera() -> None:
    remap = CameraRemap({"gate": "gate-2"})
    properties = MqttProperties(response_topic=topics.reply_topic("alice", "gate", "q1"), correlation_data=b"7")
    ask = replace(logged(topics.ask_topic("gate", "alice"), b'{"query_id":"q1","text":"?"}'), properties=properties)
    found = remap(ask)
    assert found.topic == topics.ask_topic("gate-2", "alice")
    assert found.properties == replace(properties, response_topic=topics.reply_topic("alice", "gate-2", "q1"))
    elsewhere = replace(ask, properties=MqttProperties(response_topic="home/x"))
    assert remap(elsewhere).properties == elsewhere.properties


def test_cameras_are_renamed_in_topics_and_payloads() -> None:
    remap = CameraRemap({"gate": "gate-2"})
    standing = standing_query_id("gate", FRAME, "car")

    found = remap(logged(topics.answer_topic("gate"), wire.encode(answer("gate", standing))))
    topic, message = wire.decode_publish(found.topic, found.payload)
    assert topic.name("camera") == "gate-2"
    assert message == answer("gate-2", standing_query_id("gate-2", FRAME, "car"))

    chunk = Chunk(camera="gate", frame=FRAME, attempt=1, start=3, stop=5, payload=b"x")
    found = remap(logged(topics.chunk_topic("w1", "gate"), wire.encode(chunk)))
    assert found.topic == "lb/v2/chunk/w1/gate-2"
    assert wire.decode_publish(found.topic, found.payload)[1] == chunk.model_copy(update={"camera": "gate-2"})

    status = Status(kind="edge", id="north", boot=7, online=True, cameras=("yard", "gate"))
    found = remap(logged(topics.status_topic("edge", "north"), wire.encode(status)))
    assert wire.decode_publish(found.topic, found.payload)[1] == status.model_copy(
        update={"cameras": ("yard", "gate-2")}
    )

    question = Question(site="north", question_id="car", text="Is there a car?", cameras=("gate", "yard"))
    found = remap(logged(topics.question_topic("north", "car"), wire.encode(question)))
    assert wire.decode_publish(found.topic, found.payload)[1] == question.model_copy(
        update={"cameras": ("gate-2", "yard")}
    )
    everywhere = logged(
        topics.question_topic("north", "car"), wire.encode(question.model_copy(update={"cameras": None}))
    )
    assert remap(everywhere) == everywhere


def test_cameras_of_a_log_of_version_one_are_renamed_and_it_stays_one() -> None:
    remap = CameraRemap({"gate": "gate-2"})
    with LogReader(path_of("v1_fleet")) as reader:
        before = list(reader.messages())
    after = [remap(message) for message in before]

    assert [message.topic for message in after] == [
        re.sub(r"^(lb/v1/.*/)gate$", r"\1gate-2", message.topic) for message in before
    ]
    old, new = read_traffic(before), read_traffic(after)
    assert (new.messages, new.undecodable) == (old.messages, old.undecodable)
    assert {camera for camera, _ in new.frames} == {"gate-2", "yard"}
    assert new.sites == {"north": ("gate-2", "yard")}
    assert [re.sub("^gate/", "gate-2/", query_id) for query_id in old.queries] == list(new.queries)
    assert not remap.not_understood
    broken = LoggedMessage(0, "lb/v1/open/main/gate", b"garbage")
    assert remap(broken) == replace(broken, topic="lb/v1/open/main/gate-2")
    assert remap.not_understood == {"open": 1}
    assert remap(LoggedMessage(0, "lb/v1/open/gate", b"")).topic == "lb/v1/open/gate"


def test_keys_of_clients_questions_follow_and_what_names_no_camera_stays() -> None:
    remap = CameraRemap({"gate": "gate-2"})
    ended = QueryOutcome(
        query_id="gate/@me/visit", owner="client/me", camera="gate", frame=FRAME, question_id="visit",
        outcome=Outcome.EXPIRED,
    )  # fmt: skip
    found = remap(logged(topics.outcome_topic("gate"), wire.encode(ended)))
    message = wire.decode_publish(found.topic, found.payload)[1]
    assert isinstance(message, QueryOutcome)
    assert (message.query_id, message.camera) == ("gate-2/@me/visit", "gate-2")

    opened = Open(
        frame=FRAME,
        attempt=1,
        site="north",
        fingerprint=b"1234",
        queries=(QueryRef("car", 500, bytes(8)),),
        stop=3,
        payload=b"abc",
    )
    found = remap(logged(topics.open_topic("main", "gate"), wire.encode(opened)))
    assert (found.topic, found.payload) == ("lb/v2/open/main/gate-2", wire.encode(opened))

    for untouched in (
        logged(topics.ask_topic("yard", "client"), wire.encode(Ask(query_id="a", text="Who is at the gate?"))),
        logged("house/gate/light", b"gate"),
    ):
        assert remap(untouched) == untouched
    assert remap.not_understood.total() == 0


def test_a_payload_that_does_not_decode_is_counted() -> None:
    remap = CameraRemap({"gate": "gate-2"})
    found = remap(logged(topics.open_topic("main", "gate"), b"garbage"))

    assert (found.topic, found.payload) == ("lb/v2/open/main/gate-2", b"garbage")
    assert remap.not_understood == {"open": 1}


@pytest.mark.parametrize("pairs", [["gate"], ["gate="], ["gate=A b"], ["a=b", "a=c"], ["a=c", "b=c"]])
def test_a_wrong_camera_map_is_refused(pairs: list[str]) -> None:
    with pytest.raises(ConfigError, match="--remap-camera"):
        parse_camera_map(pairs)
