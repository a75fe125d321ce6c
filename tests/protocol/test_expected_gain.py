from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.departures import Departure, TrafficClass
from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.effects import Utility
from pipeline.protocol.expected_gain import (
    AD_HOC_WEIGHT,
    DECISION_MARGIN_S,
    FIRST_BASE_SHARE,
    ResponseTime,
    Share,
    chunk_message_bytes,
    open_message_bytes,
)
from pipeline.protocol.settings import EdgeProtocolSettings
from schemas import wire
from schemas.identity import standing_query_id
from schemas.messages import Answer, Chunk, Open, Refine
from schemas.types import FrameId, Outcome
from tests.protocol.fake_latents import LATENTS, FakeLatent
from tests.protocol.harness import FINGERPRINT
from tests.protocol.questions import asked, ref

BASE = 4
FIRST_MARGIN_S = ResponseTime().margin_s


class Edge:
    """Frames, and what wants to leave."""

    def __init__(self, **priorities: float) -> None:
        self.frames = EdgeFrames(
            EdgeProtocolSettings(), site="north", pool="main", boot=1, fingerprint=FINGERPRINT, priorities=priorities
        )

    def offer(self, *deadlines_s: float, camera: str = "gate", ad_hoc: bool = False, now_s: float = 0.0) -> Departure:
        queries = [
            asked(f"q{index}" if not ad_hoc else f"ask-{camera}-{index}", deadline_s, ad_hoc=ad_hoc)
            for index, deadline_s in enumerate(deadlines_s)
        ]
        self.frames.offer(camera, FakeLatent(), BASE, queries, now_s)
        return self.open()

    def open(self) -> Departure:
        (departure,) = [
            departure for departure in self.frames.take_departures() if departure.traffic_class is TrafficClass.OPEN
        ]
        return departure

    def refine(self, opened: Departure, stop: int, now_s: float, attempt: int = 1) -> Departure:
        message = Refine(worker="w0", frame=frame_of(opened), attempt=attempt, start=BASE, stop=stop, lease_ms=3000)
        self.frames.receive_control(camera_of(opened), message, now_s)
        (departure,) = [departure for departure in self.frames.take_departures() if departure.label == "chunk"]
        return departure

    def answer(
        self, opened: Departure, score: float, *, question: str = "q0", latents: int = BASE, safe: bool = False,
        now_s: float = 0.1,
    ) -> None:  # fmt: skip
        outcome = Outcome.ANSWERED if safe else None
        query_id = standing_query_id(camera_of(opened), frame_of(opened), question)
        answer = Answer.model_validate(
            {"query_id": query_id, "owner": "site/north", "camera": camera_of(opened), "frame": frame_of(opened),
             "attempt": 1, "question_id": question, "worker": "w0", "outcome": outcome, "text": "yes", "score": score,
             "latents": latents, "payload_bytes": 10, "looks": 1}
        )  # fmt: skip
        self.frames.receive_answer(answer, now_s)


def frame_of(departure: Departure) -> FrameId:
    assert departure.frame is not None
    return departure.frame


def camera_of(departure: Departure) -> str:
    assert departure.camera is not None
    return departure.camera


def utility_of(effect: Departure, now_s: float = 0.0) -> Utility:
    assert effect.utility is not None
    utility = effect.utility(now_s)
    assert utility is not None
    return utility


def test_a_first_open_offers_the_prior_share_of_its_queries() -> None:
    utility = utility_of(Edge().offer(10.0, 10.0, 20.0))
    assert utility.gain == pytest.approx(3 * FIRST_BASE_SHARE)
    assert utility.leave_by_s == pytest.approx(10.0 - FIRST_MARGIN_S)
    assert utility.ends_s == 20.0


def test_the_edge_learns_for_which_camera_the_base_prefix_is_enough() -> None:
    edge = Edge()
    for number in range(40):
        for camera, safe in (("easy", True), ("hard", False)):
            opened = edge.offer(now_s := number + 10.0, camera=camera, now_s=float(number))
            assert opened.stamp(float(number)) is not None
            edge.answer(opened, 0.6, safe=safe, now_s=number + 0.1)
            edge.frames.tick(now_s)
            edge.frames.take_departures()
    easy, hard = (utility_of(edge.offer(100.0, camera=camera, now_s=60.0), 60.0).gain for camera in ("easy", "hard"))
    assert easy > 0.9
    assert hard < 0.1


