"""Questions about frames of the past: one open for many, none where a worker holds the latents, and no loss."""

from __future__ import annotations

from typing import TypeVar

import pytest

from pipeline.protocol.effects import HeldFrameAsked
from pipeline.protocol.frame_ring import RingSettings
from pipeline.protocol.ports import Received
from pipeline.protocol.settings import WorkerProtocolSettings
from schemas import topics, wire
from schemas.messages import (
    Answer,
    Ask,
    Chunk,
    FollowUp,
    Message,
    NeedText,
    Open,
    QueryOutcome,
    Refine,
    Reject,
    RejectReason,
    Status,
    Text,
)
from schemas.types import AnswerType, FrameId, Outcome
from tests.protocol.edge_driver import EdgeDriver
from tests.protocol.fake_latents import LADDER, LATENTS, FakeLatent
from tests.protocol.harness import Fleet, Worker, scores_at
from tests.protocol.questions import asked

M = TypeVar("M", bound=Message)
CLIENT = "alice"


class Past(Fleet):
    """A fleet whose edge keeps its frames, and a client that asks about them."""

    def keep(self, *questions: str, camera: str = "gate", base: int = LADDER[0]) -> FrameId:
        """Take a frame, keep it, and ask standing questions of it, or none."""
        latent = FakeLatent()
        frame = self.edge.keep(camera, latent, base, self.now_s, self.now_s, size_bytes=64)
        if questions:
            queries = [asked(question, self.now_s + 10) for question in questions]
            self.edge.offer(camera, latent, base, queries, self.now_s, frame=frame)
        self.settle()
        return frame

    def client_asks(
        self, query_id: str, *, known: bool = True, deadline_ms: int = 10_000, client: str = CLIENT, **moment: object
    ) -> str:
        """A client asks the camera ``gate``; workers hear of it too, unless told not."""
        ask = Ask.model_validate({"query_id": query_id, "text": f"{query_id}?", "deadline_ms": deadline_ms, **moment})
        topic = topics.ask_topic("gate", client)
        for worker in self.workers.values() if known else ():
            self.tell(worker, topic, ask, topics.reply_topic(client, "gate", query_id), qos=1)
        self.edge.receive(Received(topic, wire.encode(ask), token=next(self._order)), self.now_s)
        self.settle()
        return f"gate/@{client}/{query_id}"

    def all(self, kind: type[M]) -> list[M]:
        return [message for _, message in self.sent if isinstance(message, kind)]

    def answer(self, query_id: str) -> Answer:
        (terminal,) = [
            answer for answer in self.all(Answer) if answer.query_id == query_id and answer.outcome is not None
        ]
        return terminal

    def latent_bytes(self) -> int:
        """Coded latents on the wire, so far."""
        opens = sum(len(message.payload) for message in self.all(Open))
        return opens + sum(len(message.payload) for message in self.all(Chunk))

    def to_workers(self) -> list[str]:
        """What the edge has sent to the pool, as kinds of messages."""
        kinds = (Open, Chunk, FollowUp, Text)
        return [type(message).__name__ for _, message in self.sent if isinstance(message, kinds)]


def test_several_questions_on_one_frame_share_one_open_message() -> None:
    fleet = Past()
    frame = fleet.keep("q0", "q1", "q2")
    fleet.run(5.0)

    (opened,) = fleet.all(Open)
    assert [ref.question_id for ref in opened.queries] == ["q0", "q1", "q2"]
    assert set(fleet.outcomes().values()) == {"answered"}
    one = wire.encode(opened.model_copy(update={"queries": opened.queries[:1]}))
    # On the wire a further question costs its name, its time and the digest of its text, and no latent.
    assert len(wire.encode(opened)) - len(one) == 2 * 18
    assert opened.frame == frame


def test_a_question_that_comes_while_the_open_waits_for_the_uplink_costs_no_second_open() -> None:
    fleet = Past()
    fleet.uplink_s = lambda: 0.5
    frame = fleet.keep("q0")
    second = fleet.client_asks("more", frame=frame)
    fleet.run(5.0)

    (opened,) = fleet.all(Open)
    (follow_up,) = fleet.all(FollowUp)
    # They do not agree about the age of the frame, which an open says once.
    assert ([ref.question_id for ref in opened.queries], opened.age_ms) == (["q0"], None)
    assert ([ref.question_id for ref in follow_up.queries], follow_up.age_ms) == (["more"], 0)
    assert fleet.outcomes()[second] == "answered"
    assert fleet.latent_bytes() == opened.stop


