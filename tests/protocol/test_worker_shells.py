"""The three shells of a worker session keep one contract; one script gives the same publishes and batches in each."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from cloud_workers.node import WorkerNode
from cloud_workers.pass_engine import PassDone
from cloud_workers.pass_engine import PassResult as EngineResult
from pipeline.bus.base import ConnectionChange, Inbound
from pipeline.node.metrics import Metrics
from pipeline.node.runtime import Stop
from pipeline.protocol.effects import InferencePass, PassAnswer
from pipeline.protocol.ports import RunBatch
from pipeline.protocol.reasons import EDGE_LOST
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_status import WorkerIdentity
from schemas import topics, wire
from schemas.identity import QuestionContent
from schemas.messages import (
    Answer,
    Ask,
    Chunk,
    Message,
    NeedText,
    Open,
    QueryRef,
    Refine,
    Reject,
    Revoke,
    Status,
    Text,
)
from schemas.types import FrameId, Outcome
from simulation import worker_actor
from simulation.broker import BrokerModel
from simulation.clock import VirtualClock
from simulation.links import LinkFaults
from simulation.specs import WorkerCallbacks, WorkerSpec
from tests.protocol import harness
from tests.protocol.fake_latents import FakeLatent
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE
from tests.protocol.questions import SITE, content, published, ref
from tests.protocol.shell_contract import (
    WORKER_CONTRACT,
    Drain,
    Hear,
    Link,
    RecordingWorker,
    Script,
    Shell,
    Step,
    check_heard,
    said,
)
from tests.protocol.virtual_loop import LoopClock, ScriptedBus, run_virtually, sleep_until

WORKER, CAMERA = "w0", "gate"
EDGE_BOOT = 7
BATCH_S = 0.05
PUBACK_S = 0.005
MAX_BATCH_FRAMES = 8
PACKET_ID = 10**6
"""Brokers use one again as soon as it is acknowledged."""
RECONNECT_S = 0.5
KNOWN, UNKNOWN = content("q0"), content("q1", "Never said?")
ASKED = content("a1", "Who?", ad_hoc=True, client="me")
SCORES = {4: 0.5, 8: 0.95}
"""Safe from the second rung on."""


def answers_to(inference_pass: InferencePass) -> tuple[PassAnswer, ...]:
    return tuple(
        PassAnswer(query.query_id, f"answer at {inference_pass.stop}", SCORES.get(inference_pass.stop, 1.0))
        for query in inference_pass.queries
    )


# ---- the script -----------------------------------------------------------------------------------------------------


def frame(number: int) -> FrameId:
    """The last one is of the edge that took the place of the one that died."""
    return FrameId(EDGE_BOOT + (number > 6), number)


def opened(time_s: float, number: int, *refs: QueryRef, attempt: int = 1, fingerprint: bytes = FINGERPRINT) -> Hear:
    message = Open(
        frame=frame(number),
        attempt=attempt,
        site=SITE,
        fingerprint=fingerprint,
        queries=refs,
        stop=4,
        payload=FakeLatent().payload(0, 4),
    )
    return Hear(time_s, topics.open_topic(POOL, CAMERA), message, qos=1)


def inbox(time_s: float, message: Chunk | Revoke | Text) -> Hear:
    return Hear(time_s, topics.chunk_topic(WORKER, CAMERA), message)


def chunk(time_s: float, number: int) -> Hear:
    payload = FakeLatent().payload(4, 8)
    return inbox(time_s, Chunk(camera=CAMERA, frame=frame(number), attempt=1, start=4, stop=8, payload=payload))


def text_of(question: QuestionContent) -> Text:
    return Text(
        camera=CAMERA,
        owner=question.owner,
        question_id=question.question_id,
        text=question.text,
        answer_type=question.answer_type,
    )


def edge_is(time_s: float, *, online: bool, boot: int = EDGE_BOOT) -> Hear:
    status = Status(kind="edge", id=SITE, boot=boot, online=online, pool=POOL)
    return Hear(time_s, topics.status_topic("edge", SITE), status, qos=1)


SCRIPT = Script(
    (
        edge_is(0.2, online=True),
        Hear(0.3, topics.question_topic(SITE, "q0"), published(KNOWN), qos=1, retained=True),
        # Answered after a refinement; a repeat of what is decided is answered from memory.
        opened(1.0, 0, ref(KNOWN, 6_000)),
        chunk(1.2, 0),
        opened(1.6, 0, ref(KNOWN, 5_000), attempt=2),
        # Its text has to be asked for; then nothing more comes.
        opened(3.0, 1, ref(UNKNOWN, 6_000)),
        inbox(3.2, text_of(UNKNOWN)),
        # A client's question, to be answered to the client as well.
        Hear(
            12.0,
            topics.ask_topic(CAMERA, "me"),
            Ask(query_id="a1", text="Who?", deadline_ms=9_000),
            qos=1,
            response_topic=topics.reply_topic("me", CAMERA, "a1"),
        ),
        opened(12.1, 2, ref(ASKED, 8_900), ref(KNOWN, 6_000)),
        chunk(12.3, 2),
        # Of another codec; taken away.
        opened(15.0, 3, ref(KNOWN, 6_000), fingerprint=bytes(4)),
        opened(15.2, 4, ref(KNOWN, 6_000)),
        inbox(15.4, Revoke(camera=CAMERA, frame=frame(4), attempt=1)),
        # The connection goes while the model looks at a frame, and comes back. The next time it takes an answer along.
        opened(18.0, 5, ref(KNOWN, 6_000)),
        Link(18.02, connected=False),
        Link(18.02 + RECONNECT_S, connected=True),
        chunk(18.8, 5),
        Link(18.852, connected=False),
        Link(18.852 + RECONNECT_S, connected=True),
        # Its edge dies: the worker speaks for it.
        opened(22.0, 6, ref(KNOWN, 6_000)),
        edge_is(22.3, online=False),
        edge_is(29.0, online=True, boot=EDGE_BOOT + 1),
        # Stopped with one frame in hand that waits for latents.
        opened(30.0, 7, ref(KNOWN, 6_000)),
        Drain(31.0),
        chunk(31.3, 7),
    ),
    end_s=40.0,
)


# ---- the shells -----------------------------------------------------------------------------------------------------


class ScriptedEngine:
    """Takes its time over a batch."""

    max_concurrent_batches = 1

    async def run(self, passes: Sequence[InferencePass]) -> list[EngineResult]:
        await asyncio.sleep(BATCH_S)
        return [PassDone(inference_pass, answers_to(inference_pass)) for inference_pass in passes]


class Process(Shell[RecordingWorker]):
    def play(self, script: Script) -> RecordingWorker:
        return run_virtually(self._play(script))

    async def _play(self, script: Script) -> RecordingWorker:
        session = RecordingWorker(
            WorkerProtocolSettings(),
            identity=WorkerIdentity(WORKER, POOL, 1, FINGERPRINT),
            stop_rule=STOP_RULE,
            max_batch_frames=MAX_BATCH_FRAMES,
        )
        bus, stop = ScriptedBus(PUBACK_S), Stop()
        node = WorkerNode(session, bus, ScriptedEngine(), Metrics(), clock=LoopClock())
        running = asyncio.create_task(node.run(stop))
        bus.give(ConnectionChange(True, 1, "test"))
        for step in script.steps:
            await sleep_until(step.time_s)
            match step:
                case Hear():
                    data, reply = wire.encode(step.message), step.response_topic
                    bus.give(Inbound(step.topic, data, step.qos, step.retained, reply, None, 1, 1, step.time_s))
                case Link():
                    bus.give(ConnectionChange(step.connected, 2, "test"))
                case Drain():
                    stop.request()
        assert await running == 0
        assert len(bus.acknowledged) == _to_acknowledge(script)
        return session


class SimulatedModel:
    def answer(self, inference_pass: InferencePass) -> list[PassAnswer]:
        return list(answers_to(inference_pass))


class NoDelay(random.Random):
    def random(self) -> float:
        return 0.0


class Simulator(Shell[RecordingWorker]):
    def play(self, script: Script) -> RecordingWorker:
        clock = VirtualClock()
        broker = BrokerModel(clock, random.Random(1), LinkFaults())
        broker.recorder = True  # nobody else is there
        spec = WorkerSpec(
            WORKER,
            POOL,
            batch_s=BATCH_S,
            frame_s=0.0,
            fingerprint=FINGERPRINT,
            stop_rule=STOP_RULE,
            max_batch_frames=MAX_BATCH_FRAMES,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker_actor, "WorkerSession", RecordingWorker)
            actor = worker_actor.WorkerActor(clock, broker, NoDelay(), spec, SimulatedModel(), WorkerCallbacks())
            actor.start()
        acknowledged: Counter[int] = Counter()
        acknowledge = broker.acknowledge

        def written(name: str, token: int) -> None:
            acknowledged[token] += 1
            acknowledge(name, token)

        broker.acknowledge = written  # type: ignore[method-assign]
        for step in script.steps:
            match step:
                case Hear():
                    hear = (step.topic, step.message, PACKET_ID if step.qos else None, step.retained)
                    clock.at(step.time_s, lambda hear=hear: actor.receive(*hear))  # type: ignore[misc]
                case Link(connected=False):
                    clock.at(step.time_s, lambda: actor.connection(False))
                case Drain():
                    clock.at(step.time_s, actor.drain)
        while (next_s := clock.next_s()) is not None and next_s <= script.end_s:
            clock.step()
        assert actor.drained()
        assert acknowledged[PACKET_ID] == _to_acknowledge(script)
        assert isinstance(actor.session, RecordingWorker)
        return actor.session


class Harness(Shell[RecordingWorker]):
    def play(self, script: Script) -> RecordingWorker:
        fleet = harness.Fleet(workers=0)
        fleet.edge_alive = False
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(harness, "WorkerSession", RecordingWorker)
            worker = fleet.add_worker(WORKER, lambda prefix: SCORES.get(prefix, 1.0), know_questions=False, boot=1)
        worker.pass_s, worker.puback_s = BATCH_S, PUBACK_S
        fleet.settle()
        for step in script.steps:
            fleet.at(step.time_s, lambda step=step: self._step(fleet, worker, step))  # type: ignore[misc]
        fleet.run(script.end_s)
        assert len(worker.acknowledged) == _to_acknowledge(script)
        assert isinstance(worker.session, RecordingWorker)
        return worker.session

    def _step(self, fleet: harness.Fleet, worker: harness.Worker, step: Step) -> None:
        match step:
            case Hear():
                fleet.tell(worker, step.topic, step.message, step.response_topic, qos=step.qos, retained=step.retained)
            case Link():
                fleet.worker_connection(worker, step.connected)
            case Drain():
                worker.session.drain(fleet.now_s)
        fleet.settle()


def _to_acknowledge(script: Script) -> int:
    return sum(step.qos for step in script.steps if isinstance(step, Hear))


SHELLS: dict[str, Callable[[], Shell[RecordingWorker]]] = {
    "process": Process,
    "simulator": Simulator,
    "harness": Harness,
}


def batches(session: RecordingWorker) -> list[list[tuple[str, FrameId, int, tuple[str, ...]]]]:
    """Passes of each batch: camera, frame, prefix and queries."""
    return [
        [
            (
                inference_pass.camera,
                inference_pass.frame,
                inference_pass.stop,
                tuple(query.query_id for query in inference_pass.queries),
            )
            for inference_pass in output.passes
        ]
        for output in session.outputs()
        if isinstance(output, RunBatch)
    ]


def spoken(session: RecordingWorker) -> list[Message]:
    return [wire.decode(topics.parse(topic).family, payload) for topic, payload, *_ in said(session)]


@pytest.fixture(params=SHELLS)
def played(request: pytest.FixtureRequest) -> RecordingWorker:
    return SHELLS[request.param]().play(SCRIPT)


@pytest.mark.parametrize("clause", WORKER_CONTRACT)
def test_a_shell_keeps_the_contract(played: RecordingWorker, clause: Callable[[RecordingWorker], None]) -> None:
    clause(played)


def test_one_script_gives_the_same_publishes_and_batches_in_all_three_shells() -> None:
    plays = {name: make().play(SCRIPT) for name, make in SHELLS.items()}
    process = plays["process"]
    messages = spoken(process)
    kinds = Counter(type(message) for message in messages)
    assert kinds[Reject] == kinds[NeedText] == 1
    assert kinds[Refine] >= 5
    ends = [message for message in messages if isinstance(message, Answer) and message.outcome is not None]
    outcomes = {(end.frame.sequence, end.question_id): (end.outcome, end.reason) for end in ends}
    assert {outcomes[number, "q0"][0] for number in (0, 2, 5, 7)} == {Outcome.ANSWERED}
    assert outcomes[2, "a1"][0] is Outcome.ANSWERED
    assert outcomes[1, "q1"][0] is Outcome.DEGRADED
    assert outcomes[6, "q0"] == (Outcome.DEGRADED, EDGE_LOST)
    assert not any(number in (3, 4) for number, _ in outcomes)
    assert [topic for topic, *_ in said(process) if "/reply/" in topic]
    assert process.publishes["repeated"] > 0
    for name, other in plays.items():
        check_heard(other, SCRIPT)
        assert said(other) == said(process), name
        assert batches(other) == batches(process), name
        assert other.counters == process.counters, name
        assert other.publishes == process.publishes, name
