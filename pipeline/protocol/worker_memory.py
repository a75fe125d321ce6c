"""What a worker session remembers beside its frames, all bounded: texts, decided queries, loads of its peers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from pipeline.protocol.effects import ReplyTo
from schemas.messages import Answer, Status
from schemas.types import AnswerType


@dataclass(frozen=True, slots=True)
class KnownQuestion:
    """A question's text and what its answer may look like.

    Attributes:
        text: the question.
        answer_type: what the answer may look like.
        reply_to: where the client of an ad-hoc question wants its answers.
    """

    text: str
    answer_type: AnswerType
    reply_to: ReplyTo | None = None


@dataclass(slots=True)
class Questions:
    """Texts by question id; the least recently learned is forgotten first."""

    capacity: int
    _known: OrderedDict[str, KnownQuestion] = field(default_factory=OrderedDict)

    def learn(self, question_id: str, question: KnownQuestion) -> None:
        """Keep a text."""
        self._known[question_id] = question
        self._known.move_to_end(question_id)
        if len(self._known) > self.capacity:
            self._known.popitem(last=False)

    def forget(self, question_id: str) -> None:
        """The operator withdrew a question."""
        self._known.pop(question_id, None)

    def get(self, question_id: str) -> KnownQuestion | None:
        """A text, if it is known."""
        return self._known.get(question_id)


@dataclass(slots=True)
class DecidedQueries:
    """Terminal answers by query id: a query is computed once, and its answer repeated to an edge that missed it."""

    capacity: int
    _answers: OrderedDict[str, Answer] = field(default_factory=OrderedDict)

    def add(self, answer: Answer) -> None:
        """Keep a terminal answer."""
        self._answers[answer.query_id] = answer
        if len(self._answers) > self.capacity:
            self._answers.popitem(last=False)

    def get(self, query_id: str) -> Answer | None:
        """The terminal answer of a query, if it was decided here and is remembered."""
        return self._answers.get(query_id)


_KNOWN_PEERS = 1024
LOAD_MAX_AGE_S = 10.0
"""A load that is older says nothing: a broker that was killed publishes no will of a worker that died with it."""


@dataclass(slots=True)
class _Load:
    status: Status
    heard_s: float
    sent: int = 0


@dataclass(slots=True)
class Peers:
    """Loads of the other workers of the pool."""

    own: str
    pool: str
    fingerprint: str
    _loads: OrderedDict[str, _Load] = field(default_factory=OrderedDict)

    def learn_status(self, status: Status) -> None:
        """Take a last will in; one of an earlier boot is ignored. A birth says nothing about load."""
        known = self._loads.get(status.id)
        if status.kind == "worker" and not status.online and known is not None and known.status.boot == status.boot:
            del self._loads[status.id]

    def learn_load(self, status: Status, now_s: float) -> None:
        """Take a load in."""
        if status.id == self.own or status.pool != self.pool or status.fingerprint != self.fingerprint:
            return
        self._loads[status.id] = _Load(status, now_s)
        self._loads.move_to_end(status.id)
        if len(self._loads) > _KNOWN_PEERS:
            self._loads.popitem(last=False)

    def less_loaded(self, parked: int, now_s: float) -> str | None:
        """The worker with the fewest parked frames, if that is less than half of ours and it has room.

        What was handed over since a worker's last word counts as parked there: a burst does not all go to one.
        """
        best: tuple[int, str] | None = None
        for name, load in self._loads.items():
            held = load.status.parked + load.sent
            fits = held < load.status.capacity and held * 2 < parked and now_s - load.heard_s <= LOAD_MAX_AGE_S
            if fits and (best is None or (held, name) < best):
                best = (held, name)
        if best is None:
            return None
        self._loads[best[1]].sent += 1
        return best[1]
