"""Edge and worker sessions against each other, over real wire bytes and a virtual clock."""

from __future__ import annotations

import itertools

import pytest

from pipeline.protocol.departures import Departure, TrafficClass
from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.effects import Decision, PassAnswer, ReplyTo, SendAnswer
from pipeline.protocol.ports import Delivery
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from schemas.errors import StateError, TopicError
from schemas.identity import standing_query_id
from schemas.messages import (
    Accept,
    Answer,
    Busy,
    Chunk,
    Handover,
    NeedText,
    Open,
    Refine,
    Reject,
    RejectReason,
    Revoke,
    Status,
)  # fmt: skip
from schemas.types import FrameId, Outcome
from tests.protocol.fake_latents import FakeLatent
from tests.protocol.harness import FINGERPRINT, POOL, Fleet, finals, scores_at
from tests.protocol.questions import ask_message, asked, content, ref


def test_a_safe_base_prefix_costs_one_open_and_one_answer() -> None:
    fleet = Fleet(score=scores_at(0.95))
    frame = fleet.ask("q0", "q1")
    fleet.run()
    assert fleet.outcomes() == {standing_query_id("gate", frame, q): "answered" for q in ("q0", "q1")}
    assert [type(message) for _, message in fleet.sent] == [Open, Answer, Answer]
    assert fleet.edge.unfinished() == 0
    assert fleet.workers["w0"].session.unfinished() == 0


def test_a_long_wait_is_announced_by_accept_and_no_frame_is_opened_twice() -> None:
    fleet = Fleet(score=scores_at(0.95))
    worker = fleet.workers["w0"]
    worker.pass_s = 8.0
    worker.frames.passes.note_batch(40.0, 8)
    fleet.ask("q0", deadline_s=30.0)
    fleet.run()
    assert set(fleet.outcomes().values()) == {"answered"}
    assert len(fleet.messages(Open)) == 1
    assert len(fleet.messages(Accept)) >= 2, "the lease is renewed while the model works"


def test_refine_until_safe_asks_for_one_rung_at_a_time() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.6, 0.97))
    fleet.ask("q0")
    fleet.run()
    assert list(fleet.outcomes().values()) == ["answered"]
    assert [(m.start, m.stop) for m in fleet.messages(Refine) if isinstance(m, Refine)] == [(4, 8), (8, 12)]
    assert [(m.start, m.stop) for m in fleet.messages(Chunk) if isinstance(m, Chunk)] == [(4, 8), (8, 12)]
    answers = [m for m in fleet.messages(Answer) if isinstance(m, Answer)]
    assert [(a.latents, a.outcome) for a in answers] == [(4, None), (8, None), (12, Outcome.ANSWERED)]
    assert answers[-1].payload_bytes == 12


def test_an_exhausted_latent_is_answered_whatever_the_score() -> None:
    fleet = Fleet(score=scores_at(0.1))
    fleet.ask("q0")
    fleet.run()
    final = finals(fleet.messages(Answer))
    assert [(a.outcome, a.latents) for a in final if isinstance(a, Answer)] == [(Outcome.ANSWERED, 16)]


def test_safe_questions_of_a_frame_do_not_wait_for_unsafe_ones() -> None:
    fleet = Fleet(score=scores_at(0.3, 0.99))
    fleet.workers["w0"].score_of = {"q0": 0.99}
    fleet.ask("q0", "q1")
    fleet.run()
    answers = [m for m in fleet.messages(Answer) if isinstance(m, Answer)]
    assert [(a.question_id, a.latents, a.outcome) for a in answers] == [
        ("q0", 4, Outcome.ANSWERED),
        ("q1", 4, None),
        ("q1", 8, Outcome.ANSWERED),
    ]


def test_deadline_while_a_refine_is_in_flight_gives_the_best_prefix_so_far() -> None:
    fleet = Fleet(score=scores_at(0.5))
    fleet.drop = lambda topic, message: isinstance(message, Chunk)
    fleet.ask("q0", deadline_s=3.0)
    fleet.run()
    (terminal,) = fleet.decisions
    assert terminal.outcome is Outcome.DEGRADED
    assert terminal.answer is not None
    assert terminal.answer.latents == 4
    assert terminal.answer.text == "answer at 4"


