"""Batches are bounded in work: many questions of one frame take many passes, and cost the other frames nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.effects import InferencePass, PassAnswer, SendAnswer, SendControl
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_frame import WorkerFrame, WorkerQuery, WorkerStage
from pipeline.protocol.worker_frames import WorkerFrames
from pipeline.protocol.worker_schedule import Schedule
from pipeline.protocol.worker_throughput import ThroughputEstimate
from pipeline.protocol.worker_work import ANSWER_TOKENS, WorkCosts, question_tokens
from schemas.messages import Open, Refine
from schemas.types import AnswerType, FrameId, Outcome
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE
from tests.protocol.questions import CLIENT, ask_message, content, published, ref

VISUAL_TOKENS = 64
TOKEN_S = 0.002
MAX_WORK = 1_000.0
QUESTIONS = {f"t{number}": content(f"t{number}", "What is here?") for number in range(100)}
QUESTIONS["car"] = content("car", "A car?", AnswerType.YES_NO)
ASKED = {name: content(name, question.text, ad_hoc=True) for name, question in QUESTIONS.items()}


def session(stop_rule: StopRule = STOP_RULE) -> WorkerFrames:
    worker = WorkerFrames(
        WorkerProtocolSettings(),
        worker="w0",
        pool=POOL,
        fingerprint=FINGERPRINT,
        stop_rule=stop_rule,
        costs=WorkCosts.by_tokens(VISUAL_TOKENS),
    )
    for question in QUESTIONS.values():
        worker.receive_question(published(question))
    for question in ASKED.values():
        for camera in ("many-0", "many-1"):
            worker.receive_ask(camera, CLIENT, ask_message(question), None)
    return worker


def receive(worker: WorkerFrames, camera: str, now_s: float, questions: list[str], *, ad_hoc: bool = False) -> None:
    refs = tuple(ref((ASKED if ad_hoc else QUESTIONS)[question], 8_000) for question in questions)
    message = Open(
        frame=FrameId(7, 0), attempt=1, site="north", fingerprint=FINGERPRINT, queries=refs, stop=4, payload=bytes(4)
    )
    worker.receive_open(camera, message, now_s)


def answers(inference_pass: InferencePass, score: float) -> list[PassAnswer]:
    return [PassAnswer(query.query_id, "yes", score) for query in inference_pass.queries]


@pytest.mark.parametrize("ad_hoc", [False, True])
def test_frames_with_a_hundred_text_questions_make_no_standing_one_of_others_late(ad_hoc: bool) -> None:
    worker = session()
    receive(worker, "many-0", 0.0, [f"t{number}" for number in range(50)], ad_hoc=ad_hoc)
    receive(worker, "many-1", 0.0, [f"t{number}" for number in range(50, 100)], ad_hoc=ad_hoc)
    for number in range(24):
        receive(worker, f"c{number}", 0.0, ["car"])
    now_s, answered_s = 0.0, {}
    while worker.unfinished() and now_s < 30.0:
        worker.tick(now_s)
        passes = worker.passes.take(16, now_s, MAX_WORK)
        work = sum(inference_pass.work for inference_pass in passes)
        assert work <= MAX_WORK
        now_s += 0.02 + TOKEN_S * work
        worker.passes.note_batch(0.02 + TOKEN_S * work, work)
        for inference_pass in passes:
            worker.passes.finish(inference_pass, answers(inference_pass, 1.0), now_s)
        for effect in worker.take_effects():
            if isinstance(effect, SendAnswer) and effect.message.outcome is Outcome.ANSWERED:
                answered_s[effect.message.query_id] = now_s
    standing = [query_id for query_id in answered_s if query_id.endswith("/car")]
    assert len(standing) == 24, "one frame of fifty answers took a batch of seven seconds"
    assert len(answered_s) >= 24 + 20, "and the others get the rest of the time, which is enough for a fifth of them"


def test_the_questions_of_a_frame_are_asked_once_each_over_several_passes_then_more_is_asked_for() -> None:
    worker = session()
    receive(worker, "many", 0.0, [f"t{number}" for number in range(20)])
    seen: list[str] = []
    refines: list[Refine] = []
    numbers = set()
    passes = 0
    while not refines:
        (inference_pass,) = worker.passes.take(16, 0.0, 400.0)
        assert inference_pass.work <= 400
        passes += 1
        seen += [query.question.question_id for query in inference_pass.queries]
        numbers.add(inference_pass.number)
        worker.passes.finish(inference_pass, answers(inference_pass, 0.0), 0.1)
        refines = [
            effect.message
            for effect in worker.take_effects()
            if isinstance(effect, SendControl) and isinstance(effect.message, Refine)
        ]
    assert sorted(seen) == sorted(f"t{number}" for number in range(20))
    assert passes == 5
    assert numbers == {1}, "one prefix is one pass, in however many passes"


def test_one_question_that_is_more_than_a_batch_is_asked_alone() -> None:
    worker = session()
    receive(worker, "a", 0.0, ["t0"])
    receive(worker, "b", 0.0, ["t1"])
    assert [len(worker.passes.take(16, 0.0, 10.0)) for _ in range(2)] == [1, 1]


def test_the_time_of_a_batch_is_expected_by_its_work() -> None:
    throughput = ThroughputEstimate(WorkerProtocolSettings(), max_frames=16, frame_work=100)
    for work in (100, 1_600, 800) * 30:
        throughput.note_batch(0.05 + TOKEN_S * work, work)
    assert throughput.batch_s(5_000) == pytest.approx(0.05 + TOKEN_S * 5_000, rel=0.02)


@given(
    st.lists(
        st.tuples(st.floats(0.5, 20.0), st.booleans(), st.integers(1, 64), st.integers(1, 80)), min_size=1, max_size=20
    ),
    st.integers(1, 16),
    st.integers(1, 5_000),
)
def test_a_batch_is_never_over_its_bounds_and_asks_nothing_twice(
    waiting: list[tuple[float, bool, int, int]], max_frames: int, max_work: int
) -> None:
    frames = []
    for index, (deadline_s, ad_hoc, count, work) in enumerate(waiting):
        queries = {
            f"{index}/{n}": WorkerQuery(ref("q", 1, ad_hoc=ad_hoc), "site/north", deadline_s, work=work)
            for n in range(count)
        }
        frames.append(WorkerFrame(f"c{index}", FrameId(7, 0), 1, "north", queries, WorkerStage.PARKED, 3.0, 0.0))
    settings = WorkerProtocolSettings()
    picked = Schedule(settings, ThroughputEstimate(settings, max_frames=max_frames, frame_work=100)).pick(
        frames, max_frames, 0.0, max_work=max_work, frame_work=64
    )
    assert 1 <= len(picked.batch) <= max_frames
    asked = [query_id for part in picked.batch for query_id in part.query_ids]
    assert len(asked) == len(set(asked))
    for part in picked.batch:
        assert part.query_ids
        assert part.work == 64 + sum(part.frame.queries[query_id].work or 0 for query_id in part.query_ids)
    total = sum(part.work for part in picked.batch)
    assert total <= max_work or (len(picked.batch) == 1 and len(picked.batch[0].query_ids) == 1)


@pytest.mark.parametrize("text", ["\N{MAGE}" * 500, "\N{MAGE}" * 1_500, "\N{CJK UNIFIED IDEOGRAPH-9580}" * 500])
def test_rare_characters_are_counted_at_their_worst(text: str) -> None:
    # A tokenizer on bytes, as most models have, makes one token of each byte of a character that it has no word for.
    assert question_tokens(text, AnswerType.YES_NO) >= len(text.encode()) + ANSWER_TOKENS[AnswerType.YES_NO]


def test_prose_is_counted_as_before() -> None:
    assert question_tokens("Is there a person at the gate?", AnswerType.YES_NO) == 1 + 30 // 4 + 4
