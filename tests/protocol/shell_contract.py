"""What every shell of a session must do (docs/shell-contract.md), checked on what its session saw of it.

A session that keeps a record runs in the shell; one script is played in all of them. So a shell cannot pass by doing
something else than the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pipeline.node.timers import TICK_S
from pipeline.protocol.client_ports import ClientOutput, Subscribe
from pipeline.protocol.client_session import ClientSession
from pipeline.protocol.edge_session import EdgeOutput, EdgeSession
from pipeline.protocol.effects import AskedQuery, Decision, GivenKey, Latent
from pipeline.protocol.journal_requests import Admit, Decide, JournalResult, MarkTold, MoveToFile, ReadUnfinished
from pipeline.protocol.ports import Acknowledge, Delivery, PassResult, Publish, Received, RunBatch, Sent, Unsubscribe
from pipeline.protocol.worker_session import WorkerOutput, WorkerSession
from schemas.messages import Ask, Message
from schemas.types import Age, FrameId

ANSWERS: dict[str, tuple[Any, ...]] = {
    "published": (Publish,),
    "stored": (Admit, Decide, MarkTold, MoveToFile, ReadUnfinished),
    "batch_done": (RunBatch,),
    "subscribed": (Subscribe,),
    "unsubscribed": (Unsubscribe,),
}
"""Inputs that answer outputs."""
LATE_S = 0.02
"""Timers of an event loop, and of a disk, fire a little late."""


@dataclass(slots=True)
class Record:
    """One call of a session. The argument of an answer begins with what it answers."""

    call: str
    now_s: float
    argument: Any = None
    outputs: tuple[Any, ...] = ()
    next_wake_s: float | None = None


class Recorded:
    """A session that keeps what its shell does with it.

    Attributes:
        late_s: how late a shell of it may be.
        records: calls, in order.
    """

    late_s: ClassVar[float] = LATE_S
    records: list[Record]

    def note(self, call: str, now_s: float, argument: Any = None) -> None:
        self.records.append(Record(call, now_s, argument))

    def outputs(self) -> list[Any]:
        return [output for record in self.records for output in record.outputs]


class RecordingEdge(Recorded, EdgeSession):
    """An edge session that keeps what its shell does with it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.records: list[Record] = []

    def connection(
        self, connected: bool, now_s: float, *, generation: int = 0, resumed: bool = True, topic_aliases: int = 0
    ) -> None:
        self.note("connection", now_s, connected)
        super().connection(connected, now_s, generation=generation, resumed=resumed, topic_aliases=topic_aliases)

    def receive(self, received: Received, now_s: float) -> None:
        self.note("receive", now_s, received)
        super().receive(received, now_s)

    def published(self, token: int, delivery: Delivery, now_s: float) -> None:
        self.note("published", now_s, (token, delivery))
        super().published(token, delivery, now_s)

    def acknowledged(self, count: int, now_s: float) -> None:
        self.note("acknowledged", now_s, count)
        super().acknowledged(count, now_s)

    def stored(self, token: int, result: JournalResult, now_s: float) -> None:
        self.note("stored", now_s, (token, result))
        super().stored(token, result, now_s)

    def offer(
        self,
        camera: str,
        latent: Latent,
        base_latents: int,
        queries: Any,
        now_s: float,
        *,
        frame: FrameId | None = None,
        given_key: GivenKey[Latent] | None = None,
        age_ms: Age | None = None,
        captured_s: float | None = None,
    ) -> FrameId:
        self.note("offer", now_s, camera)
        return super().offer(
            camera,
            latent,
            base_latents,
            queries,
            now_s,
            frame=frame,
            given_key=given_key,
            age_ms=age_ms,
            captured_s=captured_s,
        )

    def poll(self, now_s: float) -> list[EdgeOutput]:
        outputs = super().poll(now_s)
        self.records.append(Record("poll", now_s, None, tuple(outputs), self.next_wake_s()))
        return outputs