def test_questions_about_the_past_that_come_while_the_open_waits_share_it() -> None:
    fleet = Past()
    frame = fleet.keep()
    fleet.run(3.0)
    fleet.uplink_s = lambda: 0.5
    for query_id in ("a", "b", "c"):
        fleet.client_asks(query_id, frame=frame)
    fleet.run(9.0)

    (opened,) = fleet.all(Open)
    assert ([ref.question_id for ref in opened.queries], opened.age_ms) == (["a", "b", "c"], 3_000)
    assert fleet.to_workers() == ["Open"]
    assert set(fleet.outcomes().values()) == {"answered"}


def test_a_question_about_an_answered_frame_costs_no_latent_byte() -> None:
    fleet = Past(workers=3)
    frame = fleet.keep("q0")
    fleet.run(5.0)
    before, (first,) = fleet.latent_bytes(), fleet.all(Answer)

    later = fleet.client_asks("later", frame=frame)
    fleet.run(10.0)

    assert fleet.latent_bytes() == before
    assert fleet.to_workers() == ["Open", "FollowUp"]
    (topic,) = [topic for topic, message in fleet.sent if isinstance(message, FollowUp)]
    assert topic == topics.chunk_topic(first.worker, "gate")
    answer = fleet.answer(later)
    assert (answer.worker, answer.frame, answer.outcome) == (first.worker, frame, Outcome.ANSWERED)
    assert answer.age_ms == 5_000
    assert first.age_ms is None


def test_a_question_about_a_frame_that_its_owner_still_reads_costs_no_latent_byte() -> None:
    fleet = Past(score=scores_at(0.5, 0.95))
    worker = fleet.workers["w0"]
    worker.pass_s = 2.0
    frame = fleet.keep("q0")
    fleet.run(1.5)  # the model reads the base prefix
    later = fleet.client_asks("later", frame=frame)
    fleet.run(12.0)

    assert fleet.to_workers() == ["Open", "FollowUp", "Chunk"]
    assert [message.attempt for message in fleet.all(Open)] == [1]
    assert set(fleet.outcomes().values()) == {"answered"}
    assert fleet.answer(later).age_ms == 1_500


def test_more_latents_for_a_follow_up_are_sent_once() -> None:
    fleet = Past()
    frame = fleet.keep("q0")
    fleet.run(5.0)
    fleet.workers["w0"].score_of["hard"] = 0.0
    hard = fleet.client_asks("hard", frame=frame)
    fleet.run(20.0)

    assert [(chunk.start, chunk.stop) for chunk in fleet.all(Chunk)] == [(4, 8), (8, 12), (12, 16)]
    assert fleet.latent_bytes() == LATENTS
    assert fleet.answer(hard).latents == LATENTS


@pytest.mark.parametrize("how", ["forgotten", "restarted", "lost"])
def test_without_the_frame_at_the_worker_it_costs_one_full_open_and_nothing_else(how: str) -> None:
    settings = WorkerProtocolSettings(kept_frames=0 if how == "forgotten" else 16)
    fleet = Past(worker_settings=settings)
    frame = fleet.keep("q0")
    fleet.run(5.0)
    if how == "restarted":
        fleet.workers["w0"].alive = False
        fleet.add_worker("w1", lambda prefix: 1.0)
        status = Status(kind="worker", id="w0", boot=fleet.workers["w0"].boot, online=False)
        fleet.worker_status(status)
    if how == "lost":
        fleet.drop = lambda topic, message: isinstance(message, FollowUp)

    later = fleet.client_asks("later", frame=frame)
    fleet.run(20.0)

    opens = fleet.all(Open)
    assert [message.attempt for message in opens] == [1, 2]
    assert [ref.question_id for ref in opens[1].queries] == ["later"]
    assert len(fleet.all(FollowUp)) == (0 if how == "restarted" else 1)
    assert [reject.reason for reject in fleet.all(Reject)] == ([RejectReason.FRAME] if how == "forgotten" else [])
    assert fleet.answer(later).outcome is Outcome.ANSWERED
    assert fleet.answer(later).age_ms == 5_000