def test_a_lost_chunk_is_asked_for_again() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    lost = iter([True])
    fleet.drop = lambda topic, message: isinstance(message, Chunk) and next(lost, False)
    fleet.ask("q0")
    fleet.run()
    assert list(fleet.outcomes().values()) == ["answered"]
    assert fleet.workers["w0"].session.counters["refines_repeated"] == 1
    assert fleet.edge.counters["latents_sent_again_refine"] == 4


def test_a_worker_that_never_answers_costs_three_attempts_and_then_fails() -> None:
    fleet = Fleet()
    fleet.freeze("w0")
    fleet.ask("q0", deadline_s=60.0)
    fleet.run(50.0)
    (terminal,) = fleet.decisions
    assert terminal.outcome is Outcome.FAILED
    assert "3 attempts" in terminal.reason
    assert terminal.publish is not None
    assert [m.attempt for m in fleet.messages(Open) if isinstance(m, Open)] == [1, 2, 3]


def test_without_any_worker_the_deadline_decides() -> None:
    fleet = Fleet(workers=0)
    fleet.ask("q0", deadline_s=2.0)
    fleet.run()
    assert list(fleet.outcomes().values()) == ["expired"]
    assert fleet.now_s >= 2.0


def test_the_next_attempt_goes_to_another_worker_and_carries_the_longest_prefix_asked_for() -> None:
    fleet = Fleet(workers=2, score=scores_at(0.5, 0.99))
    fleet.drop = lambda topic, message: isinstance(message, Chunk) and "w0" in topic
    fleet.ask("q0", deadline_s=30.0)
    fleet.run(0.1)
    fleet.kill("w0", will=False)
    fleet.run()
    assert list(fleet.outcomes().values()) == ["answered"]
    assert [(m.attempt, m.stop) for m in fleet.messages(Open) if isinstance(m, Open)] == [(1, 4), (2, 8)]


def test_a_last_will_shortens_the_wait() -> None:
    times = []
    for will in (True, False):
        fleet = Fleet(workers=2, score=scores_at(0.99))
        fleet.workers["w0"].pass_s = 5.0
        fleet.workers["w0"].frames.passes.note_batch(100.0, 1)
        fleet.ask("q0", deadline_s=60.0)
        fleet.run(0.5)
        fleet.kill("w0", will=will)
        fleet.run()
        assert list(fleet.outcomes().values()) == ["answered"]
        times.append(fleet.decided_s[0])
        assert fleet.edge.counters["owner_lost" if will else "lease_over"] == 1
    assert times[0] < times[1]


def test_a_will_of_an_earlier_boot_is_ignored() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    fleet.worker_status(Status(kind="worker", id="w0", boot=1, online=True))
    fleet.worker_status(Status(kind="worker", id="w0", boot=2, online=True))
    fleet.delay_s = lambda topic, message: 0.5
    fleet.ask("q0")
    fleet.run(1.5)
    fleet.worker_status(Status(kind="worker", id="w0", boot=1, online=False))
    fleet.run()
    assert fleet.edge.counters["stale_will"] == 1
    assert fleet.edge.counters["owner_lost"] == 0
    assert len(fleet.messages(Open)) == 1


def test_the_first_of_two_claimants_owns_the_frame_and_the_other_is_told() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    frame = fleet.ask("q0")
    fleet.run(0.1)
    late = Refine(worker="w9", frame=frame, attempt=1, start=4, stop=8, lease_ms=1000)
    fleet.edge.frames.receive_control("gate", late, fleet.now_s)
    fleet._settle()
    assert ("lb/v2/chunk/w9/gate", Revoke(camera="gate", frame=frame, attempt=1)) in fleet.sent
    fleet.run()
    assert list(fleet.outcomes().values()) == ["answered"]
    assert {topic for topic, m in fleet.sent if isinstance(m, Chunk)} == {"lb/v2/chunk/w0/gate"}


def test_revoke_makes_a_worker_forget_the_frame() -> None:
    fleet = Fleet(score=scores_at(0.1))
    fleet.drop = lambda topic, message: isinstance(message, Refine)
    frame = fleet.ask("q0")
    fleet.run(0.5)
    session = fleet.workers["w0"].frames
    assert session.unfinished() == 1
    session.receive_revoke("gate", Revoke(camera="gate", frame=frame, attempt=1))
    assert session.unfinished() == 0
    assert session._frames.held_bytes == 0


