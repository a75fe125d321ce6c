"""From a log to what virtual cameras do: frames, times, names, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.latents import RecordedLatent, recorded_latent
from analysis.replay.plan import PlanOptions, ReplayAsk, ReplayFrame, ReplayPlan, ReplayQuestion
from analysis.replay.planner import QuestionHistory, make_plan
from analysis.replay.selection import TimeRange, TopicSelection
from analysis.traffic import read_traffic
from pipeline.codec.tables import FrequencyTables
from schemas.errors import BitstreamError, ConfigError, FingerprintError, RecordingGapError, StateError
from schemas.identity import QuestionContent
from schemas.types import AnswerType, FrameId
from tests.recording.recorded_frames import BOOT, FINGERPRINT, LATENTS, START_NS, TABLES, FrameLog, ref, symbols_of

WHOLE = TimeRange(START_NS, START_NS + 1_000 * 1_000_000_000)
CAR = ref("car", 9_600)


def plan_of(log: FrameLog, *, time_range: TimeRange = WHOLE, **options: Any) -> ReplayPlan:
    history = QuestionHistory()
    traffic = read_traffic(history.watch(log.messages))
    boots = count(0xF000)
    given = {"tables": TABLES, "fingerprint": FINGERPRINT, "time_range": time_range, **options}
    return make_plan(traffic, history, PlanOptions(**given), draw_boot=lambda: next(boots), query_suffix="-r1")


def frames(plan: ReplayPlan) -> list[ReplayFrame]:
    return [item for item in plan.items if isinstance(item, ReplayFrame)]


def one_frame(*steps: Callable[[FrameLog], None]) -> FrameLog:
    log = FrameLog()
    log.edge("north", "gate")
    log.question("car", "Is there a car?")
    log.open(1.0, "gate", 4, CAR)
    for step in steps:
        step(log)
    return log


def test_a_site_of_more_cameras_than_its_status_can_name_is_refused_with_the_fix() -> None:
    log = FrameLog()
    log.question("car", "Is there a car?")
    for number in range(129):
        log.open(1.0, f"cam-{number}", 4, CAR)
    with pytest.raises(ConfigError, match="129 cameras at site desk, which may have 128: choose some of them"):
        plan_of(log, site="desk")
    log.messages.pop()
    (site,) = plan_of(log, site="desk").sites.values()
    assert len(site.cameras) == 128


def test_latents_that_no_message_could_carry_by_themselves_are_counted_as_damaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = one_frame(lambda log: log.open(2.0, "gate", 5, ref("car", 9_600)))
    sizes = [len(frame.latent.payload(0, frame.latent.available)) for frame in frames(plan_of(log))]
    assert len(set(sizes)) == 2
    monkeypatch.setattr("analysis.latents.MAX_LATENT_PAYLOAD_BYTES", min(sizes))
    plan = plan_of(log)
    (frame,) = frames(plan)
    assert len(frame.latent.payload(0, frame.latent.available)) == min(sizes)
    assert plan.shortfalls.frames_damaged == 1
    assert f"{max(sizes)} bytes when coded by themselves, a message carries {min(sizes)}" in plan.shortfalls.why_damaged


def test_a_frame_is_offered_when_it_was_taken_with_all_its_time() -> None:
    (frame,) = frames(plan_of(one_frame()))

    # Opened at 1.0 s with 9.6 s of 10 s left: it had waited for 0.4 s.
    assert frame.time_ns == START_NS + 600_000_000
    (query,) = frame.queries
    assert query.question == QuestionContent("site/replay-north", "car", "Is there a car?", AnswerType.YES_NO)
    assert query.deadline_s == pytest.approx(10.0)
    assert query.asked(50.0, rate=10.0).deadline_s == pytest.approx(51.0)
    assert frame.base_latents == 3
    assert frame.site == "replay-north"


def test_frames_get_a_new_boot_and_keep_their_number() -> None:
    log = one_frame(lambda log: log.open(2.0, "gate", 5, CAR))
    log.boot = 0xB002
    log.open(3.0, "gate", 0, CAR)
    plan = plan_of(log)

    assert [frame.frame for frame in frames(plan)] == [FrameId(0xF000, 4), FrameId(0xF000, 5), FrameId(0xF001, 0)]
    assert plan.maps.boots == {BOOT: 0xF000, 0xB002: 0xF001}
    assert json.loads(plan.maps.metadata()["boots"]) == {"0000b001": "0000f000", "0000b002": "0000f001"}
    assert plan.sites["replay-north"].boot == 0xF000


def test_latents_come_out_byte_for_byte_and_no_further_than_they_go() -> None:
    log = one_frame(lambda log: log.chunk(1.2, "gate", 4, 3, 5))
    (frame,) = frames(plan_of(log))
    source = log.latent(4)

    assert (frame.latent.available, frame.latent.latent_count, frame.latent.whole) == (5, LATENTS, False)
    for start, stop in ((0, 3), (3, 5), (0, 5), (2, 4)):
        assert frame.latent.payload(start, stop) == source.payload(start, stop)
    with pytest.raises(RecordingGapError, match=r"recording lacks latents 5\.\.8") as error:
        frame.latent.payload(3, 8)
    assert (error.value.camera, error.value.available, error.value.wanted) == ("gate", 5, 8)
    assert frame.latent.wanted == 8
    with pytest.raises(StateError):
        frame.latent.payload(0, LATENTS + 1)


@given(st.lists(st.tuples(st.integers(0, LATENTS - 1), st.integers(1, LATENTS)), max_size=6), st.integers(1, LATENTS))
def test_whatever_was_recorded_gives_the_longest_prefix_without_a_gap(ranges: list[tuple[int, int]], base: int) -> None:
    log = FrameLog()
    log.open(1.0, "gate", 4, CAR, stop=base)
    held = set(range(base))
    for start, stop in ranges:
        if start < stop:
            log.chunk(1.1, "gate", 4, start, stop)
            held |= set(range(start, stop))
    (trace,) = read_traffic(log.messages).frames.values()
    latent = recorded_latent(trace, TABLES)

    assert latent.available == next(index for index in range(LATENTS + 1) if index not in held)
    assert latent.payload(0, latent.available) == log.latent(4).payload(0, latent.available)


def test_a_stored_latent_makes_the_latent_whole() -> None:
    (frame,) = frames(plan_of(one_frame(lambda log: log.store_latent(0.9, "gate", 4))))

    assert frame.latent.whole
    assert frame.base_latents == 3, "opened as it was recorded"


def test_a_damaged_chunk_costs_what_it_held() -> None:
    def damage(log: FrameLog) -> None:
        log.chunk(1.2, "gate", 4, 3, 5)
        broken = log.messages[-1]
        payload = bytearray(broken.payload)
        payload[-1] ^= 0x5A
        log.messages[-1] = type(broken)(broken.time_ns, broken.topic, bytes(payload), 0)

    (frame,) = frames(plan_of(one_frame(damage)))
    assert frame.latent.available == 3


def test_redacted_latents_are_no_latents() -> None:
    log = one_frame()
    opened = log.messages[-1]
    zeros = bytes(len(log.latent(4).payload(0, 3)))
    redacted = opened.payload.replace(log.latent(4).payload(0, 3), zeros)
    log.messages[-1] = type(opened)(opened.time_ns, opened.topic, redacted, 1)

    with pytest.raises(BitstreamError):
        plan_of(log)


def test_another_codec_is_refused() -> None:
    with pytest.raises(FingerprintError):
        plan_of(one_frame(), fingerprint=b"\xff\xff\xff\xff")
    other = FrequencyTables.fit(symbols_of(9, 8) * 2, support=9)
    with pytest.raises(BitstreamError):
        plan_of(one_frame(), tables=other)


def test_what_the_log_lacks_is_counted_and_left_out() -> None:
    log = one_frame(
        lambda log: log.open(2.0, "gate", 5, ref("bus", 9_000)),
        lambda log: log.open(3.0, "gate", 6, CAR, ref("bus", 9_000)),
    )
    plan = plan_of(log)

    assert [[query.question_id for query in frame.queries] for frame in frames(plan)] == [["car"], ["car"]]
    assert plan.shortfalls.frames_without_text == 1
    assert plan.shortfalls.queries_without_text == {"bus": 2}
    assert plan.shortfalls.latents_partly == 2

    longer = plan_of(log, base_latents=4)
    assert frames(longer) == []
    assert longer.shortfalls.frames_too_short == 3
    shorter = plan_of(log, base_latents=2)
    assert {frame.base_latents for frame in frames(shorter)} == {2}


def test_a_part_of_the_log_and_of_its_cameras() -> None:
    log = one_frame(
        lambda log: log.edge("north", "gate", "yard"),
        lambda log: log.open(2.0, "yard", 0, CAR),
        lambda log: log.open(9.0, "gate", 5, CAR),
    )

    def offered(**options: Any) -> list[tuple[str, int]]:
        return [(frame.camera, frame.frame.sequence) for frame in frames(plan_of(log, **options))]

    assert offered() == [("gate", 4), ("yard", 0), ("gate", 5)]
    assert offered(time_range=TimeRange(START_NS, START_NS + 5_000_000_000)) == [("gate", 4), ("yard", 0)]
    assert offered(selected=TopicSelection(["lb/v2/open/+/yard"])) == [("yard", 0)]
    assert offered(selected=TopicSelection([], ["lb/v2/open/+/yard"])) == [("gate", 4), ("gate", 5)]


def test_questions_are_asked_as_they_stood_then() -> None:
    log = one_frame()
    log.question("car", "Is there a red car?", at_s=2.0)
    log.open(3.0, "gate", 5, CAR)
    plan = plan_of(log)

    assert [frame.queries[0].question.text for frame in frames(plan)] == ["Is there a car?", "Is there a red car?"]
    said = [(item.time_ns - START_NS, item.question.text) for item in plan.items if isinstance(item, ReplayQuestion)]
    assert said == [(0, "Is there a car?"), (2_000_000_000, "Is there a red car?")]
    assert isinstance(plan.items[0], ReplayQuestion)
    assert plan.sites["replay-north"].questions == ("car",)


def test_ad_hoc_questions_get_a_new_key_and_their_text() -> None:
    long_id = "visitor-" + "x" * 24
    log = one_frame()
    log.ask(4.0, "gate", "visit", "How many people?")
    log.ask(4.0, "gate", long_id, "How many dogs?")
    log.open(5.0, "gate", 5, ref("visit", 19_000, ad_hoc=True), ref(long_id, 19_000, ad_hoc=True), CAR)
    plan = plan_of(log)

    new_ids = [query.question_id for query in frames(plan)[1].queries]
    assert new_ids[0] == "visit-r1"
    assert len(new_ids[1]) == 32
    assert new_ids[1].endswith("-r1")
    assert plan.maps.query_ids == {
        "gate/@phone/visit": "gate/@replay/visit-r1",
        f"gate/@phone/{long_id}": f"gate/@replay/{new_ids[1]}",
    }
    owners = [query.question.owner for query in frames(plan)[1].queries]
    assert owners == ["client/replay", "client/replay", "site/replay-north"]
    asks = [item for item in plan.items if isinstance(item, ReplayAsk)]
    assert {item.ask.query_id: item.ask.text for item in asks} == {
        "visit-r1": "How many people?", new_ids[1]: "How many dogs?"
    }  # fmt: skip
    order = [type(item) for item in plan.items]
    assert order.index(ReplayAsk) < len(order) - 1, "workers hear of it before its frame comes"
    # The wait of the frame is that of its standing query; an ad-hoc one had waited for the frame before.
    assert frames(plan)[1].queries[0].deadline_s == pytest.approx(19.4)


def test_equal_ids_of_two_clients_stay_two_questions() -> None:
    log = one_frame()
    others = ref("visit", 19_000, ad_hoc=True)._replace(client="alice")
    log.ask(4.0, "gate", "visit", "How many people?")
    log.ask(4.0, "gate", "visit", "How many dogs?", client="alice")
    log.open(5.0, "gate", 5, ref("visit", 19_000, ad_hoc=True), others)
    plan = plan_of(log)

    asked = {query.question_id: query.question.text for query in frames(plan)[1].queries}
    assert sorted(asked.values()) == ["How many dogs?", "How many people?"]
    assert len(set(plan.maps.query_ids.values())) == 2
    assert {item.ask.query_id: item.ask.text for item in plan.items if isinstance(item, ReplayAsk)} == asked


def test_an_ad_hoc_question_that_was_asked_of_two_frames_is_asked_once() -> None:
    log = one_frame()
    log.ask(1.5, "gate", "visit", "How many people?")
    log.open(2.0, "gate", 5, ref("visit", 19_000, ad_hoc=True))
    log.boot = 0xB002
    log.open(4.0, "gate", 0, ref("visit", 17_000, ad_hoc=True))
    plan = plan_of(log)

    assert [(frame.frame.sequence, len(frame.queries)) for frame in frames(plan)] == [(4, 1), (0, 1)]


def test_cameras_pools_and_sites_can_be_named_anew() -> None:
    log = one_frame(lambda log: log.open(2.0, "gate", 5, CAR, pool="other"))
    with pytest.raises(ConfigError, match="main, other"):
        plan_of(log)
    plan = plan_of(log, pool="test", site="desk", cameras={"gate": "gate-2"})

    assert {(frame.site, frame.camera) for frame in frames(plan)} == {("desk", "gate-2")}
    site = plan.sites["desk"]
    assert (site.pool, site.cameras) == ("test", ("gate-2",))
    assert json.loads(plan.maps.metadata()["cameras"]) == {"gate": "gate-2"}


def test_one_camera_at_two_sites_needs_a_choice() -> None:
    log = one_frame()
    log.boot = 0xB002
    log.edge("south", "gate", at_s=2.0)
    log.open(3.0, "gate", 0, CAR)
    with pytest.raises(ConfigError, match="--site"):
        plan_of(log)
    assert len(frames(plan_of(log, site="desk"))) == 2


def test_a_reopened_frame_is_one_frame() -> None:
    log = one_frame(lambda log: log.open(4.0, "gate", 4, ref("car", 6_600), stop=5, attempt=2))
    (frame,) = frames(plan_of(log))

    assert (frame.base_latents, frame.latent.available) == (3, 5)


def test_a_latent_of_a_log_serves_as_one_of_an_edge() -> None:
    latent = RecordedLatent("gate", FrameId(1, 2), symbols_of(5)[0], LATENTS, TABLES)
    assert latent.whole
    assert latent.latent_count == LATENTS
