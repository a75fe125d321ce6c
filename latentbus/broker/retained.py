"""What a broker retains below our topics, and whether whoever it speaks of is still there."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from schemas.errors import RemoteError
from schemas.messages import Message, Question, Status
from schemas.topics import ROOT, Family, Topic

_KEPT_PAYLOADS: Final = (Status, Question)


class Kind(StrEnum):
    """What a retained message is."""

    STATUS = "status"
    KEY = "key"
    QUESTION = "question"
    LOAD = "load"
    ASK = "ask"
    OTHER = "other"
    """On a topic where nothing is retained, or of another wire version."""


class State(StrEnum):
    """Whether somebody still stands for a retained message."""

    LIVE = "live"
    """Its process is online."""
    KEPT = "kept"
    """A site that is offline will want it again: what an operator set is nowhere else."""
    DEAD = "dead"
    """Its process is offline or unknown, or nobody reads it."""


@dataclass(frozen=True, slots=True)
class Held:
    """A retained message as it came.

    Attributes:
        topic: where.
        size_bytes: of its payload.
        digest: of its payload.
        parsed: its topic; None where it is none of ours.
        message: a status or a question; None for everything else, which may be large.
        problem: why it is no valid message of its topic; empty when it is one.
    """

    topic: str
    size_bytes: int
    digest: bytes = field(repr=False)
    parsed: Topic | None = None
    message: Message | None = None
    problem: str = ""

    @classmethod
    def of(cls, topic: str, payload: bytes) -> Held:
        """Read a retained message; a bad one is no error here."""
        from schemas import wire  # here, since --help loads this module, and is to be quick

        digest = hashlib.blake2b(payload, digest_size=16).digest()
        try:
            parsed, message = wire.decode_publish(topic, payload)
        except RemoteError as error:
            return cls(topic, len(payload), digest, problem=str(error))
        return cls(topic, len(payload), digest, parsed, message if isinstance(message, _KEPT_PAYLOADS) else None)

    @property
    def kind(self) -> Kind:
        """What it is, by its topic alone."""
        family = self.topic.removeprefix(f"{ROOT}/").partition("/")[0]
        return Kind(family) if self.topic.startswith(f"{ROOT}/") and family in list(Kind) else Kind.OTHER

    @property
    def names(self) -> tuple[str, ...]:
        """Levels below the family: site, camera, worker, client, question."""
        return tuple(self.topic.split("/")[3:])


@dataclass(frozen=True, slots=True)
class Entry:
    """A retained message and what is known of whoever left it.

    Attributes:
        held: the message.
        state: whether it still has a meaning.
        why: for people.
    """

    held: Held
    state: State
    why: str


def classify(messages: Collection[Held], heard: Collection[str] | None = None) -> list[Entry]:
    """Say of each retained message whether it still has a meaning, sorted by topic.

    Args:
        messages: everything that the broker retains.
        heard: processes that spoke while somebody listened, as ``edge/north``; None when nobody did. One that says
            it is online and was not heard is taken for dead: its last will was lost.
    """
    fleet = _Fleet.of(messages, heard)
    return [Entry(held, *fleet.state_of(held)) for held in sorted(messages, key=lambda held: held.topic)]


@dataclass(frozen=True, slots=True)
class _Fleet:
    """Processes by ``kind/id``: what each says of itself, and why that is not believed."""

    statuses: Mapping[str, Status]
    silent: frozenset[str]

    @classmethod
    def of(cls, messages: Collection[Held], heard: Collection[str] | None) -> _Fleet:
        statuses = {
            f"{held.message.kind}/{held.message.id}": held.message
            for held in messages
            if isinstance(held.message, Status) and held.parsed is not None and held.parsed.family is Family.STATUS
        }
        # Recorders and gateways need not speak.
        speakers = {name for name in statuses if name.startswith(("edge/", "worker/"))}
        return cls(statuses, frozenset() if heard is None else frozenset(speakers - set(heard)))

    def state_of(self, held: Held) -> tuple[State, str]:
        topic = held.parsed
        if topic is None:
            return State.DEAD, f"nobody reads it: {held.problem}"
        match topic.family:
            case Family.STATUS:
                return self._process("/".join(topic.names))
            case Family.LOAD:
                return self._process(f"worker/{topic.name('id')}")
            case Family.KEY:
                return self._key_frame(topic.name("pool"), topic.name("camera"))
            case Family.QUESTION:
                return self._question(topic.name("site"), held.message)
            case Family.ASK:
                return State.DEAD, "an ask that was published retained is ignored by everybody"
        return State.DEAD, "nothing is retained on this topic"

    def _process(self, name: str) -> tuple[State, str]:
        status = self.statuses.get(name)
        if status is None:
            return State.DEAD, f"{name} is unknown"
        if not status.online:
            return State.DEAD, f"{name} is offline"
        if name in self.silent:
            return State.DEAD, f"{name} says it is online and was not heard"
        return State.LIVE, f"{name} is online"

    def _key_frame(self, pool: str, camera: str) -> tuple[State, str]:
        for name, status in self.statuses.items():
            serves = status.kind == "edge" and camera in status.cameras and status.pool == pool
            if serves and self._process(name)[0] is State.LIVE:
                return State.LIVE, f"{name} has camera {camera}"
        return State.DEAD, f"no edge of pool {pool} that is online has camera {camera}"

    def _question(self, site: str, message: Message | None) -> tuple[State, str]:
        state, why = self._process(f"edge/{site}")
        by_operator = isinstance(message, Question) and message.set_by == "operator"
        if state is State.DEAD and by_operator and f"edge/{site}" in self.statuses:
            return State.KEPT, f"{why}; an operator set it, so remove the site's status first if the site is gone"
        return state, why