def test_duplicate_messages_change_nothing() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.5, 0.99))
    fleet.duplicate = lambda topic, message: True
    fleet.ask("q0", "q1")
    fleet.run()
    assert set(fleet.outcomes().values()) == {"answered"}
    session = fleet.workers["w0"].frames
    assert session.counters["open_duplicate"] + session.counters["terminal_repeated"] >= 1
    assert session.counters["chunk_duplicate"] + session.counters["chunk_unknown_frame"] >= 1
    assert fleet.reducer.conflicts == 0


def test_reordered_chunks_make_the_same_prefix() -> None:
    fleet = Fleet(score=scores_at(0.1))
    frame = fleet.ask("q0")
    fleet.drop = lambda topic, message: isinstance(message, Chunk)
    fleet.run(0.5)
    session = fleet.workers["w0"].frames
    chunks = [
        Chunk(camera="gate", frame=frame, attempt=1, start=a, stop=a + 4, payload=bytes(range(a, a + 4)))
        for a in (12, 8, 4)
    ]
    for chunk in chunks:
        session.receive_chunk("gate", chunk, fleet.now_s)
    assert session.counters["chunk_early"] == 2
    fleet.run()
    (terminal,) = fleet.decisions
    assert terminal.answer is not None
    assert (terminal.outcome, terminal.answer.latents) == (Outcome.ANSWERED, 16)


def test_a_chunk_that_names_another_camera_is_refused() -> None:
    fleet = Fleet()
    chunk = Chunk(camera="yard", frame=FrameId(7, 0), attempt=1, start=4, stop=8, payload=b"1234")
    with pytest.raises(TopicError, match="yard"):
        fleet.workers["w0"].frames.receive_chunk("gate", chunk, 0.0)


def test_a_frozen_worker_that_wakes_late_decides_nothing_twice() -> None:
    fleet = Fleet(workers=2, score=scores_at(0.5, 0.99))
    fleet.ask("q0", deadline_s=30.0)
    fleet.run(0.03)
    fleet.freeze("w0")
    fleet.run(20.0)
    assert list(fleet.outcomes().values()) == ["answered"]
    fleet.wake("w0")
    fleet.run(60.0)
    assert len(fleet.outcomes()) == 1
    assert fleet.edge.counters["revoke"] >= 1, "the late claimant is told"
    assert fleet.reducer.conflicts == 0
    assert fleet.workers["w0"].session.unfinished() == 0


def test_a_worker_that_wakes_after_the_deadline_says_nothing_terminal() -> None:
    fleet = Fleet(workers=1, score=scores_at(0.5, 0.99))
    fleet.ask("q0", deadline_s=2.0)
    fleet.run(0.03)
    fleet.freeze("w0")
    fleet.run(20.0)
    assert list(fleet.outcomes().values()) == ["expired"]
    fleet.wake("w0")
    fleet.run(60.0)
    assert finals(fleet.messages(Answer)) == []


def test_a_worker_whose_model_is_stalled_renews_no_lease() -> None:
    fleet = Fleet(workers=2, score=scores_at(0.99))
    fleet.workers["w0"].pass_s = 1000.0
    fleet.ask("q0", deadline_s=40.0)
    fleet.run(50.0)
    assert list(fleet.outcomes().values()) == ["answered"]
    assert fleet.edge.counters["lease_over"] == 1
    assert fleet.decided_s[0] < 25.0


def test_a_slow_owner_that_speaks_before_the_next_open_keeps_the_frame() -> None:
    fleet = Fleet(workers=0)
    fleet.add_worker("w0", scores_at(0.99), WorkerProtocolSettings(base_lease_s=100.0)).pass_s = 3.3
    fleet.add_worker("w1", scores_at(0.99))
    fleet.ask("q0", deadline_s=30.0)
    fleet.run()
    assert list(fleet.outcomes().values()) == ["answered"]
    assert fleet.edge.counters["open_unanswered"] == 1
    assert fleet.edge.counters["reopens"] == 0, "the answer came in the back-off"


