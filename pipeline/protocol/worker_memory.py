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


@dataclass(slots=True)
class Peers:
    """Loads of the other workers of the pool, from their status topics."""

    own: str
    pool: str
    fingerprint: str
    _status: OrderedDict[str, Status] = field(default_factory=OrderedDict)
    _sent: dict[str, int] = field(default_factory=dict)

    def learn(self, status: Status) -> None:
        """Take a birth, load or will in. A will of an earlier boot is ignored."""
        if status.kind != "worker" or status.id == self.own or status.pool != self.pool:
            return
        known = self._status.get(status.id)
        if not status.online:
            if known is None or known.boot == status.boot:
                self._status.pop(status.id, None)
            return
        if status.fingerprint == self.fingerprint:
            self._status[status.id] = status
            self._status.move_to_end(status.id)
            self._sent[status.id] = 0
            if len(self._status) > _KNOWN_PEERS:
                self._sent.pop(self._status.popitem(last=False)[0], None)

    def less_loaded(self, parked: int) -> str | None:
        """The worker with the fewest parked frames, if that is less than half of ours and it has room.

        What was handed over since a worker's last status counts as parked there: a burst does not all go to one.
        """
        best: tuple[int, str] | None = None
        for name, status in self._status.items():
            load = status.parked + self._sent.get(name, 0)
            if load < status.capacity and load * 2 < parked and (best is None or (load, name) < best):
                best = (load, name)
        if best is None:
            return None
        self._sent[best[1]] = self._sent.get(best[1], 0) + 1
        return best[1]