def test_a_refinement_that_completes_the_latent_offers_one_a_query_and_another_its_score() -> None:
    edge = Edge()
    opened = edge.offer(10.0, 10.0)
    opened.stamp(0.0)
    edge.answer(opened, 0.8)
    edge.answer(opened, 0.3, question="q1")
    edge.frames.take_departures()
    assert utility_of(edge.refine(opened, LATENTS // 2, 0.2)).gain == pytest.approx(1.1)
    assert utility_of(edge.refine(opened, LATENTS, 0.2)).gain == pytest.approx(2.0)


def test_scores_that_promise_too_much_are_believed_less() -> None:
    edge = Edge()
    for number in range(40):
        opened = edge.offer(number + 10.0, now_s=float(number))
        opened.stamp(float(number))
        edge.answer(opened, 0.9, now_s=number + 0.1)
        edge.answer(opened, 0.9, latents=2 * BASE, now_s=number + 0.2)
        edge.frames.tick(number + 10.0)
        edge.frames.take_departures()
    opened = edge.offer(100.0, now_s=60.0)
    opened.stamp(60.0)
    edge.answer(opened, 0.9, now_s=60.1)
    edge.frames.take_departures()
    assert utility_of(edge.refine(opened, 2 * BASE, 60.2), 60.2).gain < 0.2


def test_priority_and_ad_hoc_questions_weigh_more() -> None:
    edge = Edge(gate=3.0)
    plain, gate, ad_hoc = (
        utility_of(edge.offer(10.0, camera="yard")).gain,
        utility_of(edge.offer(10.0, camera="gate")).gain,
        utility_of(edge.offer(10.0, camera="dock", ad_hoc=True)).gain,
    )
    assert gate == pytest.approx(3.0 * plain)
    assert ad_hoc == pytest.approx(AD_HOC_WEIGHT * plain)


def test_queries_that_cannot_be_in_time_any_more_offer_nothing_while_others_can() -> None:
    opened = Edge().offer(2.0, 30.0)
    utility = utility_of(opened, 1.9)
    assert utility.gain == pytest.approx(FIRST_BASE_SHARE)
    assert utility.leave_by_s == pytest.approx(30.0 - FIRST_MARGIN_S)
    assert utility_of(opened, 29.9).leave_by_s < 29.9, "late, and still worth a degraded answer"
    assert opened.utility is not None
    assert opened.utility(30.0) is None


def test_what_is_decided_or_opened_again_offers_nothing() -> None:
    edge = Edge()
    opened = edge.offer(10.0)
    opened.stamp(0.0)
    assert opened.utility is not None
    assert opened.utility(0.1) is None, "it has left"
    chunk = edge.refine(opened, LATENTS, 0.2)
    assert chunk.utility is not None
    assert chunk.utility(0.3) is not None
    edge.frames.tick(3.5)
    edge.frames.tick(4.5)
    again = edge.open()
    assert utility_of(again, 4.5).gain == pytest.approx(1.0), "the further open carries the whole latent"
    again.stamp(4.5)
    assert chunk.utility(4.6) is None, "it was for an owner that is silent"
    edge.answer(opened, 0.9, safe=True, now_s=4.6)
    assert again.utility is not None
    assert again.utility(4.7) is None


def test_the_next_frame_of_a_camera_is_foreseen() -> None:
    edge = Edge()
    edge.offer(20.0, now_s=0.0)
    opened = edge.offer(24.0, now_s=2.0)
    assert utility_of(opened, 2.0).leave_by_s == pytest.approx(4.0), "a newer frame would supersede it"
    assert utility_of(opened, 4.1).leave_by_s == pytest.approx(24.0 - FIRST_MARGIN_S), "none came: the deadline counts"


def test_the_margin_follows_the_round_trip() -> None:
    edge = Edge()
    for number in range(30):
        opened = edge.offer(number * 5.0 + 20.0, now_s=number * 5.0)
        opened.stamp(number * 5.0)
        edge.answer(opened, 0.9, safe=True, now_s=number * 5.0 + 2.0)
        edge.frames.take_departures()
    utility = utility_of(edge.offer(170.0, ad_hoc=True, now_s=150.0), 150.0)
    assert 170.0 - utility.leave_by_s == pytest.approx(DECISION_MARGIN_S + 2.0, abs=0.2)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=200))
def test_a_share_stays_in_its_bounds(queries: Sequence[tuple[bool, float]]) -> None:
    share = Share(0.5)
    for came, expected in queries:
        share.note(came, max(expected, float(came)))
        assert 0.0 <= share.value <= 1.0


@given(
    st.lists(st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True), min_size=1, max_size=20, unique=True),
    st.integers(1, 4000),
    st.integers(1, 3_600_000),
    st.booleans(),
)
def test_sizes_are_estimated_within_a_few_bytes(
    names: list[str], payload_bytes: int, remaining_ms: int, ad_hoc: bool
) -> None:
    payload = bytes(payload_bytes)
    frame = FrameId(2**31, 70_000)
    refs = tuple(ref(name, remaining_ms, ad_hoc=ad_hoc) for name in names)
    opened = Open(frame=frame, attempt=1, site="north", fingerprint=FINGERPRINT, queries=refs, stop=8, payload=payload)
    chunk = Chunk(camera=names[0], frame=frame, attempt=1, start=8, stop=16, payload=payload)
    assert open_message_bytes(refs, payload_bytes) == pytest.approx(len(wire.encode(opened)), abs=6 + 4 * len(names))
    assert chunk_message_bytes(names[0], payload_bytes) == pytest.approx(len(wire.encode(chunk)), abs=8)