def test_an_owner_that_died_and_says_nothing_costs_a_lease_and_one_open() -> None:
    fleet = Past()
    frame = fleet.keep("q0")
    fleet.run(5.0)
    fleet.workers["w0"].alive = False
    fleet.add_worker("w1", lambda prefix: 1.0)
    later = fleet.client_asks("later", frame=frame)
    fleet.run(20.0)

    assert fleet.to_workers() == ["Open", "FollowUp", "Open"]
    assert fleet.answer(later).worker == "w1"


def test_a_worker_that_does_not_know_the_text_asks_for_it_and_no_more() -> None:
    fleet = Past()
    frame = fleet.keep("q0")
    fleet.run(5.0)
    later = fleet.client_asks("later", known=False, frame=frame)
    fleet.run(10.0)

    assert fleet.to_workers() == ["Open", "FollowUp", "Text"]
    assert fleet.answer(later).outcome is Outcome.ANSWERED


def test_a_text_that_is_unknown_does_not_keep_the_other_questions_of_a_frame_waiting() -> None:
    fleet = Past(score=scores_at(0.5, 0.95))
    fleet.workers["w0"].pass_s = 2.0
    frame = fleet.keep("q0")
    fleet.run(1.0)
    fleet.delay_s = lambda topic, message: 1.0 if isinstance(message, Text) else 0.01
    later = fleet.client_asks("later", known=False, frame=frame)
    fleet.run(15.0)

    assert len(fleet.all(NeedText)) >= 1
    assert set(fleet.outcomes().values()) == {"answered"}
    assert fleet.outcomes()[later] == "answered"
    (standing,) = [answer for answer in fleet.all(Answer) if answer.outcome and not answer.ad_hoc]
    assert standing.latents == LADDER[1]


def test_an_open_that_nobody_has_claimed_yet_is_followed_by_the_question_for_its_owner() -> None:
    fleet = Past()
    fleet.workers["w0"].pass_s = 0.5
    frame = fleet.keep("q0")
    later = fleet.client_asks("later", frame=frame)  # the open has left, no worker has spoken
    fleet.run(10.0)

    assert fleet.to_workers() == ["Open", "FollowUp"]
    assert set(fleet.outcomes().values()) == {"answered"}
    assert fleet.answer(later).frame == frame


def test_a_frame_that_was_never_asked_about_is_opened_with_its_age() -> None:
    fleet = Past()
    frames = []
    for _ in range(8):
        frames.append(fleet.keep())
        fleet.run(fleet.now_s + 1.0)
    query_id = fleet.client_asks("then", ago_ms=5_000)
    fleet.run(30.0)

    (opened,) = fleet.all(Open)
    assert (opened.frame, opened.age_ms) == (frames[3], 5_000)
    answer = fleet.answer(query_id)
    assert (answer.frame, answer.age_ms) == (frames[3], 5_000)


def test_as_of_takes_the_newest_frame_that_is_old_enough() -> None:
    fleet = Past()
    frames = [fleet.keep()]
    for wait_s in (1.0, 0.7, 1.8):
        fleet.run(fleet.now_s + wait_s)
        frames.append(fleet.keep())
    fleet.run(fleet.now_s + 0.2)  # ages 3.7, 2.7, 2.0, 0.2
    by_ago = {ago_ms: fleet.client_asks(f"a{ago_ms}", ago_ms=ago_ms) for ago_ms in (0, 2_000, 2_500, 3_700)}
    fleet.run(fleet.now_s + 10.0)

    found = {ago_ms: frames.index(fleet.answer(query_id).frame) for ago_ms, query_id in by_ago.items()}
    assert found == {0: 3, 2_000: 2, 2_500: 1, 3_700: 0}


def test_nothing_so_old_is_a_refusal_that_says_how_old_the_ring_goes() -> None:
    fleet = Past()
    fleet.keep()
    fleet.run(12.3)
    query_id = fleet.client_asks("long", ago_ms=30_000)
    gone = fleet.client_asks("gone", frame=FrameId(7, 99))
    fleet.run(20.0)

    said = {outcome.query_id: outcome for outcome in fleet.all(QueryOutcome)}
    assert said[query_id].outcome is Outcome.FAILED
    assert said[query_id].reason == (
        "not_held: no frame of camera gate is kept that is 30 s old; the oldest that is kept is 12.3 s old"
    )
    assert said[query_id].age_ms == said[gone].age_ms == 12_300
    assert said[gone].reason.startswith("not_held: frame 00000007-99 of camera gate is not kept; the oldest")
    assert not fleet.all(Open)