class RecordingWorker(Recorded, WorkerSession):
    """A worker session that keeps what its shell does with it."""

    late_s = TICK_S + LATE_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.records: list[Record] = []

    def connection(self, connected: bool, now_s: float) -> None:
        self.note("connection", now_s, connected)
        super().connection(connected, now_s)

    def receive(self, received: Received, now_s: float) -> None:
        self.note("receive", now_s, received)
        super().receive(received, now_s)

    def published(self, token: int, delivery: Delivery, now_s: float) -> None:
        self.note("published", now_s, (token, delivery))
        super().published(token, delivery, now_s)

    def batch_done(self, token: int, results: Sequence[PassResult], now_s: float) -> None:
        self.note("batch_done", now_s, (token, results))
        super().batch_done(token, results, now_s)

    def unsubscribed(self, topic_filter: str, now_s: float) -> None:
        self.note("unsubscribed", now_s, (topic_filter,))
        super().unsubscribed(topic_filter, now_s)

    def drain(self, now_s: float) -> None:
        self.note("drain", now_s)
        super().drain(now_s)

    def poll(self, now_s: float) -> list[WorkerOutput]:
        outputs = super().poll(now_s)
        self.records.append(Record("poll", now_s, None, tuple(outputs), self.next_wake_s()))
        return outputs


class RecordingClient(Recorded, ClientSession):
    """A client session that keeps what its shell does with it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.records: list[Record] = []

    def connection(self, connected: bool, now_s: float) -> None:
        self.note("connection", now_s, connected)
        super().connection(connected, now_s)

    def receive(self, received: Received, now_s: float) -> None:
        self.note("receive", now_s, received)
        super().receive(received, now_s)

    def published(self, token: int, delivery: Delivery, now_s: float) -> None:
        self.note("published", now_s, (token, delivery))
        super().published(token, delivery, now_s)

    def subscribed(self, token: int, delivery: Delivery, now_s: float) -> None:
        self.note("subscribed", now_s, (token, delivery))
        super().subscribed(token, delivery, now_s)

    def unsubscribed(self, topic_filter: str, now_s: float) -> None:
        self.note("unsubscribed", now_s, (topic_filter,))
        super().unsubscribed(topic_filter, now_s)

    def ask(self, camera: str, message: Ask, now_s: float, *, check: bool = True) -> str:
        self.note("ask", now_s, camera)
        return super().ask(camera, message, now_s, check=check)

    def drop(self, query_id: str, now_s: float) -> None:
        self.note("drop", now_s, query_id)
        super().drop(query_id, now_s)

    def poll(self, now_s: float) -> list[ClientOutput]:
        outputs = super().poll(now_s)
        self.records.append(Record("poll", now_s, None, tuple(outputs), self.next_wake_s()))
        return outputs


# ---- the script -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hear:
    """A publish reaches the process."""

    time_s: float
    topic: str
    message: Message
    qos: int = 0
    retained: bool = False
    response_topic: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A frame is offered."""

    time_s: float
    camera: str
    latent: Latent
    base_latents: int
    queries: tuple[AskedQuery, ...]
    given_key: GivenKey[Latent] | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """The connection goes or comes."""

    time_s: float
    connected: bool


@dataclass(frozen=True, slots=True)
class Drain:
    """The process is asked to stop."""

    time_s: float


@dataclass(frozen=True, slots=True)
class AskCamera:
    """A client is asked to ask, and to tell who asked until this time."""

    time_s: float
    camera: str
    message: Ask
    until_s: float


@dataclass(frozen=True, slots=True)
class Watch:
    """A client is asked to watch."""

    time_s: float
    cameras: frozenset[str]


Step = Hear | Offer | Link | Drain | AskCamera | Watch
Played = TypeVar("Played", bound=Recorded)


@dataclass(frozen=True, slots=True)
class Script:
    """Steps in time order, and when the play is over."""

    steps: tuple[Step, ...]
    end_s: float


class Shell(ABC, Generic[Played]):
    """A shell that a script can be played in."""

    @abstractmethod
    def play(self, script: Script) -> Played:
        """Play it from time 0 on, connected from the beginning, and return the session."""


