"""Texts and answers stay with whoever they belong to, and nothing that is said about a question ends a session."""

from __future__ import annotations

import pytest

from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery, LookAnswer, ReplyTo, SendAnswer, SendControl, SendOpen, Terminal
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.worker_session import WorkerSession
from schemas.messages import Ask, Busy, NeedText, Open, QueryRef, Question, Text
from schemas.types import AnswerType, FrameId, Outcome
from tests.protocol.fake_latents import LATENTS, FakeLatent
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE


def _worker(settings: WorkerProtocolSettings | None = None) -> WorkerSession:
    return WorkerSession(
        settings or WorkerProtocolSettings(), worker="w0", pool=POOL, fingerprint=FINGERPRINT, stop_rule=STOP_RULE
    )


def _open(sequence: int, *refs: QueryRef, stop: int = 4) -> Open:
    return Open(
        frame=FrameId(7, sequence),
        attempt=1,
        fingerprint=FINGERPRINT,
        queries=refs,
        stop=stop,
        payload=FakeLatent().payload(0, stop),
    )


def _answers(worker: WorkerSession) -> list[SendAnswer]:
    return [effect for effect in worker.take_effects() if isinstance(effect, SendAnswer)]


def _asked_texts(worker: WorkerSession) -> list[str]:
    return [query.text for look in worker.take_looks(8, 0.0) for query in look.queries]


def test_an_ask_under_the_id_of_a_standing_question_changes_nothing_of_it() -> None:
    worker = _worker()
    worker.receive_question("people", Question(question_id="people", text="Are there people?"))
    worker.receive_ask("gate", Ask(query_id="people", text="Is it raining?"), ReplyTo("lb/v1/reply/eve/people", b""))
    worker.receive_open("yard", _open(0, QueryRef("people", 9_000)), 0.0)
    (look,) = worker.take_looks(8, 0.0)
    assert [query.text for query in look.queries] == ["Are there people?"]
    worker.finish_look(look, [LookAnswer(look.queries[0].query_id, "yes", 1.0)], 0.1)
    (answer,) = _answers(worker)
    assert answer.message.outcome is Outcome.ANSWERED
    assert answer.reply_to is None


def test_two_clients_with_one_query_id_get_each_its_own_answer() -> None:
    worker = _worker()
    for camera, client in (("gate", "alice"), ("dock", "bob")):
        ask = Ask(query_id="q1", text=f"What does {client} see?")
        worker.receive_ask(camera, ask, ReplyTo(f"lb/v1/reply/{client}/q1", client.encode()))
    for camera in ("gate", "dock"):
        worker.receive_open(camera, _open(0, QueryRef("q1", 9_000, ad_hoc=True)), 0.0)
    for look in worker.take_looks(8, 0.0):
        worker.finish_look(look, [LookAnswer("q1", look.queries[0].text, 1.0)], 0.1)
    sent = {
        answer.reply_to.topic: (answer.message.camera, answer.message.text)
        for answer in _answers(worker)
        if answer.reply_to is not None
    }
    assert sent == {
        "lb/v1/reply/alice/q1": ("gate", "What does alice see?"),
        "lb/v1/reply/bob/q1": ("dock", "What does bob see?"),
    }
    # Asked again after both are decided: each camera has its own.
    worker.receive_open("dock", _open(1, QueryRef("q1", 9_000, ad_hoc=True)), 1.0)
    assert [answer.message.text for answer in _answers(worker)] == ["What does bob see?"]


def test_a_second_ask_under_a_query_id_of_a_camera_does_not_change_the_first() -> None:
    worker = _worker()
    worker.receive_ask("gate", Ask(query_id="q1", text="first?"), None)
    worker.receive_ask("gate", Ask(query_id="q1", text="second?"), ReplyTo("lb/v1/reply/eve/q1", b""))
    worker.receive_open("gate", _open(0, QueryRef("q1", 9_000, ad_hoc=True)), 0.0)
    assert _asked_texts(worker) == ["first?"]


def test_what_an_edge_says_of_its_camera_holds_for_no_other_one() -> None:
    worker = _worker()
    worker.receive_text(Text(camera="gate", question_id="people", text="mine?", answer_type=AnswerType.TEXT))
    worker.receive_open("yard", _open(0, QueryRef("people", 9_000)), 0.0)
    assert _asked_texts(worker) == []
    needs = [effect.message for effect in worker.take_effects() if isinstance(effect, SendControl)]
    assert [need.question_ids for need in needs if isinstance(need, NeedText)] == [("people",)]


