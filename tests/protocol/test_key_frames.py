"""Frames that are coded given a key frame: who has it, who lacks it, and what becomes of them."""

from __future__ import annotations

import itertools

import pytest

from pipeline.protocol.departures import TrafficClass
from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.effects import GivenKey, KeyFrameLost
from pipeline.protocol.ports import Delivery
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.worker_frame import WorkerStage
from schemas.messages import (
    Accept,
    Answer,
    Chunk,
    Handover,
    KeyFrame,
    Open,
    Refine,
    Reject,
    RejectReason,
    Status,
)  # fmt: skip
from schemas.types import FrameId, Outcome
from tests.protocol.fake_latents import GIVEN_KEY, LATENTS, FakeLatent
from tests.protocol.harness import FINGERPRINT, POOL, Fleet, finals, scores_at
from tests.protocol.questions import asked

KEY = FakeLatent(LATENTS)
GIVEN = FakeLatent(GIVEN_KEY + LATENTS)
ROUND_TRIP_S = 0.02


def _opens(fleet: Fleet) -> list[Open]:
    return [message for message in fleet.messages(Open) if isinstance(message, Open)]


def _chunks(fleet: Fleet) -> list[Chunk]:
    return [message for message in fleet.messages(Chunk) if isinstance(message, Chunk)]


def _reject(frame: FrameId, *, worker: str = "w0", attempt: int = 1) -> Reject:
    return Reject(
        worker=worker, frame=frame, attempt=attempt, reason=RejectReason.KEY_FRAME, fingerprint=FINGERPRINT
    )  # fmt: skip


def test_a_key_frame_leaves_before_the_open_of_its_frame() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    fleet.uplink_s = lambda: 0.5
    frame = fleet.ask("q0", as_key=True)
    fleet.run()
    assert [type(message) for _, message in fleet.sent[:2]] == [KeyFrame, Open]
    topic, message = fleet.sent[0]
    assert topic == "lb/v2/key/main/gate"
    assert message == KeyFrame(frame=frame, fingerprint=FINGERPRINT, payload=KEY.payload(0, LATENTS))
    (opened,) = _opens(fleet)
    assert (opened.key, opened.payload) == (frame.sequence, GIVEN.payload(0, 4)), "it is coded given itself"
    assert set(fleet.outcomes().values()) == {"answered"}


def test_a_key_frame_of_a_superseded_frame_leaves_all_the_same() -> None:
    fleet = Fleet(score=scores_at(0.99))
    fleet.uplink_s = iter([1.0, 2.0, 2.0]).__next__
    frame = fleet.ask("q0", as_key=True)
    fleet.ask("q0", given=frame)
    fleet.run()
    assert sorted(fleet.outcomes().values()) == ["answered", "superseded"]
    assert [message.key for message in _opens(fleet)] == [frame.sequence]
    assert len(fleet.messages(KeyFrame)) == 1
    assert not fleet.messages(Reject)


def test_later_frames_given_a_key_frame_are_read_by_whichever_worker_gets_them() -> None:
    fleet = Fleet(workers=3, score=scores_at(0.5, 0.99))
    key = fleet.ask("q0", as_key=True)
    fleet.run(1.0)
    for _ in range(3):
        fleet.ask("q0", given=key)
        fleet.run(fleet.now_s + 1.0)
    fleet.run()
    assert set(fleet.outcomes().values()) == {"answered"}
    assert {answer.worker for answer in finals(fleet.messages(Answer)) if isinstance(answer, Answer)} == {
        *fleet.workers
    }
    assert {message.key for message in _opens(fleet)} == {message.key for message in _chunks(fleet)} == {key.sequence}
    assert len(_opens(fleet)) == 4
    assert len(_chunks(fleet)) == 4