# ---- the contract ---------------------------------------------------------------------------------------------------


Clause = Callable[[Any], None]


def check_heard(session: Recorded, script: Script) -> None:
    """What reached the process reached its session, and how: retained, to be acknowledged, where to reply."""
    messages = [record.argument for record in session.records if record.call == "receive"]
    came = Counter((it.topic, it.retained, it.token is not None, it.response_topic) for it in messages)
    steps = [step for step in script.steps if isinstance(step, Hear)]
    sent = Counter((step.topic, step.retained, bool(step.qos), step.response_topic) for step in steps)
    assert sent <= came  # a broker adds its own


def said(session: Recorded) -> list[tuple[str, bytes, int, bool, bytes | None]]:
    """What left, in order."""
    return [
        (output.topic, output.payload, output.qos, output.retain, output.correlation_data)
        for output in session.outputs()
        if isinstance(output, Publish)
    ]


def decided(session: RecordingEdge) -> list[tuple[str, str, str]]:
    """What was decided, in order."""
    return [
        (output.query_id, str(output.outcome), output.reason)
        for output in session.outputs()
        if isinstance(output, Decision)
    ]


def check_answers(session: Recorded) -> None:
    """Every output that wants an answer has one, and nothing else has."""
    wanted: dict[str, Counter[Any]] = {call: Counter() for call in ANSWERS}
    for output in session.outputs():
        for call, kinds in ANSWERS.items():
            if isinstance(output, kinds):
                wanted[call][output.filter if isinstance(output, Unsubscribe) else output.token] += 1
    for call, outputs in wanted.items():
        assert outputs == Counter(record.argument[0] for record in session.records if record.call == call), call


def check_acknowledgements(session: Recorded) -> None:
    """Every QoS 1 message has a token of its own, and is acknowledged when the session says so."""
    tokens = [record.argument.token for record in session.records if record.call == "receive"]
    given = [token for token in tokens if token is not None]
    assert given
    assert len(given) == len(set(given))
    wanted = [token for output in session.outputs() if isinstance(output, Acknowledge) for token in output.tokens]
    assert Counter(wanted) == Counter(given)


def check_written(session: RecordingEdge) -> None:
    """An edge hears how many acknowledgements were written."""
    wanted = sum(len(output.tokens) for output in session.outputs() if isinstance(output, Acknowledge))
    assert sum(record.argument for record in session.records if record.call == "acknowledged") == wanted


def check_polls(session: Recorded) -> None:
    """The session is polled after every input, before time passes, and at its next wake-up at the latest."""
    due_s: float | None = None
    for before, record in zip([None, *session.records], session.records, strict=False):
        if before is not None and before.call != "poll":
            late = record.now_s > before.now_s + session.late_s
            assert not late, f"{before.call} at {before.now_s} is not followed by a poll"
        if due_s is not None:
            assert record.now_s <= due_s + session.late_s, f"{record.call} at {record.now_s}, due at {due_s}"
        if record.call == "poll":
            due_s = None if record.next_wake_s is None else max(record.next_wake_s, record.now_s)
    assert session.records[-1].call == "poll"


def check_time(session: Recorded) -> None:
    """Time never goes back."""
    times = [record.now_s for record in session.records]
    assert times == sorted(times)


def check_charges(session: RecordingEdge) -> None:
    """What is counted on the uplink is what left on it."""
    sent = Counter(output.label for output in session.outputs() if isinstance(output, Sent))
    del sent["puback"]
    assert sent == Counter(output.label for output in session.outputs() if isinstance(output, Publish))


def check_offline_status(session: RecordingWorker) -> None:
    """A worker that drains leaves its share group, and may end."""
    assert [record.call for record in session.records].count("drain") == 1
    assert session.unfinished() == 0
    assert session.finished()


CONTRACT: tuple[Clause, ...] = (check_answers, check_acknowledgements, check_polls, check_time)
EDGE_CONTRACT = (*CONTRACT, check_written, check_charges)
WORKER_CONTRACT = (*CONTRACT, check_offline_status)