def test_an_edge_that_keeps_no_frame_says_so() -> None:
    driver = EdgeDriver()
    driver.connect()
    ask = Ask(query_id="a", text="a?", ago_ms=0)
    driver.receive(topics.ask_topic("gate", CLIENT), ask)

    (said,) = [wire.decode_publish(topic, payload)[1] for topic, payload, _ in driver.published if "/outcome/" in topic]
    assert isinstance(said, QueryOutcome)
    assert said.reason == "not_held: no frame of camera gate is kept that is 0 s old; none is kept"
    assert said.age_ms is None
    assert driver.frames_wanted == []


def test_a_question_of_the_past_waits_for_no_frame_and_no_frame_takes_it() -> None:
    driver = EdgeDriver()
    driver.connect()
    frame = driver.session.keep("gate", FakeLatent(), 4, driver.now_s, driver.now_s, size_bytes=64)
    driver.receive(topics.ask_topic("gate", CLIENT), Ask(query_id="a", text="a?", ago_ms=0))

    assert driver.frames_wanted == []
    assert not driver.session.ad_hoc.waiting("gate")
    assert driver.session.take_queries("gate", driver.now_s, standing=False) == []
    assert [held.frame for held in driver.asked_again] == [frame]
    assert [message.frame for message in driver.messages(Open)] == [frame]


def test_the_same_id_for_another_moment_is_another_question() -> None:
    driver = EdgeDriver()
    driver.connect()
    frame = driver.session.keep("gate", FakeLatent(), 4, driver.now_s, driver.now_s, size_bytes=64)
    topic = topics.ask_topic("gate", CLIENT)
    for moment in ({"ago_ms": 0}, {"ago_ms": 0}, {"ago_ms": 1}, {"frame": frame}, {}):
        driver.receive(topic, Ask.model_validate({"query_id": "a", "text": "a?", **moment}))
    assert driver.session.ad_hoc.counters["running"] == 1
    assert driver.session.ad_hoc.counters["conflict"] == 3


def test_a_restart_has_no_frames_of_the_past_and_says_so() -> None:
    before = EdgeDriver()
    before.connect()
    before.session.keep("gate", FakeLatent(), 4, before.now_s, before.now_s, size_bytes=64)
    before.receive(topics.ask_topic("gate", CLIENT), Ask(query_id="a", text="a?", ago_ms=0))

    after = EdgeDriver(journal=before.journal, boot=2)
    after.connect()
    (said,) = after.messages(QueryOutcome)
    assert said.reason == "not_held: no frame of camera gate is kept that is 0 s old; none is kept"


def test_with_sixty_four_questions_a_frame_takes_no_more() -> None:
    fleet = Past()
    fleet.workers["w0"].pass_s = 5.0
    frame = fleet.keep(*(f"q{n}" for n in range(3)))
    answers = [fleet.client_asks(f"a{n}", client=("bob", CLIENT)[n % 2], frame=frame) for n in range(62)]
    fleet.run(0.5)
    said = {outcome.query_id: outcome.reason for outcome in fleet.all(QueryOutcome)}
    assert said == {answers[61]: f"frame {frame} has 64 questions without an outcome: ask again later"}


def test_a_worker_lets_a_foreign_attempt_alone() -> None:
    fleet = Past()
    frame = fleet.keep("q0")
    fleet.run(5.0)
    worker: Worker = fleet.workers["w0"]
    query = asked("later", 20.0, ad_hoc=True)
    ref = fleet.all(Open)[0].queries[0]._replace(question_id="later", client="me", digest=query.question.digest)
    stranger = FollowUp(frame=frame, attempt=3, queries=(ref,), age_ms=0)
    fleet.tell(worker, topics.chunk_topic("w0", "gate"), stranger)
    fleet.settle()
    (reject,) = fleet.all(Reject)
    assert (reject.reason, reject.attempt) == (RejectReason.FRAME, 3)
    assert worker.session.unfinished() == 0