def test_a_worker_without_the_key_frame_costs_one_attempt_and_no_back_off() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    fleet.loses_key = lambda name: True
    frame = fleet.ask("q0", as_key=True)
    fleet.run()
    (reject,) = fleet.messages(Reject)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.attempt) == (RejectReason.KEY_FRAME, 1)
    assert [(m.attempt, m.key, m.payload[:1]) for m in _opens(fleet)] == [
        (1, frame.sequence, GIVEN.payload(0, 1)),
        (2, None, KEY.payload(0, 1)),
    ]
    assert [chunk.key for chunk in _chunks(fleet)] == [None]
    assert set(fleet.outcomes().values()) == {"answered"}
    passes_s = 2 * fleet.workers["w0"].pass_s
    assert fleet.decided_s[0] == pytest.approx(3 * ROUND_TRIP_S + passes_s)
    assert fleet.decided_s[0] < EdgeProtocolSettings().backoff_s
    assert fleet.edge.counters["key_frame_missing"] == fleet.workers["w0"].session.counters["key_frame_missing"] == 1
    assert fleet.edge.counters["latents_sent_again_reopen"] == 4


def test_an_edge_reads_which_key_frame_an_unfinished_frame_is_given() -> None:
    fleet = Fleet(workers=0)
    key = fleet.ask("q0", camera="yard", as_key=True)
    given = fleet.ask("q0", "q1", camera="yard", given=key)
    alone = fleet.ask("q0", camera="gate")
    assert key_of(fleet.edge.frames, "yard", key) == key_of(fleet.edge.frames, "yard", given) == key.sequence
    assert key_of(fleet.edge.frames, "gate", alone) is None
    assert key_of(fleet.edge.frames, "gate", FrameId(7, 99)) is None
    fleet.edge.frames.receive_control("yard", _reject(given), fleet.now_s)
    assert key_of(fleet.edge.frames, "yard", given) is None


def test_two_workers_that_reject_one_attempt_do_not_fail_the_frame() -> None:
    fleet = Fleet(workers=0)
    frame = fleet.ask("q0", as_key=True)
    fleet.uplink_s = lambda: 1.0
    for worker in ("w0", "w1", "w0"):
        fleet.edge.frames.receive_control("gate", _reject(frame, worker=worker), fleet.now_s)
    fleet._settle()
    fleet.run(2.0)
    fleet.edge.frames.receive_control("gate", _reject(frame, worker="w1"), fleet.now_s)
    assert fleet.edge.unfinished() == 1
    assert [(message.attempt, message.key) for message in _opens(fleet)] == [(1, 0), (2, None)]


def test_only_the_owner_may_miss_the_key_frame_of_a_claimed_frame() -> None:
    fleet = Fleet(workers=0)
    frame = fleet.ask("q0", as_key=True)
    fleet.edge.frames.receive_control("gate", Accept(worker="w0", frame=frame, attempt=1, lease_ms=5000), fleet.now_s)
    fleet.edge.frames.receive_control("gate", _reject(frame, worker="w1"), fleet.now_s)
    fleet._settle()
    assert (len(_opens(fleet)), key_of(fleet.edge.frames, "gate", frame)) == (1, frame.sequence)
    fleet.edge.frames.receive_control("gate", _reject(frame, worker="w0"), fleet.now_s)
    fleet._settle()
    assert [message.key for message in _opens(fleet)] == [frame.sequence, None]


def test_attempts_bound_a_worker_that_misses_a_key_frame_that_is_not_named() -> None:
    fleet = Fleet(workers=0, edge_settings=EdgeProtocolSettings(attempts=3))
    frame = fleet.ask("q0", as_key=True)
    for attempt in (1, 2, 3):
        fleet.edge.frames.receive_control("gate", _reject(frame, attempt=attempt), fleet.now_s)
        fleet._settle()
    assert [(message.attempt, message.key) for message in _opens(fleet)] == [(1, 0), (2, None), (3, None)]
    (terminal,) = fleet.decisions
    assert (terminal.outcome, terminal.reason) == (Outcome.FAILED, "no worker answered in 3 attempts")


def test_with_one_attempt_a_missing_key_frame_still_costs_one_more() -> None:
    fleet = Fleet(score=scores_at(0.99), edge_settings=EdgeProtocolSettings(attempts=1))
    fleet.loses_key = lambda name: True
    fleet.ask("q0", as_key=True)
    fleet.run()
    assert set(fleet.outcomes().values()) == {"answered"}
    assert len(_opens(fleet)) == 2


def test_a_frame_that_is_opened_again_after_silence_stands_by_itself() -> None:
    fleet = Fleet(workers=2, score=scores_at(0.5, 0.99))
    fleet.ask("q0", as_key=True, deadline_s=30.0)
    fleet.run(0.02)
    fleet.kill("w0", will=False)
    fleet.run()
    assert [message.key for message in _opens(fleet)] == [0, None]
    assert [chunk.key for chunk in _chunks(fleet)] == [None]
    assert set(fleet.outcomes().values()) == {"answered"}


