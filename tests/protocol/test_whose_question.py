"""Texts and answers stay with whoever they belong to, and nothing that is said about a question ends a session."""

from __future__ import annotations

import pytest

from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.effects import PassAnswer, ReplyTo, SendAnswer, SendControl
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.worker_frames import WorkerFrames
from schemas import topics
from schemas.identity import QuestionContent
from schemas.messages import Ask, Busy, NeedText, Open, QueryRef, Text
from schemas.types import FrameId, Outcome
from tests.protocol.fake_latents import LATENTS, FakeLatent
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE
from tests.protocol.questions import SITE, ask_message, asked, content, published, ref

PEOPLE = content("people", "Are there people?")
STILL_ASKED = content("q0", "still asked?")


def _worker(settings: WorkerProtocolSettings | None = None) -> WorkerFrames:
    return WorkerFrames(
        settings or WorkerProtocolSettings(), worker="w0", pool=POOL, fingerprint=FINGERPRINT, stop_rule=STOP_RULE
    )


def _open(sequence: int, *refs: QueryRef, stop: int = 4, site: str = SITE) -> Open:
    return Open(
        frame=FrameId(7, sequence),
        attempt=1,
        site=site,
        fingerprint=FINGERPRINT,
        queries=refs,
        stop=stop,
        payload=FakeLatent().payload(0, stop),
    )


def _text(question: QuestionContent, camera: str = "gate") -> Text:
    return Text(
        camera=camera,
        owner=question.owner,
        question_id=question.question_id,
        text=question.text,
        answer_type=question.answer_type,
        options=question.options,
        risk=question.risk,
    )


def _answers(worker: WorkerFrames) -> list[SendAnswer]:
    return [effect for effect in worker.take_effects() if isinstance(effect, SendAnswer)]


def _asked_texts(worker: WorkerFrames) -> list[str]:
    return [query.text for inference_pass in worker.passes.take(8, 0.0) for query in inference_pass.queries]


def _missing(worker: WorkerFrames) -> list[tuple[bytes, ...]]:
    """Digests of each request for texts."""
    effects = worker.take_effects()
    said = [effect.message for effect in effects if isinstance(effect, SendControl)]
    return [message.digests for message in said if isinstance(message, NeedText)]


def test_an_ask_under_the_id_of_a_standing_question_changes_nothing_of_it() -> None:
    worker = _worker()
    worker.receive_question(published(PEOPLE))
    reply = ReplyTo(topics.reply_topic("eve", "gate", "people"), b"")
    worker.receive_ask("gate", "eve", Ask(query_id="people", text="Is it raining?"), reply)
    worker.receive_open("yard", _open(0, ref(PEOPLE, 9_000)), 0.0)
    (inference_pass,) = worker.passes.take(8, 0.0)
    assert [query.text for query in inference_pass.queries] == ["Are there people?"]
    worker.passes.finish(inference_pass, [PassAnswer(inference_pass.queries[0].query_id, "yes", 1.0)], 0.1)
    (answer,) = _answers(worker)
    assert answer.message.outcome is Outcome.ANSWERED
    assert answer.message.owner == f"site/{SITE}"
    assert answer.reply_to is None


def test_two_clients_with_one_query_id_get_each_its_own_answer() -> None:
    worker = _worker()
    mine = {}
    for camera, client in (("gate", "alice"), ("dock", "bob")):
        mine[camera] = content("q1", f"What does {client} see?", ad_hoc=True, client=client)
        reply = ReplyTo(topics.reply_topic(client, camera, "q1"), client.encode())
        worker.receive_ask(camera, client, ask_message(mine[camera]), reply)
    for camera in ("gate", "dock"):
        worker.receive_open(camera, _open(0, ref(mine[camera], 9_000)), 0.0)
    for inference_pass in worker.passes.take(8, 0.0):
        (query,) = inference_pass.queries
        worker.passes.finish(inference_pass, [PassAnswer(query.query_id, query.text, 1.0)], 0.1)
    sent = {
        answer.reply_to.topic: (answer.message.camera, answer.message.text)
        for answer in _answers(worker)
        if answer.reply_to is not None
    }
    assert sent == {
        topics.reply_topic("alice", "gate", "q1"): ("gate", "What does alice see?"),
        topics.reply_topic("bob", "dock", "q1"): ("dock", "What does bob see?"),
    }
    # Asked again after both are decided: each client has its own.
    worker.receive_open("dock", _open(1, ref(mine["dock"], 9_000)), 1.0)
    assert [answer.message.text for answer in _answers(worker)] == ["What does bob see?"]