def test_a_hostile_owner_that_refuses_every_frame_ends_the_question_after_the_last_attempt() -> None:
    driver = EdgeDriver()
    driver.connect()
    frame = driver.session.keep("gate", FakeLatent(), 4, driver.now_s, driver.now_s, size_bytes=64)
    driver.receive(topics.ask_topic("gate", CLIENT), Ask(query_id="a", text="a?", frame=frame))
    for attempt in range(1, 5):
        refused = Reject(
            worker="w0", frame=frame, attempt=attempt, reason=RejectReason.FRAME, fingerprint=b"\x01\x02\x03\x04"
        )
        accept = Refine(worker="w0", frame=frame, attempt=attempt, start=4, stop=8, lease_ms=1000)
        driver.receive(topics.control_topic("gate"), accept, qos=0)
        driver.receive(topics.control_topic("gate"), refused, qos=0)
    assert [decision.outcome for decision in driver.decisions] == [Outcome.FAILED]
    assert [message.attempt for message in driver.messages(Open)] == [1, 2, 3]


def test_the_ring_is_bounded_in_age_and_bytes_and_drops_the_oldest_of_who_has_most() -> None:
    driver = EdgeDriver(cameras=("gate", "yard"), ring=RingSettings(history_s=10.0, max_bytes=10_000))
    driver.connect()
    for number in range(8):
        driver.session.keep("gate", FakeLatent(), 4, driver.now_s + number, driver.now_s + number, size_bytes=1_400)
    driver.session.keep("yard", FakeLatent(), 4, driver.now_s + 8, driver.now_s + 8, size_bytes=1_400)
    ring = driver.session.ring
    assert [held.frame.sequence for held in ring.of("gate")] == [4, 5, 6, 7]
    assert [held.frame.sequence for held in ring.of("yard")] == [0]
    assert ring.held_bytes == 5 * 2_000
    driver.turn_to(driver.now_s + 30.0)
    assert (len(ring), ring.held_bytes) == (0, 0)


def test_a_ring_of_no_time_keeps_nothing() -> None:
    driver = EdgeDriver(ring=RingSettings(history_s=0.0))
    driver.connect()
    driver.session.keep("gate", FakeLatent(), 4, driver.now_s, driver.now_s, size_bytes=10)
    assert len(driver.session.ring) == 0


def test_what_is_asked_again_is_told_before_it_is_decided() -> None:
    driver = EdgeDriver()
    driver.connect()
    frame = driver.session.keep("gate", FakeLatent(), 4, driver.now_s - 2.0, driver.now_s, size_bytes=10)
    ask = Ask(query_id="a", text="a?", answer_type=AnswerType.YES_NO, ago_ms=1_500, deadline_ms=1_000)
    driver.receive(topics.ask_topic("gate", CLIENT), ask)
    driver.turn_to(driver.now_s + 5.0)
    (told,) = driver.asked_again
    assert isinstance(told, HeldFrameAsked)
    assert (told.frame, told.age_s) == (frame, 2.0)
    assert [decision.query_id for decision in driver.decisions] == [f"gate/@{CLIENT}/a"]


def test_a_follow_up_that_waits_for_the_uplink_is_withdrawn_when_its_frame_is_to_be_opened_again() -> None:
    driver = EdgeDriver()
    driver.connect()
    frame = driver.session.keep("gate", FakeLatent(), 4, driver.now_s, driver.now_s, size_bytes=64)
    driver.receive(topics.ask_topic("gate", CLIENT), Ask(query_id="a", text="a?", frame=frame))
    accept = Refine(worker="w0", frame=frame, attempt=1, start=4, stop=8, lease_ms=1000)
    driver.receive(topics.control_topic("gate"), accept, qos=0)
    driver.session.connection(False, driver.now_s)
    driver.receive(topics.ask_topic("gate", CLIENT), Ask(query_id="b", text="b?", frame=frame))
    will = Status(kind="worker", id="w0", boot=1, online=False)
    driver.receive(topics.status_topic("worker", "w0"), will)
    driver.turn_to(driver.now_s + 1.0)
    driver.session.connection(True, driver.now_s)
    driver.pump()
    driver.turn_to(driver.now_s + 1.0)
    assert not driver.messages(FollowUp)
    assert [message.attempt for message in driver.messages(Open)] == [1, 2]
    assert [ref.question_id for ref in driver.messages(Open)[-1].queries] == ["a", "b"]