def test_a_slow_owner_keeps_its_key_frame() -> None:
    """It claims a frame that waits to be opened again: what it has is given the key frame, what comes may be alone."""
    fleet = Fleet(workers=0)
    fleet.add_worker("w0", scores_at(0.5, 0.99), WorkerProtocolSettings(base_lease_s=100.0)).pass_s = 3.9
    fleet.uplink_s = iter([0.0, 0.0, 1.0]).__next__
    fleet.ask("q0", as_key=True)
    fleet.run()
    assert set(fleet.outcomes().values()) == {"answered"}
    assert len(_opens(fleet)) == 1
    assert [chunk.key for chunk in _chunks(fleet)] == [None]


def test_a_handover_names_the_key_frame() -> None:
    fleet = Fleet(workers=2, score=scores_at(0.99))
    loaded = fleet.workers["w0"]
    loaded.pass_s = 4.0
    loaded.frames.passes.note_batch(8.0, 1)
    status = Status(kind="worker", id="w1", boot=1, online=True, pool=POOL, fingerprint=FINGERPRINT.hex(),
                    capacity=100)  # fmt: skip
    loaded.frames.receive_load(status, 0.0)
    fleet.dealt = itertools.repeat(0)
    for camera in range(12):
        fleet.ask("q0", camera=f"c{camera}", deadline_s=20.0, as_key=True)
    fleet.run()
    assert set(fleet.outcomes().values()) == {"answered"}
    handovers = [message for message in fleet.messages(Handover) if isinstance(message, Handover)]
    assert {message.key for message in handovers} == {0}
    assert not fleet.messages(Reject)


def test_a_handover_to_a_worker_without_the_key_frame_is_opened_again() -> None:
    fleet = Fleet(workers=2, score=scores_at(0.99), worker_settings=WorkerProtocolSettings(max_hops=1))
    fleet.loses_key = lambda name: name == "w1"
    first = fleet.workers["w0"]
    status = Status(kind="worker", id="w1", boot=1, online=True, pool=POOL, fingerprint=FINGERPRINT.hex(),
                    capacity=100)  # fmt: skip
    first.frames.receive_load(status, 0.0)
    first.session.drain(0.0)
    fleet.ask("q0", as_key=True)
    fleet.run()
    assert len(fleet.messages(Handover)) >= 1
    assert [message.worker for message in fleet.messages(Reject) if isinstance(message, Reject)] == ["w1"]
    assert set(fleet.outcomes().values()) == {"answered"}


def test_a_frame_keeps_the_key_frame_that_its_worker_has_forgotten_since() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    fleet.delay_s = lambda topic, message: 1.0 if isinstance(message, Chunk) else 0.01
    key = fleet.ask("q0", as_key=True)
    fleet.run(0.5)
    session = fleet.workers["w0"].frames
    assert [frame.stage for frame in session.frames()] == [WorkerStage.WAITING]
    for sequence in (7, 8):
        later = KeyFrame(frame=FrameId(7, sequence), fingerprint=FINGERPRINT, payload=KEY.payload(0, LATENTS))
        session.receive_key_frame("gate", later)
    assert session._keys.get("gate", 7, key.sequence) is None
    fleet.run()
    assert [chunk.key for chunk in _chunks(fleet)] == [key.sequence]
    assert session.counters["chunk_extended"] == 1
    assert set(fleet.outcomes().values()) == {"answered"}


def test_a_chunk_given_a_key_frame_that_nobody_has_is_dropped() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    frame = fleet.ask("q0")
    fleet.drop = lambda topic, message: isinstance(message, Chunk)
    fleet.run(0.5)
    session = fleet.workers["w0"].frames
    chunk = Chunk(camera="gate", frame=frame, attempt=1, start=4, stop=8, payload=GIVEN.payload(4, 8), key=5)
    session.receive_chunk("gate", chunk, fleet.now_s)
    assert session.counters["chunk_key_frame_missing"] == 1
    assert [held.prefix for held in session.frames()] == [4]
    fleet.drop = lambda topic, message: False
    fleet.run()
    assert set(fleet.outcomes().values()) == {"answered"}
    assert len(fleet.messages(Refine)) == 2, "asked for again, as after a loss"


