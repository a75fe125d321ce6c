"""What a worker session wants of its shell: acknowledgements, statuses, batches, its end; and what a bug costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from pipeline.protocol.effects import PassAnswer
from pipeline.protocol.ports import (
    Acknowledge,
    Contained,
    Delivery,
    Notice,
    PassFailure,
    Problem,
    Publish,
    Received,
    RunBatch,
    Unsubscribe,
)
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_admission import Admission
from pipeline.protocol.worker_frame import WorkerFrame, WorkerStage
from pipeline.protocol.worker_messages import WorkerMessages
from pipeline.protocol.worker_outgoing import MAX_UNDER_WAY
from pipeline.protocol.worker_passes import InferencePasses
from pipeline.protocol.worker_progress import Progress
from pipeline.protocol.worker_session import WorkerOutput, WorkerSession
from pipeline.protocol.worker_status import STATUS_EXPIRY_S, STATUS_REFRESH_S, WorkerIdentity
from schemas import topics, wire
from schemas.errors import StateError
from schemas.messages import Accept, Answer, Busy, Condition, Message, Open, RejectReason, Revoke, Status
from schemas.topics import Family
from schemas.types import FrameId, Outcome
from tests.protocol.fake_latents import LATENTS, FakeLatent
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE
from tests.protocol.questions import SITE, content, published, ref

Q0 = content("q0")
SHARE = topics.share_filter(POOL)
STATUS_TOPIC, LOAD_TOPIC = topics.status_topic("worker", "w0"), topics.load_topic(POOL, "w0")

T = TypeVar("T")


class Worker:
    """A session, and a shell that keeps what it wants."""

    def __init__(
        self,
        settings: WorkerProtocolSettings | None = None,
        *,
        drawn: bool = False,
        connected: bool = True,
        **batches: float,
    ) -> None:
        self.session = WorkerSession(
            settings or WorkerProtocolSettings(),
            identity=WorkerIdentity("w0", POOL, 7, FINGERPRINT, drawn=drawn),
            stop_rule=STOP_RULE,
            **batches,  # type: ignore[arg-type]
        )
        self.receive(topics.question_topic(SITE, "q0"), published(Q0))
        if connected:
            self.session.connection(True, 0.0)

    def receive(self, topic: str, message: Message, now_s: float = 0.0, token: int | None = None) -> None:
        self.session.receive(Received(topic, wire.encode(message), token=token), now_s)

    def open(self, sequence: int, now_s: float = 0.0, *, camera: str = "gate", token: int | None = None) -> None:
        message = Open(
            frame=FrameId(1, sequence),
            attempt=1,
            site=SITE,
            fingerprint=FINGERPRINT,
            queries=(ref(Q0, 600_000),),
            stop=LATENTS,
            payload=FakeLatent().payload(0, LATENTS),
        )
        self.receive(topics.open_topic(POOL, camera), message, now_s, token)

    def poll(self, now_s: float, *, deliver: bool = True) -> list[WorkerOutput]:
        outputs = self.session.poll(now_s)
        for output in outputs if deliver else ():
            if isinstance(output, Publish):
                self.session.published(output.token, Delivery.DELIVERED, now_s)
        return outputs

    def batch(self, now_s: float) -> RunBatch:
        (batch,) = of(RunBatch, self.poll(now_s))
        return batch

    def done(self, batch: RunBatch, now_s: float) -> None:
        results = [
            [PassAnswer(query.query_id, "yes", 1.0) for query in inference_pass.queries]
            for inference_pass in batch.passes
        ]
        self.session.batch_done(batch.token, results, now_s)


def of(kind: type[T], outputs: Sequence[object]) -> list[T]:
    return [output for output in outputs if isinstance(output, kind)]


def statuses(outputs: Sequence[WorkerOutput]) -> list[tuple[str, bool, int, int]]:
    """Topic, whether it says online, frames held and frames that may be."""
    found = []
    for publish in of(Publish, outputs):
        if isinstance(publish.message, Status):
            status = publish.message
            assert not publish.payload or wire.decode(Family.STATUS, publish.payload) == status
            found.append((publish.topic, status.online, status.parked, status.capacity))
    return found


# ---- acknowledgements ------------------------------------------------------------------------------------------------


def test_every_message_with_a_token_is_acknowledged_once_whatever_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    worker.open(1, token=4)
    worker.open(2)
    worker.session.receive(Received("lb/v2/open/main/gate", b"nonsense", token=5), 0.0)
    monkeypatch.setattr(Admission, "open", lambda *_: 1 / 0)
    worker.open(3, token=6)
    outputs = worker.poll(0.0)
    assert of(Acknowledge, outputs) == [Acknowledge((4, 5, 6))]
    assert [problem.kind for problem in of(Problem, outputs)] == ["open"]
    assert of(Acknowledge, worker.poll(0.0)) == []


# ---- what is due -----------------------------------------------------------------------------------------------------


def test_what_is_due_is_done_though_messages_come_faster_than_any_timer() -> None:
    worker = Worker()
    worker.open(1)
    worker.batch(0.0)
    said: list[Message] = []
    for step in range(1, 200):
        worker.receive(
            topics.chunk_topic("w0", "yard"), Revoke(camera="yard", frame=FrameId(9, 9), attempt=1), step / 100
        )
        said += [publish.message for publish in of(Publish, worker.poll(step / 100))]
    assert [type(message) for message in said if not isinstance(message, Status)] == [Accept], (
        "half of the lease is over"
    )


def test_between_inputs_the_session_says_when_it_is_due() -> None:
    worker = Worker()
    worker.open(1)
    worker.batch(0.0)
    now_s = 0.0
    said: list[Publish] = []
    while not said:
        due_s = worker.session.next_wake_s()
        assert due_s is not None
        assert due_s > now_s
        now_s = due_s
        said = [publish for publish in of(Publish, worker.poll(now_s)) if isinstance(publish.message, Accept)]
    assert now_s == WorkerProtocolSettings().base_lease_s / 2


# ---- birth, load, offline status ------------------------------------------------------------------------------------


def test_a_worker_is_born_at_each_connection_and_silent_without_one() -> None:
    worker = Worker(connected=False)
    assert worker.session.next_wake_s() is None
    assert worker.poll(0.0) == []
    worker.session.connection(True, 1.0)
    birth, load = of(Publish, worker.poll(1.0))
    assert (birth.topic, birth.qos, birth.retain, birth.expiry_s) == (STATUS_TOPIC, 1, True, None)
    assert (load.topic, load.qos, load.retain) == (LOAD_TOPIC, 0, False)
    worker.session.connection(False, 2.0)
    assert worker.session.next_wake_s() is None
    assert worker.poll(60.0) == []
    worker.session.connection(True, 61.0)
    assert [topic for topic, *_ in statuses(worker.poll(61.0))] == [STATUS_TOPIC, LOAD_TOPIC]


def test_the_load_is_told_soon_after_it_changed_but_not_with_every_frame() -> None:
    settings = WorkerProtocolSettings(load_interval_s=2.0, load_on_change_s=0.5, capacity_frames=9)
    worker = Worker(settings)
    worker.poll(0.0)
    for step in range(1, 5):
        worker.open(step, step / 10)
        assert statuses(worker.poll(step / 10)) == []
    assert worker.session.next_wake_s() == 0.5
    assert statuses(worker.poll(0.5)) == [(LOAD_TOPIC, True, 4, 9)]
    assert statuses(worker.poll(1.4)) == []
    assert statuses(worker.poll(2.5)) == [(LOAD_TOPIC, True, 4, 9)], "and regularly all the same"


def test_what_is_wrong_with_the_process_is_in_its_reports_of_load_alone() -> None:
    worker, shifted = Worker(), Condition(kind="stop-shift")
    worker.session.health([shifted])
    birth, load = (publish.message for publish in of(Publish, worker.poll(0.0)))
    assert isinstance(birth, Status)
    assert isinstance(load, Status)
    assert (birth.conditions, load.conditions) == ((), (shifted,))
    worker.session.health([])
    (load,) = (publish.message for publish in of(Publish, worker.poll(2.0)))
    assert isinstance(load, Status)
    assert load.conditions == ()


def test_a_birth_under_a_drawn_name_is_said_again_before_it_expires() -> None:
    worker = Worker(WorkerProtocolSettings(load_interval_s=math.inf), drawn=True)
    (birth, _) = of(Publish, worker.poll(0.0))
    assert birth.expiry_s == STATUS_EXPIRY_S
    assert worker.session.next_wake_s() == STATUS_REFRESH_S
    assert worker.poll(STATUS_REFRESH_S - 1) == []
    assert [topic for topic, *_ in statuses(worker.poll(STATUS_REFRESH_S))] == [STATUS_TOPIC, LOAD_TOPIC]


@pytest.mark.parametrize("drawn", [False, True])
def test_the_end_of_a_drain_is_an_offline_status_after_everything_else(drawn: bool) -> None:
    worker = Worker(drawn=drawn)
    worker.open(1)
    batch = worker.batch(0.0)
    worker.session.drain(1.0)
    worker.session.drain(1.0)
    outputs = worker.poll(1.0)
    assert of(Unsubscribe, outputs) == [Unsubscribe(SHARE)]
    assert statuses(outputs) == [(STATUS_TOPIC, True, 1, 0), (LOAD_TOPIC, True, 1, 0)]
    worker.open(2, 1.1)
    assert [type(publish.message) for publish in of(Publish, worker.poll(1.1))] == [Busy]
    worker.session.unsubscribed(SHARE, 1.2)
    assert worker.poll(1.2) == []
    assert not worker.session.drained()
    worker.done(batch, 1.3)
    outputs = worker.poll(1.3, deliver=False)
    (answer,) = of(Publish, outputs)
    assert isinstance(answer.message, Answer)
    assert not worker.session.drained(), "the broker has not said that it has the answer"
    worker.session.published(answer.token, Delivery.DELIVERED, 1.4)
    assert worker.session.drained()
    offline_status, *cleared = of(Publish, worker.poll(1.4, deliver=False))
    assert isinstance(offline_status.message, Status)
    assert (offline_status.topic, offline_status.message.online, offline_status.retain, offline_status.qos) == (
        STATUS_TOPIC,
        False,
        not drawn,
        1,
    )
    assert [(publish.topic, publish.payload, publish.retain) for publish in cleared] == [
        (STATUS_TOPIC, b"", True)
    ] * drawn
    for publish in (offline_status, *cleared):
        assert not worker.session.finished()
        worker.session.published(publish.token, Delivery.DELIVERED, 1.5)
    assert worker.session.finished()
    assert worker.poll(100.0) == [], "nothing that says online may follow"


def test_a_drain_that_takes_too_long_ends_with_an_offline_status_all_the_same() -> None:
    worker = Worker()
    worker.open(1)
    worker.batch(0.0)
    worker.session.drain(1.0)
    worker.poll(1.0)
    worker.session.abandon("no time", 5.0)
    outputs = worker.poll(5.0)
    (notice,) = of(Notice, outputs)
    assert (notice.level, notice.context["frames"]) == ("warning", 1)
    assert [online for _, online, *_ in statuses(outputs)] == [False]
    assert worker.session.finished()
    assert not worker.session.drained()


def test_without_a_connection_there_is_nobody_to_say_goodbye_to() -> None:
    worker = Worker(connected=False)
    worker.session.drain(0.0)
    assert of(Unsubscribe, worker.poll(0.0)) == [Unsubscribe(SHARE)]
    assert not worker.session.finished()
    worker.session.unsubscribed(SHARE, 0.1)
    assert worker.poll(0.1) == []
    assert worker.session.finished()


def test_an_offline_status_that_is_lost_is_not_waited_for() -> None:
    worker = Worker()
    worker.session.drain(0.0)
    worker.poll(0.0)
    worker.session.unsubscribed(SHARE, 0.1)
    (offline_status,) = of(Publish, worker.poll(0.1, deliver=False))
    worker.session.published(offline_status.token, Delivery.CONNECTION_LOST, 0.2)
    assert worker.session.finished()


def test_an_overload_is_a_notice() -> None:
    worker = Worker(WorkerProtocolSettings(capacity_frames=1))
    worker.poll(0.0)
    for number in range(3):
        worker.open(number, camera=f"c{number}")
    assert of(Notice, worker.poll(0.0)) == []
    (notice,) = of(Notice, worker.poll(0.5))
    assert (notice.level, notice.context["busy"]) == ("warning", 2)


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_the_model_gets_a_batch_whenever_it_has_room_for_one() -> None:
    worker = Worker(max_batches=2, max_batch_frames=3)
    for number in range(8):
        worker.open(number, camera=f"c{number}")
    first, second = of(RunBatch, worker.poll(0.0))
    assert [len(batch.passes) for batch in (first, second)] == [3, 3]
    assert of(RunBatch, worker.poll(0.1)) == []
    worker.done(second, 0.2)
    third = worker.batch(0.2)
    assert len(third.passes) == 2
    assert len({first.token, second.token, third.token}) == 3
    worker.done(first, 0.3)
    worker.done(third, 0.3)
    worker.poll(0.3)
    assert worker.session.unfinished() == 0
    with pytest.raises(StateError, match="not at the model"):
        worker.session.batch_done(third.token, [], 0.4)


def test_a_pass_without_a_result_fails() -> None:
    worker = Worker()
    worker.open(1)
    worker.open(2, camera="yard")
    batch = worker.batch(0.0)
    worker.session.batch_done(batch.token, [PassFailure(RejectReason.BITSTREAM, "no stream")], 0.1)
    answers = [publish.message for publish in of(Publish, worker.poll(0.1)) if isinstance(publish.message, Answer)]
    assert [(answer.outcome, answer.reason) for answer in answers] == [
        (Outcome.FAILED, "bitstream: no stream"),
        (Outcome.FAILED, "model: the model gave no result"),
    ]


def test_what_comes_of_a_frame_that_has_ended_since_is_nothing_to_the_same_frame_in_a_later_batch() -> None:
    worker = Worker(max_batches=2)
    worker.open(1)
    first = worker.batch(0.0)
    worker.receive(topics.chunk_topic("w0", "gate"), Revoke(camera="gate", frame=FrameId(1, 1), attempt=1), 0.1)
    worker.open(1, 0.2)
    second = worker.batch(0.2)
    worker.session.batch_done(first.token, [PassFailure(RejectReason.MODEL, "out of memory")], 0.3)
    assert [frame.stage for frame in worker.session.frames()] == [WorkerStage.INFERRING]
    worker.done(second, 0.4)
    (answer,) = [publish.message for publish in of(Publish, worker.poll(0.4)) if isinstance(publish.message, Answer)]
    assert answer.outcome is Outcome.ANSWERED
    assert worker.session.counters["pass_discarded"] == 1


@pytest.mark.parametrize(("max_batches", "batch_s"), [(1, 0.25), (4, 1.0)])
def test_the_expected_wait_follows_from_what_gets_done_not_from_how_long_one_batch_takes(
    max_batches: int, batch_s: float
) -> None:
    """Four batches of a second side by side get as much done as one after the other of a quarter each."""
    worker = Worker(max_batches=max_batches, max_batch_frames=1)
    running: list[tuple[float, RunBatch]] = []
    for step in range(200):
        now_s = step * 0.25
        if running and running[0][0] <= now_s:
            worker.done(running.pop(0)[1], now_s)
        worker.open(step, now_s, camera=f"c{step}")
        running += [(now_s + batch_s, batch) for batch in of(RunBatch, worker.poll(now_s))]
    throughput = worker.session._frames.throughput
    assert throughput.batch_s(1) == pytest.approx(batch_s, rel=0.01)
    assert throughput.wait_s(40) == pytest.approx(40 * 0.25 + batch_s, rel=0.05)
    assert throughput.begins_s(40) == pytest.approx(40 * 0.25, rel=0.05)


def test_batches_that_end_together_share_their_time() -> None:
    worker = Worker(max_batches=2, max_batch_frames=1)
    for round_ in range(60):
        for camera in ("a", "b"):
            worker.open(round_, float(round_), camera=camera)
        batches = of(RunBatch, worker.poll(float(round_)))
        assert len(batches) == 2
        for batch in batches:
            worker.done(batch, round_ + 1.0)
    throughput = worker.session._frames.throughput
    assert throughput.wait_s(40) == pytest.approx(40 * 0.5 + 1.0, rel=0.15)


def test_a_batch_that_hangs_costs_the_leases_of_its_own_frames_alone() -> None:
    worker = Worker(max_batches=2, max_batch_frames=1)
    for camera in ("hung", "fine", "waits"):
        worker.open(1, camera=camera)
    hung, _ = of(RunBatch, worker.poll(0.0))
    assert [inference_pass.camera for inference_pass in hung.passes] == ["hung"]
    accepted: dict[str, float] = {}
    for step in range(1, 400):
        now_s = step / 10
        for batch in of(RunBatch, outputs := worker.poll(now_s)):
            worker.done(batch, now_s)
        for publish in of(Publish, outputs):
            if isinstance(publish.message, Accept):
                accepted[publish.topic.rsplit("/", 1)[1]] = now_s
        if step == 200:
            fine = next(frame for frame in worker.session.frames() if frame.camera == "fine")
            assert fine.stage is WorkerStage.INFERRING
            worker.session.batch_done(2, [PassFailure(RejectReason.MODEL, "slow")], now_s)
    assert accepted["hung"] < 15.0, "its edge opens it elsewhere"
    assert worker.session.unfinished() == 1


# ---- the queue -------------------------------------------------------------------------------------------------------


def test_an_answer_that_was_lost_with_the_connection_is_said_again_on_the_next() -> None:
    worker = Worker()
    worker.open(1)
    worker.done(worker.batch(0.0), 0.1)
    (answer,) = of(Publish, worker.poll(0.1, deliver=False))
    worker.session.connection(False, 0.2)
    worker.session.published(answer.token, Delivery.CONNECTION_LOST, 0.2)
    assert of(Publish, worker.poll(0.2)) == []
    assert worker.session.waiting() == 1
    worker.session.connection(True, 0.3)
    again = [publish for publish in of(Publish, worker.poll(0.3)) if isinstance(publish.message, Answer)]
    assert [publish.message for publish in again] == [answer.message]
    assert (worker.session.waiting(), worker.session.publishes["repeated"]) == (0, 1)


def test_what_the_broker_has_not_answered_is_bounded() -> None:
    worker = Worker(max_batch_frames=100)
    for number in range(MAX_UNDER_WAY + 6):
        worker.open(number, camera=f"c{number}")
    worker.done(worker.batch(0.0), 0.1)
    assert len(of(Publish, worker.poll(0.1, deliver=False))) == MAX_UNDER_WAY
    assert worker.session.sizes()["outgoing_messages"] == 6


# ---- our own bugs ----------------------------------------------------------------------------------------------------

POISONED = "poisoned"


def fails_at(method: Callable[..., Any], camera_of: Callable[..., str]) -> Callable[..., Any]:
    def with_bug(*args: Any, **kwargs: Any) -> Any:
        if camera_of(*args) == POISONED:
            raise KeyError("a bug")
        return method(*args, **kwargs)

    return with_bug


@pytest.mark.parametrize(
    ("where", "owner", "name", "camera_of"),
    [
        ("receive/open", Admission, "_admit", lambda _, camera, *__: camera),
        ("pass taken", WorkerFrame, "inference_pass", lambda frame, *_: frame.camera),
        ("pass", InferencePasses, "finish", lambda _, inference_pass, *__: inference_pass.camera),
        ("pass", WorkerMessages, "answer", lambda _, frame, *__: frame.camera),
        ("tick", Progress, "finalise_late", lambda _, frame, *__: frame.camera),
    ],
)
def test_a_bug_at_one_frame_is_an_output_and_ends_that_frame_alone(
    monkeypatch: pytest.MonkeyPatch, where: str, owner: type, name: str, camera_of: Callable[..., str]
) -> None:
    monkeypatch.setattr(owner, name, fails_at(getattr(owner, name), camera_of))
    worker = Worker()
    worker.open(1, camera=POISONED)
    worker.open(1, camera="gate")
    outputs = worker.poll(0.0)
    if where == "tick":
        outputs += worker.poll(2.0)
    for batch in of(RunBatch, outputs):
        worker.done(batch, 2.1)
    outputs += worker.poll(2.1)
    contained = of(Contained, outputs)
    assert {(bug.where, type(bug.error)) for bug in contained} == {(where, KeyError)}
    answers = {p.message.camera: p.message for p in of(Publish, outputs) if isinstance(p.message, Answer)}
    assert answers["gate"].outcome is Outcome.ANSWERED
    assert worker.session.unfinished() == 0
    if POISONED in answers:
        assert (answers[POISONED].outcome, answers[POISONED].reason) == (Outcome.FAILED, "internal: KeyError")
    else:
        assert where == "receive/open" or name == "answer", "never held, or cannot be said"


def test_a_bug_at_a_message_without_a_frame_is_an_output_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "text_came", lambda *_: 1 / 0)
    worker = Worker()
    outputs = worker.poll(0.0)
    assert [(bug.where, type(bug.error)) for bug in of(Contained, outputs)] == [("receive/question", ZeroDivisionError)]