def test_after_an_edge_restart_old_frames_are_unknown_and_new_ones_are_answered() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    fleet.delay_s = lambda topic, message: 0.3
    fleet.ask("a1", ad_hoc=True, deadline_s=20.0)
    fleet.run(0.5)
    fleet.start_edge(boot=8)
    fleet.ask("q0")
    frame = fleet.ask("a1", ad_hoc=True, deadline_s=19.0)
    assert frame.boot == 8
    fleet.run()
    assert fleet.outcomes() == {"gate/@me/a1": "answered", standing_query_id("gate", FrameId(8, 0), "q0"): "answered"}
    assert fleet.workers["w0"].session.unfinished() == 0
    assert fleet.edge.counters["control_unknown_frame"] >= 1


def test_an_unknown_fingerprint_is_rejected_and_never_decoded() -> None:
    fleet = Fleet(workers=0)
    fleet.add_worker("w0", scores_at(1.0), fingerprint=b"\xff\xff\xff\xff")
    fleet.ask("q0")
    fleet.run()
    (terminal,) = fleet.decisions
    assert terminal.outcome is Outcome.FAILED
    assert "ffffffff" in terminal.reason
    assert "01020304" in terminal.reason
    assert fleet.errors == {"FingerprintError": 1}
    assert len(fleet.messages(Reject)) == 1
    assert not fleet.messages(Answer)


def test_an_open_with_more_latents_than_the_codec_has_is_rejected() -> None:
    fleet = Fleet()
    message = Open(
        frame=FrameId(7, 0),
        attempt=1,
        site="north",
        fingerprint=FINGERPRINT,
        queries=(ref("q0", 1000),),
        stop=17,
        payload=b"x",
    )
    fleet._publish("lb/v2/open/main/gate", message)
    fleet.run()
    assert fleet.errors == {"BitstreamError": 1}


def test_a_missing_question_text_is_asked_from_the_edge() -> None:
    fleet = Fleet(score=scores_at(0.99), know_questions=False)
    fleet.ask("q0", "q1")
    fleet.run()
    assert set(fleet.outcomes().values()) == {"answered"}
    (need,) = fleet.messages(NeedText)
    assert isinstance(need, NeedText)
    assert need.digests == (content("q0").digest, content("q1").digest)


def test_a_full_worker_says_busy_and_the_frame_is_opened_again_later() -> None:
    settings = WorkerProtocolSettings(capacity_frames=1)
    fleet = Fleet(score=scores_at(0.99), worker_settings=settings)
    fleet.workers["w0"].pass_s = 0.4
    fleet.ask("q0", camera="gate")
    fleet.ask("q0", camera="yard")
    fleet.run()
    assert set(fleet.outcomes().values()) == {"answered"}
    assert len(fleet.messages(Busy)) >= 1


def test_a_loaded_worker_hands_parked_frames_to_an_idle_one() -> None:
    fleet = Fleet(workers=2, score=scores_at(0.99))
    loaded = fleet.workers["w0"]
    loaded.pass_s = 4.0
    loaded.frames.passes.note_batch(8.0, 1)
    for worker in fleet.workers.values():
        status = Status(kind="worker", id="w1", boot=1, online=True, pool=POOL, fingerprint=FINGERPRINT.hex(),
                        capacity=100)  # fmt: skip
        worker.frames.receive_load(status, 0.0)
    fleet.dealt = itertools.repeat(0)  # the broker deals everything to w0
    for camera in range(12):
        fleet.ask("q0", camera=f"c{camera}", deadline_s=20.0)
    fleet.run()
    assert set(fleet.outcomes().values()) == {"answered"}
    assert len(fleet.messages(Handover)) >= 1
    answered_by = {a.worker for a in finals(fleet.messages(Answer)) if isinstance(a, Answer)}
    assert answered_by == {"w0", "w1"}


def test_a_draining_worker_finishes_what_it_has_and_admits_nothing() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    fleet.ask("q0", camera="gate")
    fleet.run(0.03)
    fleet.workers["w0"].session.drain(fleet.now_s)
    fleet.ask("q0", camera="yard", deadline_s=2.0)
    fleet.run()
    outcomes = fleet.outcomes()
    assert [outcomes[f"{camera}/00000007-0/q0"] for camera in ("gate", "yard")] == ["answered", "expired"]