def test_two_clients_with_one_query_id_at_one_camera_get_each_its_own_answer() -> None:
    worker = _worker()
    mine = [content("q1", f"What does {client} see?", ad_hoc=True, client=client) for client in ("alice", "bob")]
    for question in mine:
        assert question.client is not None
        reply = ReplyTo(topics.reply_topic(question.client, "gate", "q1"))
        worker.receive_ask("gate", question.client, ask_message(question), reply)
    worker.receive_open("gate", _open(0, *(ref(question, 9_000) for question in mine)), 0.0)
    (inference_pass,) = worker.passes.take(8, 0.0)
    worker.passes.finish(
        inference_pass, [PassAnswer(query.query_id, query.text, 1.0) for query in inference_pass.queries], 0.1
    )
    assert {(answer.message.owner, answer.message.text, answer.reply_to) for answer in _answers(worker)} == {
        (f"client/{client}", f"What does {client} see?", ReplyTo(topics.reply_topic(client, "gate", "q1")))
        for client in ("alice", "bob")
    }


def test_two_sites_with_one_question_id_are_answered_each_by_its_own_text() -> None:
    worker = _worker()
    texts = {site: content("people", f"People at {site}?", site=site) for site in ("north", "south")}
    for question in texts.values():
        worker.receive_question(published(question))
    for site, question in texts.items():
        worker.receive_open(f"{site}-gate", _open(0, ref(question, 9_000), site=site), 0.0)
    seen = {
        inference_pass.camera: [query.text for query in inference_pass.queries]
        for inference_pass in worker.passes.take(8, 0.0)
    }
    assert seen == {"north-gate": ["People at north?"], "south-gate": ["People at south?"]}


def test_a_second_ask_under_a_query_id_of_a_camera_does_not_change_the_first() -> None:
    worker = _worker()
    first = content("q1", "first?", ad_hoc=True)
    worker.receive_ask("gate", "me", ask_message(first), None)
    worker.receive_ask("gate", "me", Ask(query_id="q1", text="second?"), None)
    eve = ReplyTo(topics.reply_topic("eve", "gate", "q1"), b"")
    worker.receive_ask("gate", "eve", Ask(query_id="q1", text="third?"), eve)
    worker.receive_open("gate", _open(0, ref(first, 9_000)), 0.0)
    (inference_pass,) = worker.passes.take(8, 0.0)
    assert [query.text for query in inference_pass.queries] == ["first?"]
    worker.passes.finish(inference_pass, [PassAnswer(inference_pass.queries[0].query_id, "yes", 1.0)], 0.1)
    assert [answer.reply_to for answer in _answers(worker)] == [None]


def test_a_standing_question_that_changes_leaves_the_frames_that_were_opened_with_the_old_text() -> None:
    worker = _worker()
    changed = content("q0", "asked otherwise?")
    for question in (STILL_ASKED, changed):
        worker.receive_question(published(question))
    worker.receive_open("gate", _open(0, ref(STILL_ASKED, 9_000)), 0.0)
    worker.receive_open("gate", _open(1, ref(changed, 9_000)), 0.0)
    assert _asked_texts(worker) == ["still asked?", "asked otherwise?"]


@pytest.mark.parametrize(
    "said",
    [
        content("people", "mine?"),
        content("people", "Are there people?", site="south"),
        content("people", "Are there people?", ad_hoc=True, client="eve"),
        content("people", "Are there people?", risk=0.5),
        content("persons", "Are there people?"),
    ],
    ids=["text", "site", "client", "risk", "id"],
)
def test_a_text_that_is_not_to_the_byte_what_a_frame_names_does_not_stand_in_for_it(said: QuestionContent) -> None:
    worker = _worker()
    if said.ad_hoc:
        assert said.client is not None
        worker.receive_ask("yard", said.client, ask_message(said), None)
    worker.receive_text(_text(said))
    worker.receive_open("yard", _open(0, ref(PEOPLE, 9_000)), 0.0)
    assert _asked_texts(worker) == []
    assert _missing(worker) == [(PEOPLE.digest,)]


