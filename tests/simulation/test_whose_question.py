"""The simulator's questions: whose they are, what becomes of them under way, and the ledgers of their answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import (
    AskedQuery,
    ChunkData,
    Decision,
    InferencePass,
    PassQuery,
)
from pipeline.protocol.ports import Publish, Received
from pipeline.protocol.reasons import EDGE_LOST
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.site_settings import SiteSettings
from pipeline.protocol.worker_outgoing import MAX_UNDER_WAY
from pipeline.protocol.worker_session import WorkerSession
from pipeline.protocol.worker_status import WorkerIdentity
from pipeline.protocol.worker_work import WorkCosts
from schemas import topics
from schemas.answer_value import answer_value
from schemas.identity import QuestionContent
from schemas.messages import (
    Accept,
    Answer,
    Busy,
    Handover,
    Message,
    Open,
    QueryRef,
    Reject,
    RejectReason,
    Revoke,
    Status,
)
from schemas.types import AnswerType, FrameId, Outcome
from simulation.bounds import edge_leaks, worker_leaks
from simulation.content import FINGERPRINT, LADDER, RULE, WHOLE, SimulatedLatent, SimulatedModel, seen
from simulation.edge_ledger import EdgeLedger
from simulation.query_ledger import QueryLedger
from simulation.questions import ad_hoc, echo, question_text, read_echo, standing
from simulation.uplink_ledger import UplinkLedger
from simulation.worker_ledger import WorkerLedger

GATE, FRAME = "gate", FrameId(7, 0)
OTHER_FRAME = FrameId(7, 1)
CARS, BOATS = standing("north", "cars"), standing("north", "boats")
ALICE, BOB = ad_hoc("alice", "cars"), ad_hoc("bob", "cars")
MARK = bytes(5)


class Problems:
    """What was found to be broken."""

    def __init__(self) -> None:
        self.rules: list[str] = []

    def __call__(self, rule: str, _subject: str, _problem: str) -> None:
        self.rules.append(rule)

    def take(self) -> list[str]:
        rules, self.rules = self.rules, []
        return rules


@pytest.fixture
def problems() -> Problems:
    return Problems()


@pytest.fixture
def asked(problems: Problems) -> QueryLedger:
    ledger = QueryLedger(problems)
    ledger.offered(GATE, FRAME, seen(MARK), [AskedQuery(q, 60.0) for q in (CARS, BOATS, ALICE, BOB)])
    return ledger


@pytest.fixture
def worker(problems: Problems, asked: QueryLedger) -> WorkerLedger:
    return WorkerLedger("w0", WorkerProtocolSettings(terminal_cache=2), WorkCosts.by_frames(), asked, problems)


def opened(
    *questions: QuestionContent,
    attempt: int = 1,
    frame: FrameId = FRAME,
    ms: int = 60_000,
    fingerprint: bytes = FINGERPRINT,
) -> Open:
    refs = tuple(QueryRef(q.question_id, ms, q.digest, q.client) for q in questions)
    return Open(
        frame=frame, attempt=attempt, site="north", fingerprint=fingerprint, queries=refs, stop=8, payload=WHOLE[:48]
    )


def inference_pass(*questions: QuestionContent, frame: FrameId = FRAME, stop: int = 8) -> InferencePass:
    queries = tuple(PassQuery(question.query_id(GATE, frame), question) for question in questions)
    return InferencePass(GATE, frame, 1, (ChunkData(0, stop, WHOLE[: 6 * stop]),), stop, queries, 1)


def answer(
    question: QuestionContent,
    *,
    text: str | None = None,
    outcome: Outcome | None = Outcome.ANSWERED,
    frame: FrameId = FRAME,
    reason: str = "",
) -> Answer:
    return Answer(
        query_id=question.query_id(GATE, frame),
        owner=question.owner,
        camera=GATE,
        frame=frame,
        attempt=1,
        question_id=question.question_id,
        worker="w0",
        outcome=outcome,  # type: ignore[arg-type]
        text=echo(question.answer_type, True, question.prompt, seen(MARK)) if text is None else text,
        score=0.97,
        latents=8,
        payload_bytes=48,
        looks=1,
        reason=reason,
    )


def publish(topic: str, message: Message) -> Publish:
    return Publish(topic, message, b"", 1, 1, topic.split("/")[2])


def said(message: Answer, topic: str = topics.answer_topic(GATE)) -> Publish:
    return publish(topic, message)


def control(message: Accept | Busy | Reject) -> Publish:
    return publish(topics.control_topic(GATE), message)


def worker_session() -> WorkerSession:
    identity = WorkerIdentity("w0", "main", 1, FINGERPRINT)
    return WorkerSession(WorkerProtocolSettings(), identity=identity, stop_rule=RULE)


def receive(session: WorkerSession, topic: str, message: Message, now_s: float = 0.0) -> None:
    session.receive(Received(topic, decoded=(topics.parse(topic), message)), now_s)


def hear(ledger: WorkerLedger, topic: str, message: Message, now_s: float = 0.0) -> None:
    """A worker whose session makes nothing of the message hears it."""
    session = worker_session()
    with ledger.hears(session, topic, message, now_s):
        pass


OPEN_TOPIC, INBOX = topics.open_topic("main", GATE), topics.chunk_topic("w0", GATE)


# ---- answers that say what they are about ----------------------------------------------------------------------------


@pytest.mark.parametrize("answer_type", [kind for kind in AnswerType if kind is not AnswerType.CHOICE])
def test_a_simulated_answer_has_the_form_of_its_type_and_says_what_it_is_about(answer_type: AnswerType) -> None:
    question = QuestionContent("site/north", "q0", question_text("north", "q0", length=40), answer_type)
    query = PassQuery(question.query_id(GATE, FRAME), question)
    (got,) = SimulatedModel(1).answer(InferencePass(GATE, FRAME, 1, (ChunkData(0, 32, WHOLE),), 32, (query,), 1))
    assert answer_value(answer_type, got.text) is not None
    heard = read_echo(got.text)
    assert heard is not None
    assert (heard.text, heard.mark, heard.safe) == (question.prompt, seen(MARK), True)
    assert read_echo("yes") is None


# ---- what was asked --------------------------------------------------------------------------------------------------


def test_what_was_asked_is_read_and_answered(problems: Problems, asked: QueryLedger) -> None:
    asked.passes_taken("w0", inference_pass(CARS, ALICE))
    for question in (CARS, BOATS, ALICE, BOB):
        asked.published(answer(question))
    asked.replied("w0", said(answer(ALICE), topics.reply_topic("alice", "gate", "cars")))
    asked.opened("north", GATE, opened(CARS, ALICE))
    assert problems.rules == []


def test_a_pass_that_asks_another_text_is_found(problems: Problems, asked: QueryLedger) -> None:
    queries = (PassQuery(CARS.query_id(GATE, FRAME), BOATS),)
    asked.passes_taken("w0", replace(inference_pass(CARS), queries=queries))
    edited = replace(CARS, text="cars of north today?")
    asked.passes_taken("w0", replace(inference_pass(CARS), queries=(PassQuery(CARS.query_id(GATE, FRAME), edited),)))
    asked.opened("north", GATE, opened(edited))
    assert problems.rules == ["another text was asked"] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        answer(ALICE, text=echo(AnswerType.TEXT, True, BOB.prompt, seen(MARK))),
        answer(CARS, text=echo(AnswerType.TEXT, True, CARS.prompt, "ffff")),
        answer(CARS).model_copy(update={"owner": "client/alice"}),
        answer(CARS).model_copy(update={"question_id": "boats"}),
        answer(CARS, frame=OTHER_FRAME),
        answer(standing("north", "trains")),
        answer(CARS, text="yes"),
    ],
)
def test_an_answer_of_another_query_is_found(problems: Problems, asked: QueryLedger, wrong: Answer) -> None:
    asked.published(wrong)
    assert problems.rules == ["answer of another query"]


def test_an_unsafe_answer_is_found(problems: Problems, asked: QueryLedger) -> None:
    guess = echo(AnswerType.TEXT, False, CARS.prompt, seen(MARK))
    asked.published(answer(CARS, text=guess, outcome=Outcome.DEGRADED))
    assert problems.rules == []
    asked.published(answer(CARS, text=guess))
    assert problems.rules == ["unsafe answer called safe"]


def test_an_answer_that_goes_to_another_client_is_found(problems: Problems, asked: QueryLedger) -> None:
    asked.replied("w0", said(answer(ALICE), topics.reply_topic("bob", "gate", "cars")))
    asked.replied("w0", replace(said(answer(ALICE)), topic=topics.answer_topic("yard")))
    assert problems.rules == ["answer sent to somebody else"] * 2


def test_an_edge_that_opens_or_decides_wrongly_is_found(problems: Problems, asked: QueryLedger) -> None:
    query_id = CARS.query_id(GATE, FRAME)
    asked.opened("north", GATE, opened(CARS, attempt=2).model_copy(update={"key": 3}))
    assert problems.take() == ["opened again given a key frame"]
    asked.decided("north", Decision(GATE, FRAME, query_id, CARS, Outcome.ANSWERED, answer=answer(BOATS)))
    assert problems.take() == ["answer of another query"]
    asked.decided("north", Decision(GATE, FRAME, query_id, BOATS, Outcome.ANSWERED, answer=answer(CARS)))
    assert problems.take() == ["answer of another query"]
    asked.decided("north", Decision(GATE, FRAME, query_id, CARS, Outcome.EXPIRED))
    assert problems.take() == ["no terminal"]
    asked.opened("north", GATE, opened(CARS, attempt=2))
    assert problems.take() == ["decided query computed again"]


# ---- what a worker does with what it is given ------------------------------------------------------------------------


def test_a_worker_may_answer_repeat_and_pass_on(problems: Problems, worker: WorkerLedger) -> None:
    hear(worker, OPEN_TOPIC, opened(CARS, ALICE))
    worker.passes_taken([inference_pass(CARS, ALICE)], 1.0, lambda _work: 1.0)
    for question in (CARS, ALICE):
        worker.said(said(answer(question)), 2.0)
    hear(worker, OPEN_TOPIC, opened(CARS, ALICE, attempt=2), 3.0)
    worker.said(said(answer(CARS)), 3.0)
    hear(worker, OPEN_TOPIC, opened(BOATS, attempt=3), 4.0)
    fields = {name: getattr(opened(BOATS, attempt=3), name) for name in Open.model_fields}
    worker.said(publish(topics.handover_topic("w1"), Handover(camera=GATE, hops=1, **fields)), 4.0)
    assert problems.rules == []


def test_what_was_answered_and_is_remembered_is_not_computed_again(problems: Problems, worker: WorkerLedger) -> None:
    hear(worker, OPEN_TOPIC, opened(ALICE, BOB, CARS))
    worker.said(said(answer(ALICE)), 1.0)
    worker.passes_taken([inference_pass(ALICE)], 2.0, lambda _work: 1.0)
    assert problems.take() == ["decided query computed again"]
    for question in (BOB, CARS):  # two answers are remembered
        worker.said(said(answer(question)), 3.0)
    worker.passes_taken([inference_pass(ALICE)], 4.0, lambda _work: 1.0)
    assert problems.rules == []


def test_a_second_answer_and_one_to_another_question_are_found(problems: Problems, worker: WorkerLedger) -> None:
    hear(worker, OPEN_TOPIC, opened(ALICE, BOB))
    worker.said(said(answer(ALICE)), 1.0)
    worker.said(said(answer(ALICE, outcome=Outcome.DEGRADED)), 2.0)
    assert problems.take() == ["answer of another query", "one worker, two answers"], "and nobody has asked again"
    hear(worker, OPEN_TOPIC, opened(BOB, attempt=2), 3.0)
    worker.said(said(answer(ALICE)), 3.0)
    assert problems.take() == ["answer of another query"]


def test_a_worker_that_goes_on_after_revoke_is_found(problems: Problems, worker: WorkerLedger) -> None:
    hear(worker, OPEN_TOPIC, opened(CARS, attempt=2))
    hear(worker, INBOX, Revoke(camera=GATE, frame=FRAME, attempt=1))
    accept = control(Accept(worker="w0", frame=FRAME, attempt=2, lease_ms=3_000))
    worker.said(accept, 1.0)
    assert problems.take() == [], "it speaks of an earlier attempt"
    hear(worker, INBOX, Revoke(camera=GATE, frame=FRAME, attempt=2))
    worker.said(accept, 2.0)
    worker.passes_taken([inference_pass(CARS)], 2.0, lambda _work: 1.0)
    assert problems.take() == ["revoke ignored"] * 2
    hear(worker, OPEN_TOPIC, opened(CARS, attempt=3))
    worker.said(accept, 3.0)
    assert problems.take() == [], "it was given the frame again"


def test_what_waited_for_the_broker_when_a_frame_was_gone_may_still_leave(
    problems: Problems, worker: WorkerLedger
) -> None:
    busy = worker_session()
    busy.connection(True, 0.0)
    for sequence in range(MAX_UNDER_WAY + 1):
        receive(busy, OPEN_TOPIC, opened(CARS, frame=FrameId(1, sequence), fingerprint=bytes(4)))
        busy.poll(0.0)
    assert busy.sizes()["outgoing_messages"] == 1
    hear(worker, OPEN_TOPIC, opened(CARS))
    gone = Revoke(camera=GATE, frame=FRAME, attempt=1)
    with worker.hears(busy, INBOX, gone, 1.0):
        pass
    accept = control(Accept(worker="w0", frame=FRAME, attempt=1, lease_ms=3_000))
    worker.said(accept, 2.0)
    assert problems.take() == []
    worker.said(accept, 2.0)
    assert problems.take() == ["revoke ignored"]


def edge_status(boot: int, *, online: bool) -> Status:
    return Status(kind="edge", id="north", boot=boot, online=online, pool="main", cameras=(GATE,) if online else ())


def test_a_word_for_an_edge_that_lives_is_found(problems: Problems, worker: WorkerLedger) -> None:
    topic = topics.status_topic("edge", "north")
    for boot, online in ((7, True), (8, True), (7, False)):
        hear(worker, topic, edge_status(boot, online=online))
    hear(worker, OPEN_TOPIC, opened(CARS))
    worker.said(said(answer(CARS, outcome=Outcome.DEGRADED, reason=EDGE_LOST)), 1.0)
    assert problems.take() == [], "another process followed that of the frame"
    alive = opened(CARS, frame=FrameId(8, 0))
    hear(worker, OPEN_TOPIC, alive)
    late = answer(CARS, outcome=Outcome.DEGRADED, reason=EDGE_LOST, frame=FrameId(8, 0))
    worker.said(said(late), 2.0)
    assert problems.take() == ["stale will believed"]


@pytest.mark.parametrize("believes", [False, True])
def test_the_will_of_an_earlier_start_must_change_nothing(
    problems: Problems, worker: WorkerLedger, believes: bool
) -> None:
    session = worker_session()
    topic = topics.status_topic("edge", "north")
    for status in (edge_status(7, online=True), edge_status(8, online=True)):
        with worker.hears(session, topic, status, 0.0):
            receive(session, topic, status)
    stale = edge_status(7, online=False)
    with worker.hears(session, topic, stale, 1.0):
        receive(session, topic, edge_status(8, online=False) if believes else stale, 1.0)
    assert problems.rules == (["stale will believed"] if believes else [])


def test_a_rejection_that_leaves_nobody_to_speak_is_found(problems: Problems, worker: WorkerLedger) -> None:
    hear(worker, topics.status_topic("edge", "north"), edge_status(7, online=True))
    reject = control(
        Reject(worker="w0", frame=FRAME, attempt=1, reason=RejectReason.KEY_FRAME, fingerprint=FINGERPRINT)
    )
    for ends in (False, True):
        hear(worker, OPEN_TOPIC, opened(CARS))
        worker.passes_taken([inference_pass(CARS)], 1.0, lambda _work: 1.0)
        if ends:
            hear(worker, topics.status_topic("edge", "north"), edge_status(7, online=False))
        worker.said(reject, 2.0)
        assert problems.take() == (["nobody speaks for a lost edge"] if ends else [])


@pytest.mark.parametrize(("over_s", "told", "found"), [(5.0, False, True), (5.0, True, False), (20.0, False, False)])
def test_a_worker_that_says_nothing_for_a_lost_edge_is_found(
    problems: Problems, worker: WorkerLedger, over_s: float, told: bool, found: bool
) -> None:
    topic = topics.status_topic("edge", "north")
    hear(worker, topic, edge_status(7, online=True))
    hear(worker, OPEN_TOPIC, opened(CARS, ms=10_000))
    hear(worker, topic, edge_status(7, online=False), over_s)
    worker.check_time(10.5)
    assert problems.rules == [], "it may be about to speak"
    if told:
        worker.said(said(answer(CARS, outcome=Outcome.DEGRADED, reason=EDGE_LOST)), 9.9)
    worker.check_time(11.5)
    worker.check_time(12.5)
    assert problems.rules == (["nobody speaks for a lost edge"] if found else [])


def test_a_frame_that_is_handed_over_after_a_word_is_found(problems: Problems, worker: WorkerLedger) -> None:
    hear(worker, OPEN_TOPIC, opened(CARS, BOATS))
    worker.said(said(answer(CARS)), 1.0)
    fields = {name: getattr(opened(BOATS), name) for name in Open.model_fields}
    worker.said(publish(topics.handover_topic("w1"), Handover(camera=GATE, hops=1, **fields)), 2.0)
    assert problems.rules == ["claimed frame handed over"]


def test_a_client_waits_for_no_standing_question_of_its_frame(problems: Problems, worker: WorkerLedger) -> None:
    hear(worker, OPEN_TOPIC, opened(CARS, ALICE))
    worker.passes_taken([inference_pass(ALICE)], 1.0, lambda _work: 1.0)
    worker.passes_taken([inference_pass(CARS)], 2.0, lambda _work: 1.0)
    assert problems.take() == [], "the client's question came first"
    worker.passes_taken([inference_pass(CARS, stop=16)], 3.0, lambda _work: 1.0)
    assert problems.take() == ["standing before ad-hoc"]
    worker.passes_taken([inference_pass(CARS, stop=24)], 70.0, lambda _work: 1.0)
    assert problems.take() == [], "the client's time is over"


def test_a_client_waits_for_no_standing_question_of_another_frame(
    problems: Problems, asked: QueryLedger, worker: WorkerLedger
) -> None:
    asked.offered(GATE, OTHER_FRAME, seen(MARK), [AskedQuery(BOATS, 60.0)])
    other = inference_pass(BOATS, frame=OTHER_FRAME)

    def batch(*passes: InferencePass, takes_s: float = 1.0) -> list[str]:
        worker.passes_taken(passes, 1.0, lambda _work: takes_s)
        return problems.take()

    hear(worker, OPEN_TOPIC, opened(ALICE))
    hear(worker, OPEN_TOPIC, opened(BOATS, frame=OTHER_FRAME))
    assert batch(other, takes_s=100.0) == [], "nobody could be in time"
    assert batch(other) == ["standing before ad-hoc"]
    assert batch(inference_pass(ALICE), other) == []
    assert batch(other) == [], "it waits for latents, for all that is known"


# ---- who leaves first ------------------------------------------------------------------------------------------------


def edge_session(boot: int = 7) -> EdgeSession:
    site = SiteSettings("north", "main", asked_of={GATE: ()})
    session = EdgeSession(EdgeProtocolSettings(), site, boot=boot, fingerprint=FINGERPRINT)
    session.connection(True, 0.0)
    return session


@pytest.mark.parametrize(("left_s", "backlog_s", "found"), [(1.0, 0.5, True), (9.0, 0.5, False), (1.0, 120.0, False)])
def test_an_open_that_leaves_before_a_clients_is_found(
    problems: Problems, left_s: float, backlog_s: float, found: bool
) -> None:
    ledger, session = UplinkLedger(problems), edge_session()
    for question in (ALICE, CARS):
        queries = [AskedQuery(question, 60.0)]
        ledger.offered(GATE, session.offer(GATE, SimulatedLatent(), LADDER[0], queries, 0.0), queries, 0.0)
    first = opened(CARS, frame=OTHER_FRAME)
    ledger.left(session, Publish(OPEN_TOPIC, first, b"", 1, 1, "open"), left_s, backlog_s)
    assert problems.rules == (["standing before ad-hoc"] if found else [])


# ---- what is left behind ---------------------------------------------------------------------------------------------


def test_tables_of_finished_frames_are_empty() -> None:
    edge = edge_session()
    worker = worker_session()
    edge.offer(GATE, SimulatedLatent(), LADDER[0], [AskedQuery(CARS, 5.0), AskedQuery(ALICE, 6.0)], 0.0)
    receive(worker, OPEN_TOPIC, opened(CARS, ALICE, ms=5_000))
    assert edge.sizes()["ad_hoc_running"] == worker.sizes()["frames"] == 1
    assert worker.sizes()["texts_awaited"] == 2
    edge.poll(10.0)
    worker.poll(10.0)
    assert (edge.frames.next_wake_s(), worker.next_wake_s()) == (None, None)
    assert [*edge_leaks(edge), *worker_leaks(worker)] == []
    assert edge.sizes()["ad_hoc_decided"] == 1


def test_an_edge_ledger_starts_anew_with_its_process(problems: Problems, asked: QueryLedger) -> None:
    ledger = EdgeLedger("north", asked, problems)

    def hears(session: EdgeSession, boot: int, *, online: bool) -> None:
        status = Status(kind="worker", id="w0", boot=boot, online=online, pool="main")
        topic = topics.status_topic("worker", "w0")
        ledger.hears(session, Received(topic, decoded=(topics.parse(topic), status)), status, 0.0)

    session = edge_session()
    for boot, online in ((1, True), (2, True), (1, False)):
        hears(session, boot, online=online)
    assert problems.rules == []
    ledger.started()
    hears(edge_session(8), 1, online=False)
    assert problems.rules == [], "the new process has read no birth yet"