def test_a_newer_frame_supersedes_standing_questions_that_wait_for_the_uplink() -> None:
    edge = EdgeFrames(EdgeProtocolSettings(), site="north", pool=POOL, boot=1, fingerprint=FINGERPRINT)
    old = edge.offer("gate", FakeLatent(), 4, [asked("q0", 10), asked("a1", 10, ad_hoc=True)], 0.0)
    edge.offer("gate", FakeLatent(), 4, [asked("q0", 11)], 1.0)
    (decision,) = edge.take_decisions()
    assert decision.query_id == standing_query_id("gate", old, "q0")
    assert decision.outcome is Outcome.SUPERSEDED
    first = edge.take_departures()[0].stamp(1.0)
    assert isinstance(first, Open)
    assert [ref.question_id for ref in first.queries] == ["a1"], "the ad-hoc question is kept"


def test_an_overtaken_open_that_has_nothing_left_to_ask_is_not_sent() -> None:
    edge = EdgeFrames(EdgeProtocolSettings(), site="north", pool=POOL, boot=1, fingerprint=FINGERPRINT)
    edge.offer("gate", FakeLatent(), 4, [asked("q0", 10)], 0.0)
    edge.offer("gate", FakeLatent(), 4, [asked("q0", 11)], 1.0)
    first, second = edge.take_departures()
    assert first.stamp(1.0) is None
    assert isinstance(second.stamp(1.0), Open)


def test_remaining_time_is_stamped_when_the_message_leaves() -> None:
    edge = EdgeFrames(EdgeProtocolSettings(), site="north", pool=POOL, boot=1, fingerprint=FINGERPRINT)
    edge.offer("gate", FakeLatent(), 4, [asked("q0", 10.0)], 0.0)
    message = _only_open(edge).stamp(7.5)
    assert isinstance(message, Open)
    assert message.queries[0].remaining_ms == 2500


@pytest.mark.parametrize("deadline_s", [2.0, 8.0, 100.0])
def test_reason_16_changes_nothing_because_a_recorder_hides_it(deadline_s: float) -> None:
    def life(no_subscribers: bool) -> tuple[list[tuple[float, object]], int]:
        """Opens and terminals with their times, where no worker ever is."""
        edge = EdgeFrames(EdgeProtocolSettings(), site="north", pool=POOL, boot=1, fingerprint=FINGERPRINT)
        edge.offer("gate", FakeLatent(), 4, [asked("q0", deadline_s)], 0.0)
        seen: list[tuple[float, object]] = []
        now_s: float | None = 0.0
        while now_s is not None:
            edge.tick(now_s)
            for departure in edge.take_departures():
                seen.append((now_s, departure.stamp(now_s)))
                assert departure.done is not None
                departure.done(Delivery.NO_SUBSCRIBERS if no_subscribers else Delivery.DELIVERED, now_s)
            seen += [(now_s, decision.outcome) for decision in edge.take_decisions()]
            now_s = edge.next_wake_s()
        return seen, edge.counters["no_subscribers"]

    told, counted = life(no_subscribers=True)
    untold, uncounted = life(no_subscribers=False)

    assert told == untold
    assert isinstance(told[-1][1], Outcome)
    assert (counted, uncounted) == (len(told) - 1, 0)


def test_a_camera_keeps_a_bounded_number_of_frames_and_no_ad_hoc_question_is_dropped() -> None:
    settings = EdgeProtocolSettings(max_frames_per_camera=4)
    edge = EdgeFrames(settings, site="north", pool=POOL, boot=1, fingerprint=FINGERPRINT)
    edge.offer("gate", FakeLatent(), 4, [asked("a1", 100, ad_hoc=True)], 0.0)
    for index in range(10):
        edge.offer("gate", FakeLatent(), 4, [asked(f"q{index}", 100)], 0.0)
    assert {decision.outcome for decision in edge.take_decisions()} == {Outcome.SUPERSEDED}
    assert edge.ad_hoc_state("gate/@me/a1") == FrameId(1, 0)
    assert edge.unfinished() <= 5


