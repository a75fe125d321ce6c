"""What every shell of an edge session must do (docs/shell-contract.md), checked on what its session saw of it.

A session that keeps a record runs in the shell; one script is played in all of them. So a shell cannot pass by doing
something else than the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pipeline.protocol.edge_session import EdgeOutput, EdgeSession
from pipeline.protocol.effects import AskedQuery, Decision, GivenKey, Latent
from pipeline.protocol.journal_requests import Admit, Decide, JournalResult, MarkTold, MoveToFile, ReadUnfinished
from pipeline.protocol.ports import Acknowledge, Delivery, Publish, Received, Sent
from schemas.messages import Message
from schemas.types import FrameId

JOURNAL = (Admit, Decide, MarkTold, MoveToFile, ReadUnfinished)
LATE_S = 0.02
"""Timers of an event loop, and of a disk, fire a little late."""


@dataclass(slots=True)
class Record:
    """One call of a session."""

    call: str
    now_s: float
    argument: Any = None
    outputs: tuple[EdgeOutput, ...] = ()
    next_wake_s: float | None = None


class RecordingSession(EdgeSession):
    """A session that keeps what its shell does with it."""

    made: ClassVar[list[RecordingSession]] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.records: list[Record] = []
        self.made.append(self)

    def connection(self, connected: bool, now_s: float, *, generation: int = 0, resumed: bool = True) -> None:
        self.records.append(Record("connection", now_s, connected))
        super().connection(connected, now_s, generation=generation, resumed=resumed)

    def receive(self, received: Received, now_s: float) -> None:
        self.records.append(Record("receive", now_s, received))
        super().receive(received, now_s)

    def published(self, token: int, delivery: Delivery, now_s: float) -> None:
        self.records.append(Record("published", now_s, (token, delivery)))
        super().published(token, delivery, now_s)

    def acknowledged(self, count: int, now_s: float) -> None:
        self.records.append(Record("acknowledged", now_s, count))
        super().acknowledged(count, now_s)

    def stored(self, token: int, result: JournalResult, now_s: float) -> None:
        self.records.append(Record("stored", now_s, (token, result)))
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
    ) -> FrameId:
        self.records.append(Record("offer", now_s, camera))
        return super().offer(camera, latent, base_latents, queries, now_s, frame=frame, given_key=given_key)

    def poll(self, now_s: float) -> list[EdgeOutput]:
        outputs = super().poll(now_s)
        self.records.append(Record("poll", now_s, None, tuple(outputs), self.next_wake_s()))
        return outputs

    def outputs(self) -> list[EdgeOutput]:
        return [output for record in self.records for output in record.outputs]


# ---- the script -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hear:
    """A publish reaches the edge."""

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


Step = Hear | Offer | Link


@dataclass(slots=True)
class Script:
    """Steps in time order, and when the play is over."""

    steps: tuple[Step, ...]
    end_s: float
    session: RecordingSession | None = field(default=None, compare=False)


class Shell(ABC):
    """A shell that a script can be played in."""

    @abstractmethod
    def play(self, script: Script) -> RecordingSession:
        """Play it from time 0 on, connected from the beginning, and return the session."""


# ---- the contract ---------------------------------------------------------------------------------------------------


def said(session: RecordingSession) -> list[tuple[str, bytes, int, bool, bytes | None]]:
    """What left, in order."""
    return [
        (output.topic, output.payload, output.qos, output.retain, output.correlation_data)
        for output in session.outputs()
        if isinstance(output, Publish)
    ]


def decided(session: RecordingSession) -> list[tuple[str, str, str]]:
    """What was decided, in order."""
    return [
        (output.query_id, str(output.outcome), output.reason)
        for output in session.outputs()
        if isinstance(output, Decision)
    ]


def check_answers(session: RecordingSession) -> None:
    """Every publish and every request to the journal is answered once, and nothing else is."""
    outputs = session.outputs()
    published = Counter(record.argument[0] for record in session.records if record.call == "published")
    assert published == Counter(output.token for output in outputs if isinstance(output, Publish))
    stored = Counter(record.argument[0] for record in session.records if record.call == "stored")
    assert stored == Counter(output.token for output in outputs if isinstance(output, JOURNAL))


def check_acknowledgements(session: RecordingSession) -> None:
    """Every QoS 1 message has a token of its own, and is acknowledged when the session says so."""
    tokens = [record.argument.token for record in session.records if record.call == "receive"]
    given = [token for token in tokens if token is not None]
    assert len(given) == len(set(given))
    wanted = [token for output in session.outputs() if isinstance(output, Acknowledge) for token in output.tokens]
    assert Counter(wanted) == Counter(given)
    written = sum(record.argument for record in session.records if record.call == "acknowledged")
    assert written == len(wanted)


def check_polls(session: RecordingSession) -> None:
    """The session is polled after every input, before time passes, and at its next wake-up at the latest."""
    due_s: float | None = None
    for before, record in zip([None, *session.records], session.records, strict=False):
        if before is not None and before.call != "poll":
            assert record.now_s <= before.now_s + LATE_S, f"{before.call} at {before.now_s} is not followed by a poll"
        if due_s is not None:
            assert record.now_s <= due_s + LATE_S, f"{record.call} at {record.now_s}, due at {due_s}"
        if record.call == "poll":
            due_s = None if record.next_wake_s is None else max(record.next_wake_s, record.now_s)
    assert session.records[-1].call == "poll"


def check_time(session: RecordingSession) -> None:
    """Time never goes back."""
    times = [record.now_s for record in session.records]
    assert times == sorted(times)


def check_charges(session: RecordingSession) -> None:
    """What is counted on the uplink is what left on it."""
    sent = Counter(output.label for output in session.outputs() if isinstance(output, Sent))
    del sent["puback"]
    assert sent == Counter(output.label for output in session.outputs() if isinstance(output, Publish))


CONTRACT = (check_answers, check_acknowledgements, check_polls, check_time, check_charges)
