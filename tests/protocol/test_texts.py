"""Texts that a worker asks for, what it knows of questions, and what nobody else's questions take from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.effects import PassAnswer, ReplyTo, SendAnswer, SendControl
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_frame import WorkerFrame, WorkerQuery
from pipeline.protocol.worker_frames import WorkerFrames
from pipeline.protocol.worker_store import FrameStore
from pipeline.protocol.worker_texts import OwnedStore, Texts
from schemas import topics
from schemas.identity import QuestionContent
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.messages import Ask, NeedText, Open, QueryRef, Text
from schemas.types import FrameId, Outcome
from tests.protocol.fake_latents import LATENTS, FakeLatent
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE, Fleet
from tests.protocol.questions import SITE, ask_message, content, published, ref

UNKNOWN = {question.digest: question for question in (content(f"u{n}") for n in range(MAX_QUERIES_PER_FRAME))}
Q1 = content("q1", "mine?", ad_hoc=True, client="alice")
REPLY = ReplyTo(topics.reply_topic("alice", "gate", "q1"), b"42")


def _worker(settings: WorkerProtocolSettings | None = None) -> WorkerFrames:
    return WorkerFrames(
        settings or WorkerProtocolSettings(), worker="w0", pool=POOL, fingerprint=FINGERPRINT, stop_rule=STOP_RULE
    )


def _open(worker: WorkerFrames, *refs: QueryRef, camera: str = "gate", sequence: int = 0, now_s: float = 0.0) -> None:
    message = Open(
        frame=FrameId(7, sequence),
        attempt=1,
        site=SITE,
        fingerprint=FINGERPRINT,
        queries=refs,
        stop=LATENTS,
        payload=FakeLatent().payload(0, LATENTS),
    )
    worker.receive_open(camera, message, now_s)


def _text(question: QuestionContent) -> Text:
    return Text(
        camera="gate",
        owner=question.owner,
        question_id=question.question_id,
        text=question.text,
        answer_type=question.answer_type,
    )


def _requests(worker: WorkerFrames) -> list[tuple[bytes, ...]]:
    said = [effect.message for effect in worker.take_effects() if isinstance(effect, SendControl)]
    return [message.digests for message in said if isinstance(message, NeedText)]


def _answer(worker: WorkerFrames) -> list[SendAnswer]:
    for inference_pass in worker.passes.take(8, 0.0):
        worker.passes.finish(
            inference_pass, [PassAnswer(query.query_id, query.text, 1.0) for query in inference_pass.queries], 0.1
        )
    return [effect for effect in worker.take_effects() if isinstance(effect, SendAnswer)]


def test_all_texts_of_a_full_frame_arrive_though_a_request_names_sixteen() -> None:
    fleet = Fleet(know_questions=False)
    names = [f"u{number}" for number in range(MAX_QUERIES_PER_FRAME)]
    frame = fleet.ask(*names)
    fleet.run()
    assert fleet.outcomes() == {f"gate/{frame}/{name}": "answered" for name in names}
    requests = [message.digests for message in fleet.messages(NeedText) if isinstance(message, NeedText)]
    assert [len(digests) for digests in requests] == [16] * 4
    assert fleet.decided_s[-1] < 1.0, "each request follows the last text of the one before, no timeout"


def test_texts_that_trickle_in_restart_the_count_of_requests() -> None:
    worker = _worker()
    _open(worker, *(ref(question, 600_000) for question in UNKNOWN.values()))
    now_s = 0.0
    for _text_number in UNKNOWN:
        now_s += 2.5
        for due_s in (now_s - 1.0, now_s):
            worker.tick(due_s)
        requests = _requests(worker)
        assert len(requests) >= 2, "two requests stay without an answer before each text"
        worker.receive_text(_text(UNKNOWN[requests[-1][0]]))
    (inference_pass,) = worker.passes.take(8, now_s)
    assert len(inference_pass.queries) == MAX_QUERIES_PER_FRAME
    assert worker.counters["texts_never_came"] == 0


def test_a_text_that_came_already_is_no_progress() -> None:
    worker = _worker()
    known, unknown = content("known"), content("unknown")
    _open(worker, ref(known, 600_000), ref(unknown, 600_000))
    for tick in range(1, 100):
        worker.receive_text(_text(known))
        worker.tick(tick / 10)
    assert worker.counters["texts_never_came"] == 1
    assert worker.unfinished() == 0
    assert worker._frames.waiting_for(unknown.digest) == []
    assert not worker._frames._by_text


def test_a_frame_that_names_a_text_under_another_id_or_owner_does_not_get_it() -> None:
    worker = _worker()
    worker.receive_ask("gate", "alice", ask_message(Q1), REPLY)
    worker.receive_question(published("q0"))
    _open(worker, QueryRef("q9", 9_000, content("q0").digest))
    _open(worker, QueryRef("q1", 9_000, Q1.digest, "eve"), sequence=1)
    _open(worker, QueryRef("q1", 9_000, Q1.digest), sequence=2)
    for question in (content("q0"), Q1):
        worker.receive_text(_text(question))
    assert worker.passes.take(8, 0.0) == []
    assert _requests(worker) == [(content("q0").digest,), (Q1.digest,), (Q1.digest,)]


def test_a_question_without_its_reply_address_is_asked_for_so_that_the_edge_replies() -> None:
    worker = _worker()
    worker.receive_ask("yard", "alice", ask_message(Q1), REPLY)
    _open(worker, ref(Q1, 9_000))
    assert _requests(worker) == [(Q1.digest,)]
    worker.receive_ask("gate", "alice", ask_message(Q1), REPLY)
    assert [answer.reply_to for answer in _answer(worker)] == [REPLY]


def test_an_answer_goes_where_its_client_wants_it_though_the_ask_is_forgotten_meanwhile() -> None:
    worker = _worker(WorkerProtocolSettings(text_cache=8))
    worker.receive_ask("gate", "alice", ask_message(Q1), REPLY)
    _open(worker, ref(Q1, 9_000))
    for number in range(100):
        worker.receive_ask("gate", f"c{number}", Ask(query_id=f"a{number}", text="?"), None)
    assert [(answer.message.text, answer.reply_to) for answer in _answer(worker)] == [("mine?", REPLY)]


def test_a_client_in_a_hurry_evicts_its_own_questions_alone() -> None:
    worker = _worker(WorkerProtocolSettings(text_cache=64))
    worker.receive_question(published("q0"))
    worker.receive_ask("gate", "alice", ask_message(Q1), REPLY)
    for number in range(10_000):
        worker.receive_ask("gate", "eve", Ask(query_id=f"a{number}", text="?"), None)
    _open(worker, ref(Q1, 9_000), ref("q0", 9_000))
    assert _requests(worker) == []
    assert {answer.message.text: answer.reply_to for answer in _answer(worker)} == {"mine?": REPLY, "q0?": None}


def test_what_is_learned_costs_nothing_of_the_frames_that_wait_for_other_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = _worker()
    for camera in range(16):
        for sequence in range(64):
            _open(
                worker,
                *(ref(question, 600_000) for question in UNKNOWN.values()),
                camera=f"c{camera}",
                sequence=sequence,
            )
    assert worker.unfinished() == WorkerProtocolSettings().capacity_frames
    taken: list[object] = []
    monkeypatch.setattr(WorkerQuery, "take", lambda query, *_: taken.append(query))

    def all_frames(store: FrameStore) -> Iterator[WorkerFrame]:
        taken.append(store)
        yield from ()

    monkeypatch.setattr(FrameStore, "__iter__", all_frames)
    monkeypatch.setattr(FrameStore, "in_stage", lambda store, _stage: list(all_frames(store)))
    for number in range(100):
        worker.receive_ask("gate", "eve", Ask(query_id=f"a{number}", text="?"), None)
        worker.receive_question(published(f"s{number}"))
        worker.receive_text(_text(content(f"t{number}")))
    assert taken == []


def test_an_id_that_is_used_again_for_another_text_gets_another_answer() -> None:
    worker = _worker()
    other = content("q1", "something else?", ad_hoc=True, client="alice")
    for sequence, question in enumerate((Q1, other, Q1)):
        worker.receive_ask("gate", "alice", ask_message(question), REPLY)
        _open(worker, ref(question, 9_000), sequence=sequence)
        (answer,) = _answer(worker)
        assert (answer.message.text, answer.message.outcome) == (question.text, Outcome.ANSWERED)
        assert answer.reply_to == REPLY
    assert worker.counters["terminal_repeated"] == 1


def test_the_owner_that_has_most_loses_first_and_of_these_the_one_that_was_silent_for_longest() -> None:
    store: OwnedStore[int, str] = OwnedStore(8, 1_000, len)
    for owner in ("a", "b", "c", "d"):
        for key in range(2):
            store.put(owner, key, owner)
    assert store.get("a", 0) == "a"
    store.put("e", 0, "e")
    assert (store.get("b", 0), store.get("b", 1), len(store)) == (None, "b", 8)
    for key in range(100):
        store.put("e", key, "e")
    assert [sum(store.get(owner, key) is not None for key in range(100)) for owner in "abcde"] == [2, 1, 1, 2, 2]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.booleans()), max_size=60))
def test_a_store_is_fair_at_each_step(steps: list[tuple[str, int, bool]]) -> None:
    store: OwnedStore[int, str] = OwnedStore(6, 1_000, len)
    asked: dict[str, set[int]] = {owner: set() for owner in "abc"}
    for owner, key, put in steps:
        if put:
            store.put(owner, key, "x")
            asked[owner].add(key)
            assert store.get(owner, key) == "x" or len(asked[owner]) > 2
        else:
            store.get(owner, key)
        held = {name: sum(store.get(name, each) is not None for each in keys) for name, keys in asked.items()}
        assert sum(held.values()) == len(store) == store.held_bytes <= 6
        # Nobody who has asked for a third or less has lost anything.
        assert all(held[name] == len(keys) for name, keys in asked.items() if len(keys) <= 2)


@pytest.mark.parametrize("size_bytes", [1, 300, 1_000])
def test_a_store_is_bounded_in_bytes_whatever_is_put_in(size_bytes: int) -> None:
    store: OwnedStore[int, bytes] = OwnedStore(100, 1_000, len)
    for key in range(50):
        store.put(f"owner-{key % 7}", key, bytes(size_bytes))
        assert store.held_bytes <= 1_000
    store.put("owner-0", 1, bytes(1_001))
    assert (len(store), store.held_bytes) == (0, 0)


def test_texts_of_sites_and_of_clients_take_nothing_from_each_other() -> None:
    texts = Texts(4, 100_000)
    standing = content("q0")
    texts.learn_standing(standing)
    for number in range(100):
        question = content(f"a{number}", ad_hoc=True, client=f"c{number}")
        texts.learn_ask(question.query_id("gate", FrameId(1, 1)), question, None)
    assert texts.standing("gate", standing.owner, standing.digest) == standing


def test_texts_that_an_edge_sends_under_another_sites_name_take_nothing_of_that_site() -> None:
    worker = _worker(WorkerProtocolSettings(text_cache=12))
    south = [content(f"q{number}", site="south") for number in range(4)]
    for question in south:
        worker.receive_question(published(question))
    for number in range(100):
        invented = content(f"x{number}", site="south")
        for camera in ("stolen-1", "stolen-2"):
            worker.receive_text(_text(invented).model_copy(update={"camera": camera}))
    assert all(worker._texts.standing("gate", question.owner, question.digest) for question in south)


def test_a_text_that_was_asked_for_is_known_for_the_next_frame_of_its_camera_alone() -> None:
    worker = _worker()
    unknown = content("unknown")
    _open(worker, ref(unknown, 9_000))
    worker.receive_text(_text(unknown))
    _open(worker, ref(unknown, 9_000), sequence=1)
    assert _requests(worker) == [(unknown.digest,)]
    _open(worker, ref(unknown, 9_000), camera="yard")
    assert _requests(worker) == [(unknown.digest,)]