def test_a_decided_ad_hoc_query_is_remembered_for_who_asks_again() -> None:
    fleet = Fleet(score=scores_at(0.99))
    session = fleet.workers["w0"].frames
    session.receive_ask("gate", "me", ask_message("a1"), ReplyTo("lb/v2/reply/me/gate/a1", b"7"))
    fleet.ask("a1", ad_hoc=True)
    fleet.run()
    state = fleet.edge.frames.ad_hoc_state("gate/@me/a1")
    assert isinstance(state, Decision)
    assert state.outcome is Outcome.ANSWERED
    assert fleet.replies == ["lb/v2/reply/me/gate/a1"]
    with pytest.raises(StateError, match="known already"):
        fleet.ask("a1", ad_hoc=True)


def test_abandon_leaves_no_query_without_an_outcome() -> None:
    fleet = Fleet(workers=0)
    fleet.ask("q0", "q1")
    fleet.edge.drain("edge stopped")
    with pytest.raises(StateError, match="drains"):
        fleet.ask("q2")
    fleet.edge.abandon("edge stopped")
    fleet._settle()
    assert set(fleet.outcomes().values()) == {"failed"}


def test_latents_that_arrive_while_the_model_runs_are_read_next() -> None:
    fleet = Fleet(score=scores_at(0.1))
    fleet.workers["w0"].pass_s = 0.5
    frame = fleet.ask("q0")
    fleet.run(0.1)
    session = fleet.workers["w0"].frames
    early = Chunk(camera="gate", frame=frame, attempt=1, start=4, stop=16, payload=bytes(range(4, 16)))
    session.receive_chunk("gate", early, fleet.now_s)
    fleet.run()
    assert list(fleet.outcomes().values()) == ["answered"]
    assert not fleet.messages(Refine)


def test_after_a_reconnect_the_worker_asks_again_and_learns_that_the_frame_is_revoked() -> None:
    fleet = Fleet(workers=2, score=scores_at(0.5, 0.99))
    fleet.drop = lambda topic, message: isinstance(message, Refine) and message.worker == "w0"
    fleet.ask("q0", deadline_s=30.0)
    fleet.run(12.0)
    assert list(fleet.outcomes().values()) == ["answered"]
    session = fleet.workers["w0"].frames
    assert session.unfinished() == 1, "its requests fell into the hole"
    fleet.drop = lambda topic, message: False
    session.connection_made(fleet.now_s)
    fleet._settle()
    fleet.run(13.0)
    assert session.counters["revoke"] == 1
    assert session.unfinished() == 0
    assert fleet.reducer.conflicts == 0


def test_an_owner_may_reject_and_nobody_else() -> None:
    fleet = Fleet(score=scores_at(0.1))
    fleet.drop = lambda topic, message: isinstance(message, Chunk)
    frame = fleet.ask("q0")
    fleet.run(0.2)
    for worker in ("w9", "w0"):
        reject = Reject(worker=worker, frame=frame, attempt=1, reason=RejectReason.MODEL, fingerprint=FINGERPRINT)
        fleet.edge.frames.receive_control("gate", reject, fleet.now_s)
        assert fleet.edge.unfinished() == (1 if worker == "w9" else 0)
    fleet._settle()
    assert list(fleet.outcomes().values()) == ["failed"]


def test_a_pass_that_fails_fails_its_frame_alone() -> None:
    fleet = Fleet(score=scores_at(0.99))
    session = fleet.workers["w0"].frames
    for camera in ("gate", "yard"):
        message = Open(
            frame=FrameId(7, 0),
            attempt=1,
            site="north",
            fingerprint=FINGERPRINT,
            queries=(ref("q0", 5000),),
            stop=4,
            payload=b"\x00\x01\x02\x03",
        )
        session.receive_open(camera, message, 0.0)
    first, second = session.passes.take(8, 0.0)
    session.passes.fail(first, RejectReason.BITSTREAM, "latents 0..4: no stream")
    session.passes.finish(second, [PassAnswer(second.queries[0].query_id, "yes", 0.99)], 0.1)
    answers = [effect.message for effect in session.take_effects() if isinstance(effect, SendAnswer)]
    assert [(a.camera, a.outcome) for a in answers] == [("gate", Outcome.FAILED), ("yard", Outcome.ANSWERED)]
    assert "no stream" in answers[0].reason
    assert session.unfinished() == 0


def _only_open(edge: EdgeFrames) -> Departure:
    """The one message that wants to leave, an open."""
    (departure,) = edge.take_departures()
    assert departure.traffic_class is TrafficClass.OPEN
    return departure