def test_a_question_that_changes_while_its_frames_are_parked_is_answered_for_them_as_it_was() -> None:
    worker = _worker()
    worker.receive_question(published(STILL_ASKED))
    worker.receive_open("gate", _open(0, ref(STILL_ASKED, 9_000), stop=LATENTS), 0.0)
    worker.receive_question(published(content("q0", "asked otherwise?")))
    (inference_pass,) = worker.passes.take(8, 0.0)
    assert [query.text for query in inference_pass.queries] == ["still asked?"]
    worker.passes.finish(inference_pass, [PassAnswer(inference_pass.queries[0].query_id, "yes", 1.0)], 0.1)
    assert worker.unfinished() == 0


def test_a_flood_of_asks_takes_no_text_from_a_parked_frame() -> None:
    worker = _worker(WorkerProtocolSettings(text_cache=16))
    worker.receive_question(published(STILL_ASKED))
    worker.receive_open("gate", _open(0, ref(STILL_ASKED, 9_000)), 0.0)
    for number in range(100):
        worker.receive_ask("gate", "eve", Ask(query_id=f"a{number}", text="?"), None)
    assert _asked_texts(worker) == ["still asked?"]


def test_texts_are_bounded_in_bytes() -> None:
    worker = _worker(WorkerProtocolSettings(text_cache_bytes=10_000))
    for number in range(500):
        worker.receive_ask("gate", "eve", Ask(query_id=f"a{number}", text="?" * 500), None)
    assert worker._texts.held_bytes <= 10_000


def test_a_model_that_leaves_a_query_out_of_the_whole_latent_fails_it() -> None:
    worker = _worker()
    worker.receive_question(published(STILL_ASKED))
    worker.receive_open("gate", _open(0, ref(STILL_ASKED, 9_000), stop=LATENTS), 0.0)
    (inference_pass,) = worker.passes.take(8, 0.0)
    worker.passes.finish(inference_pass, [], 0.1)
    assert [(answer.message.outcome, answer.message.reason) for answer in _answers(worker)] == [
        (Outcome.FAILED, "model: no answer")
    ]
    assert worker.unfinished() == 0


def test_a_frame_goes_on_when_its_only_unknown_query_is_over() -> None:
    worker = _worker()
    known = content("known")
    worker.receive_question(published(known))
    worker.receive_open("gate", _open(0, ref(known, 9_000), ref("unknown", 500)), 0.0)
    for tick in range(1, 40):
        worker.tick(tick / 10)
        missing = _missing(worker)
        assert tick <= 5 or not missing
    assert _asked_texts(worker) == ["known?"]


def test_frames_whose_texts_never_come_leave_their_places() -> None:
    worker = _worker(WorkerProtocolSettings(capacity_frames=100))
    for sequence in range(100):
        worker.receive_open(f"cam{sequence % 10}", _open(sequence, ref(f"u{sequence}", 86_400_000)), 0.0)
    assert worker.unfinished() == 100
    for tick in range(1, 60):
        worker.tick(tick / 10)
    assert worker.unfinished() == 0
    assert worker.counters["texts_never_came"] == 100


def test_one_camera_cannot_take_all_places_of_a_worker() -> None:
    worker = _worker()
    worker.receive_question(published(STILL_ASKED))
    for sequence in range(1_100):
        worker.receive_open("stolen", _open(sequence, ref(STILL_ASKED, 86_400_000)), 0.0)
    assert worker.unfinished() <= WorkerProtocolSettings().camera_frames
    worker.receive_open("gate", _open(0, ref(STILL_ASKED, 9_000)), 0.0)
    assert any(frame.camera == "gate" for frame in worker.frames())


@pytest.mark.parametrize("deadline_s", [100.0, 86_400.0])
def test_a_pool_that_stays_busy_ends_a_query_once(deadline_s: float) -> None:
    edge = EdgeFrames(EdgeProtocolSettings(), site=SITE, pool=POOL, boot=1, fingerprint=FINGERPRINT)
    frame = edge.offer("gate", FakeLatent(), 4, [asked("a1", deadline_s, ad_hoc=True)], 0.0)
    now_s, opens = 0.0, 0
    while edge.unfinished():
        for departure in edge.take_departures():
            opened = departure.stamp(now_s)
            if isinstance(opened, Open):
                opens += 1
                busy = Busy(worker="w0", frame=frame, attempt=opened.attempt, retry_after_ms=100)
                edge.receive_control("gate", busy, now_s)
        due_s = edge.next_wake_s()
        assert due_s is not None
        now_s = max(now_s, due_s)
        edge.tick(now_s)
    assert [decision.outcome for decision in edge.take_decisions()] == [Outcome.EXPIRED]
    assert opens <= 255
    assert now_s >= deadline_s