def test_a_question_that_is_deleted_while_its_frames_are_parked_is_answered_for_them() -> None:
    worker = _worker()
    worker.receive_question("q0", Question(question_id="q0", text="still asked?"))
    worker.receive_open("gate", _open(0, QueryRef("q0", 9_000), stop=LATENTS), 0.0)
    worker.receive_question("q0", None)
    (look,) = worker.take_looks(8, 0.0)
    assert [query.text for query in look.queries] == ["still asked?"]
    worker.finish_look(look, [LookAnswer(look.queries[0].query_id, "yes", 1.0)], 0.1)
    assert worker.unfinished() == 0


def test_a_flood_of_asks_takes_no_text_from_a_parked_frame() -> None:
    worker = _worker(WorkerProtocolSettings(text_cache=16))
    worker.receive_question("q0", Question(question_id="q0", text="still asked?"))
    worker.receive_open("gate", _open(0, QueryRef("q0", 9_000)), 0.0)
    for number in range(100):
        worker.receive_ask("gate", Ask(query_id=f"a{number}", text="?"), None)
    assert _asked_texts(worker) == ["still asked?"]


def test_texts_are_bounded_in_bytes() -> None:
    worker = _worker(WorkerProtocolSettings(text_cache_bytes=10_000))
    for number in range(500):
        worker.receive_ask("gate", Ask(query_id=f"a{number}", text="?" * 500), None)
    assert worker._questions.held_bytes <= 10_000


def test_a_model_that_leaves_a_query_out_of_the_whole_latent_fails_it() -> None:
    worker = _worker()
    worker.receive_question("q0", Question(question_id="q0", text="?"))
    worker.receive_open("gate", _open(0, QueryRef("q0", 9_000), stop=LATENTS), 0.0)
    (look,) = worker.take_looks(8, 0.0)
    worker.finish_look(look, [], 0.1)
    assert [(answer.message.outcome, answer.message.reason) for answer in _answers(worker)] == [
        (Outcome.FAILED, "model: no answer")
    ]
    assert worker.unfinished() == 0


def test_a_frame_goes_on_when_its_only_unknown_query_is_over() -> None:
    worker = _worker()
    worker.receive_question("known", Question(question_id="known", text="known?"))
    worker.receive_open("gate", _open(0, QueryRef("known", 9_000), QueryRef("unknown", 500)), 0.0)
    for tick in range(1, 40):
        worker.tick(tick / 10)
        for effect in worker.take_effects():
            assert not (isinstance(effect, SendControl) and isinstance(effect.message, NeedText) and tick > 5)
    assert _asked_texts(worker) == ["known?"]


def test_frames_whose_texts_never_come_leave_their_places() -> None:
    worker = _worker(WorkerProtocolSettings(capacity_frames=100))
    for sequence in range(100):
        refs = QueryRef(f"u{sequence}", 86_400_000)
        worker.receive_open(f"cam{sequence % 10}", _open(sequence, refs), 0.0)
    assert worker.unfinished() == 100
    for tick in range(1, 60):
        worker.tick(tick / 10)
    assert worker.unfinished() == 0
    assert worker.counters["texts_never_came"] == 100


def test_one_camera_cannot_take_all_places_of_a_worker() -> None:
    worker = _worker()
    worker.receive_question("q0", Question(question_id="q0", text="?"))
    for sequence in range(1_100):
        worker.receive_open("stolen", _open(sequence, QueryRef("q0", 86_400_000, ad_hoc=False)), 0.0)
    assert worker.unfinished() <= WorkerProtocolSettings().camera_frames
    worker.receive_open("gate", _open(0, QueryRef("q0", 9_000)), 0.0)
    assert any(frame.camera == "gate" for frame in worker.frames())


@pytest.mark.parametrize("deadline_s", [100.0, 86_400.0])
def test_a_pool_that_stays_busy_ends_a_query_once(deadline_s: float) -> None:
    edge = EdgeSession(EdgeProtocolSettings(), pool=POOL, boot=1, fingerprint=FINGERPRINT)
    frame = edge.offer("gate", FakeLatent(), 4, [AskedQuery("a1", deadline_s, "?", ad_hoc=True)], 0.0)
    now_s, opens, terminals = 0.0, 0, []
    while edge.unfinished():
        for effect in edge.take_effects():
            if isinstance(effect, SendOpen):
                opened = effect.message(now_s)
                assert opened is not None
                opens += 1
                busy = Busy(worker="w0", frame=frame, attempt=opened.attempt, retry_after_ms=100)
                edge.receive_control("gate", busy, now_s)
        due_s = edge.next_wake_s()
        assert due_s is not None
        now_s = max(now_s, due_s)
        edge.tick(now_s)
    terminals = [effect for effect in edge.take_effects() if isinstance(effect, Terminal)]
    assert [terminal.outcome for terminal in terminals] == [Outcome.EXPIRED]
    assert opens <= 255
    assert now_s >= deadline_s
