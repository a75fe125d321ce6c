"""A log understood: queries, frames, bytes; whatever it holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.traffic import read_traffic
from pipeline.recording.message import LoggedMessage, MqttProperties, wire_bytes
from pipeline.recording.stored_latent import StoredLatent, decode_stored_latent, encode_stored_latent, latent_topic
from schemas import topics
from schemas.errors import WireError
from schemas.messages import FollowUp, Handover, QueryRef, Text
from schemas.topics import Family
from schemas.types import AnswerType, FrameId, Outcome
from schemas.wire import encode
from schemas.wire_cost import publish_wire_bytes
from tests.recording.fleet_log import (
    BOOT,
    CHUNK_PAYLOAD,
    FINGERPRINT,
    OPEN_PAYLOAD,
    START_NS,
    FleetLog,
    demo_log,
)
from tests.schemas.golden import GOLDEN

FRAME = FrameId(BOOT, 1)


def test_a_query_has_its_question_its_answers_and_its_outcome() -> None:
    query = read_traffic(demo_log().messages).queries[f"gate/{FRAME}/count"]
    assert (query.camera, query.frame, query.question_id, query.ad_hoc) == ("gate", FRAME, "count", False)
    assert (query.text, query.answer_type) == ("How many people wait?", AnswerType.COUNT)
    assert (query.deadline_ms, query.remaining_ms, query.asked_ns) == (8_000, 7_500, START_NS + 1_000_000_000)
    assert [(answer.text, answer.outcome) for _, answer in query.answers] == [("2", None), ("three", Outcome.ANSWERED)]
    assert (query.outcome, query.answer_text, query.score, query.latents) == (Outcome.ANSWERED, "three", 0.8, 24)
    assert query.worker == "w1"
    assert query.latency_ms == pytest.approx(300)


def test_a_query_that_only_the_edge_ends_has_its_reason_and_no_answer() -> None:
    query = read_traffic(demo_log().messages).queries[f"gate/{FrameId(BOOT, 2)}/car"]
    assert (query.outcome, query.reason, query.answer_text, query.score) == (Outcome.EXPIRED, "why not", "", None)
    assert query.latency_ms == pytest.approx(7_500)


def test_an_ad_hoc_query_begins_with_its_ask() -> None:
    traffic = read_traffic(demo_log().messages)
    query = traffic.queries["yard/@phone/ask-7f"]
    assert (query.ad_hoc, query.owner) == (True, "client/phone")
    assert (query.text, query.answer_type, query.deadline_ms) == ("Who parks at the ramp?", AnswerType.COUNT, 20_000)
    assert query.asked_ns == START_NS + 1_500_000_000
    asked = traffic.asks["yard/@phone/ask-7f"]
    assert (asked.camera, asked.client, asked.asked_ns) == ("yard", "phone", query.asked_ns)
    assert asked.properties is not None
    assert asked.properties.response_topic == "lb/v2/reply/phone/yard/ask-7f"


def test_a_frame_has_what_was_sent_and_said_about_it() -> None:
    log = demo_log()
    log.revoke(1.4, "gate", 1, "w2")
    frame = read_traffic(log.messages).frames["gate", FRAME]
    assert frame.pool == "main"
    assert [(ns - START_NS, opened.attempt) for ns, opened in frame.opens] == [(1_000_000_000, 1)]
    assert [(worker, chunk.start, chunk.stop) for _, worker, chunk in frame.chunks] == [("w1", 8, 24)]
    assert [type(control).__name__ for _, control in frame.controls] == ["Refine"]
    assert frame.query_ids == [f"gate/{FRAME}/car", f"gate/{FRAME}/count"]
    assert frame.latent_bytes == len(OPEN_PAYLOAD) + len(CHUNK_PAYLOAD)
    sent = [message for message in log.messages if message.topic.startswith(("lb/v2/open/main/gate", "lb/v2/chunk"))]
    of_first = [message for message in sent if message.time_ns < START_NS + 2_000_000_000]
    assert frame.wire_bytes == sum(
        publish_wire_bytes(message.topic, len(message.payload), message.qos) for message in of_first
    )


def test_bytes_go_to_the_camera_and_the_direction_that_they_travel() -> None:
    log = demo_log()
    traffic = read_traffic(log.messages)
    by_family: dict[str, int] = {}
    for message in log.messages:
        family = message.topic.split("/")[2]
        by_family[family] = by_family.get(family, 0) + wire_bytes(message)
    assert traffic.uplink_bytes.total() == by_family["open"] + by_family["chunk"] + by_family["outcome"]
    assert traffic.downlink_bytes.total() == by_family["control"] + by_family["answer"] + by_family["ask"]
    assert traffic.uplink_bytes.total() == sum(frame.wire_bytes for frame in traffic.frames.values())
    assert set(traffic.uplink_bytes) == {"gate", "yard"}


def test_a_follow_up_costs_its_frame_and_names_its_query() -> None:
    log = demo_log()
    before = read_traffic(log.messages)
    log.ask(2.1, "gate", "ask-80", "What colour is it?")
    follow_up = FollowUp(frame=FRAME, attempt=1, queries=(log.ref("ask-80", ad_hoc=True),), age_ms=1_100)
    log.put(2.2, topics.chunk_topic("w1", "gate"), follow_up)
    traffic = read_traffic(log.messages)
    frame = traffic.frames["gate", FRAME]
    cost_bytes = wire_bytes(log.messages[-1])
    assert traffic.uplink_bytes["gate"] - before.uplink_bytes["gate"] == cost_bytes
    assert frame.wire_bytes - before.frames["gate", FRAME].wire_bytes == cost_bytes
    query = traffic.queries["gate/@phone/ask-80"]
    assert (query.frame, query.text, query.digest) == (FRAME, "What colour is it?", follow_up.queries[0].digest)
    assert query.query_id in frame.query_ids


def test_properties_weigh_as_in_the_packet() -> None:
    bare = LoggedMessage(0, "lb/v2/ask/gate", b"12345", qos=1)
    full = replace(
        bare,
        properties=MqttProperties(
            payload_format=1,
            expiry_s=5,
            content_type="ab",
            response_topic="abc",
            correlation_data=b"1234",
            user=(("k", "v"),),
        ),
    )
    assert wire_bytes(full) - wire_bytes(bare) == 2 + 5 + 5 + 6 + 7 + 7


def test_an_open_that_is_logged_twice_counts_once() -> None:
    log = demo_log()
    once = read_traffic(log.messages)
    twice = read_traffic([message for message in log.messages for _ in range(1 + ("/open/" in message.topic))])
    assert twice.repeats == 3
    assert twice.uplink_bytes == once.uplink_bytes
    assert [len(frame.opens) for frame in twice.frames.values()] == [1, 1, 1]


def test_the_first_terminal_counts_and_a_copy_for_the_client_is_no_second_answer() -> None:
    log = demo_log()
    answer = log.answer(3.0, "yard", 1, "ask-7f", "late", ad_hoc=True)
    log.put(3.0, topics.reply_topic("phone", "yard", "ask-7f"), answer, qos=1)
    traffic = read_traffic(log.messages)
    query = traffic.queries["yard/@phone/ask-7f"]
    assert query.answer_text == "nobody at all"
    assert [given.text for _, given in query.answers] == ["nobody at all", "late"]
    assert (traffic.repeats, traffic.conflicts) == (1, 1)


def test_a_log_that_begins_in_the_middle_still_knows_its_queries() -> None:
    log = FleetLog()
    log.answer(5.0, "gate", 1, "car", "no")
    log.put(5.1, topics.chunk_topic("w1", "gate"), Text(
        camera="gate", owner="site/north", question_id="car", text="Is there a car?", answer_type=AnswerType.YES_NO
    ))  # fmt: skip
    query = read_traffic(log.messages).queries[f"gate/{FRAME}/car"]
    assert (query.outcome, query.remaining_ms, query.deadline_ms) == (Outcome.ANSWERED, None, None)
    assert (query.text, query.answer_type) == ("Is there a car?", AnswerType.YES_NO)


def test_an_ad_hoc_question_follows_its_edge_to_another_frame() -> None:
    log = FleetLog()
    log.ask(0.0, "gate", "ask-1", "What is on the belt?")
    log.open(0.1, "gate", 1, "ask-1", ad_hoc=True)
    log.open(5.0, "gate", 2, "ask-1", ad_hoc=True)
    log.answer(5.2, "gate", 2, "ask-1", "a box", ad_hoc=True)
    traffic = read_traffic(log.messages)
    assert traffic.queries["gate/@phone/ask-1"].frame == FrameId(BOOT, 2)
    assert [frame.query_ids for frame in traffic.frames.values()] == [["gate/@phone/ask-1"]] * 2
    assert traffic.queries["gate/@phone/ask-1"].latency_ms == pytest.approx(5_200)


def test_sites_statuses_and_fingerprints() -> None:
    log = demo_log()
    will = topics.status_topic("edge", "north")
    log.put(9.9, will, b'{"kind":"edge","id":"north","boot":7,"online":false}', qos=1, retain=True)
    log.put(9.9, topics.status_topic("worker", "w1"), b"", qos=1, retain=True)
    traffic = read_traffic(log.messages)
    assert traffic.sites == {"north": ("gate", "yard")}
    assert [status.online for _, status in traffic.statuses["edge", "north"]] == [True, False]
    assert traffic.fingerprints == {FINGERPRINT.hex(): 4}
    assert (traffic.start_ns, traffic.stop_ns) == (START_NS, START_NS + 9_900_000_000)
    assert not traffic.undecodable


def test_a_handover_belongs_to_its_frame_and_costs_no_uplink() -> None:
    log = FleetLog()
    message = Handover(
        camera="gate",
        hops=1,
        frame=FRAME,
        attempt=1,
        site="north",
        fingerprint=FINGERPRINT,
        queries=(QueryRef("car", 5_000, bytes(8)),),
        stop=8,
        payload=OPEN_PAYLOAD,
    )
    log.put(0.0, topics.handover_topic("w2"), message, qos=1)
    traffic = read_traffic(log.messages)
    assert [(worker, handed) for _, worker, handed in traffic.frames["gate", FRAME].handovers] == [("w2", message)]
    assert not traffic.uplink_bytes


def test_a_stored_latent_belongs_to_its_frame() -> None:
    log = demo_log()
    stored = StoredLatent("gate", FRAME, base=8, stop=64, payload=b"whole")
    log.put(1.0, latent_topic("gate"), encode_stored_latent(stored))
    log.put(1.0, latent_topic("gate"), b"\x91\x01")
    traffic = read_traffic(log.messages)
    assert traffic.frames["gate", FRAME].stored_latent == stored
    assert traffic.undecodable == {"latent/malformed": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        encode_stored_latent(StoredLatent("gate", FRAME, base=9, stop=8, payload=b"x")),
        encode_stored_latent(StoredLatent("gate", FRAME, base=0, stop=8, payload=b"x")),
        encode_stored_latent(StoredLatent("gate", FRAME, base=8, stop=8, payload=b"")),
        b"\x96\x02" + encode_stored_latent(StoredLatent("gate", FRAME, base=8, stop=8, payload=b"x"))[2:],
    ],
)  # fmt: skip
def test_a_stored_latent_that_is_none_raises(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_stored_latent(latent_topic("gate"), data)


hostile = st.one_of(
    st.builds(
        LoggedMessage,
        st.integers(0, 2**60),
        st.sampled_from([
            *(f"lb/v2/{family.value}/a/b" for family in Family),
            *(f"lb/v2/{family.value}/a" for family in Family),
            "lb/v2/nothing", "lb/v2/open/a/b", "home/kitchen", "", latent_topic("a"),
        ]),
        st.binary(max_size=64),
        st.sampled_from([0, 1, 2]),
    ),
    # Valid messages in any order, each on its own topic and on every other one.
    st.builds(
        lambda case, other: LoggedMessage(0, other.topic, encode(case.message)),
        st.sampled_from(GOLDEN),
        st.sampled_from(GOLDEN),
    ),
    st.sampled_from(GOLDEN).map(lambda case: LoggedMessage(0, case.topic, encode(case.message))),
)  # fmt: skip


@given(st.lists(hostile, max_size=12))
def test_whatever_a_log_holds_is_understood_or_counted(messages: list[LoggedMessage]) -> None:
    traffic = read_traffic(messages)
    assert traffic.messages.total() + traffic.undecodable.total() == len(messages)
    assert len(traffic.undecodable) <= 6 * (len(Family) + 2)