def test_a_key_frame_that_found_no_way_out_leaves_its_frame_by_itself() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    fleet.key_frames_fail = True
    fleet.ask("q0", as_key=True)
    fleet.run()
    assert [(message.attempt, message.key, message.payload) for message in _opens(fleet)] == [
        (1, None, KEY.payload(0, 4))
    ]
    assert not fleet.messages(KeyFrame)
    assert fleet.edge.counters["key_frames_lost"] == 1
    assert set(fleet.outcomes().values()) == {"answered"}


def key_of(frames: EdgeFrames, camera: str, frame: FrameId) -> int | None:
    """Sequence number of the key frame that an unfinished frame is coded given."""
    return next((state.key for state in frames.undecided() if (state.camera, state.frame) == (camera, frame)), None)


@pytest.mark.parametrize("open_has_left", [False, True])
def test_a_key_frame_that_was_lost_on_its_way_is_not_named_by_an_open_that_still_waits(open_has_left: bool) -> None:
    edge = EdgeFrames(EdgeProtocolSettings(), site="north", pool=POOL, boot=1, fingerprint=FINGERPRINT)
    frame = edge.offer("gate", KEY, 4, [asked("q0", 10)], 0.0, given_key=GivenKey(GIVEN, None))
    (key_frame,) = edge.take_departures()
    assert key_frame.label == "key_frame"
    assert key_frame.done is not None
    key_frame.stamp(0.0)
    (departure,) = edge.take_departures()
    assert departure.traffic_class is TrafficClass.OPEN
    if open_has_left:
        departure.stamp(0.0)
    key_frame.done(Delivery.CONNECTION_LOST, 0.0)
    assert edge.take_departures() == []
    assert edge.take_lost_keys() == [KeyFrameLost("gate", frame.sequence)]
    assert key_of(edge, "gate", frame) == (frame.sequence if open_has_left else None)
    if not open_has_left:
        opened = departure.stamp(0.0)
        assert isinstance(opened, Open)
        assert (opened.key, opened.payload) == (None, KEY.payload(0, 4))


def test_a_key_frame_that_leaves_twice_opens_its_frame_once() -> None:
    edge = EdgeFrames(EdgeProtocolSettings(), site="north", pool=POOL, boot=1, fingerprint=FINGERPRINT)
    edge.offer("gate", KEY, 4, [asked("q0", 10)], 0.0, given_key=GivenKey(GIVEN, None))
    (key_frame,) = edge.take_departures()
    assert key_frame.label == "key_frame"
    assert key_frame.stamp(0.0) == key_frame.stamp(0.0)
    (departure,) = edge.take_departures()
    assert departure.traffic_class is TrafficClass.OPEN


def test_a_damaged_key_frame_is_forgotten_and_the_frame_comes_by_itself() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    key = fleet.ask("q0", as_key=True)
    fleet.run(1.0)
    session = fleet.workers["w0"].frames
    session.receive_key_frame("gate", KeyFrame(frame=key, fingerprint=FINGERPRINT, payload=b"damaged"))
    frame = fleet.ask("q0", given=key)
    fleet.run()
    assert [(m.attempt, m.key) for m in _opens(fleet) if m.frame == frame] == [(1, key.sequence), (2, None)]
    assert session._keys.get("gate", 7, key.sequence) is None
    assert session.key_frame_bytes() == 0
    assert session._frames.held_bytes == 0
    assert set(fleet.outcomes().values()) == {"answered"}
    assert len(finals(fleet.messages(Answer))) == 2
    assert session.counters["pass_failed_bitstream"] == 1


def test_an_owner_may_find_the_key_frame_damaged() -> None:
    fleet = Fleet(score=scores_at(0.99), know_questions=False)
    key = fleet.ask("q0", as_key=True)
    fleet.run(0.015)
    session = fleet.workers["w0"].frames
    session.receive_key_frame("gate", KeyFrame(frame=key, fingerprint=FINGERPRINT, payload=b"damaged"))
    fleet.ask("q1", given=key)
    fleet.run()
    assert set(fleet.outcomes().values()) == {"answered"}
    assert len(_opens(fleet)) == 3
