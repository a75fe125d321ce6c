"""Texts of questions that a worker knows beside those that its frames keep, and where answers are replied to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

from pipeline.protocol.effects import ReplyTo
from schemas.identity import QuestionContent

_REPLY_TO_BYTES: Final = 400
"""Memory of a reply address, about: topic and correlation data have at most 128 bytes each."""

K = TypeVar("K")
V = TypeVar("V")


class OwnedStore(Generic[K, V]):
    """A bounded store whose entries belong to owners, and are shared fairly among them.

    What is too much goes from the owner that has most, so that an asker in a hurry evicts his own questions: first what
    he did not use for longest. Of several that have most, it is the one that was silent for longest.

    Args:
        capacity: entries kept.
        capacity_bytes: memory that they may take, about.
        size_bytes: memory that an entry takes.

    Attributes:
        held_bytes: memory that all take.
    """

    def __init__(self, capacity: int, capacity_bytes: int, size_bytes: Callable[[V], int]) -> None:
        self.held_bytes = 0
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._size_bytes = size_bytes
        self._held = 0
        self._owners: dict[str, OrderedDict[K, V]] = {}
        self._with: dict[int, OrderedDict[str, None]] = {}
        """Owners by the number of their entries."""
        self._most = 0

    def __len__(self) -> int:
        return self._held

    def put(self, owner: str, key: K, value: V) -> None:
        """Keep an entry; one under the same key is replaced."""
        self._remove(owner, key)
        mine = self._owners.setdefault(owner, OrderedDict())
        mine[key] = value
        self._held += 1
        self.held_bytes += self._size_bytes(value)
        self._has(owner, len(mine) - 1, len(mine))
        self._bound()

    def get(self, owner: str, key: K) -> V | None:
        """An entry, if it is here."""
        mine = self._owners.get(owner)
        if mine is None or key not in mine:
            return None
        self._with[len(mine)].move_to_end(owner)
        mine.move_to_end(key)
        return mine[key]

    def _bound(self) -> None:
        """Forget what is too much."""
        while self._held > self._capacity or self.held_bytes > self._capacity_bytes:
            greediest = next(iter(self._with[self._most]))
            self._remove(greediest, next(iter(self._owners[greediest])))

    def _remove(self, owner: str, key: K) -> None:
        mine = self._owners.get(owner)
        if mine is None or key not in mine:
            return
        self.held_bytes -= self._size_bytes(mine.pop(key))
        self._held -= 1
        self._has(owner, len(mine) + 1, len(mine))
        if not mine:
            del self._owners[owner]

    def _has(self, owner: str, before: int, now: int) -> None:
        """An owner has one entry more or less than before."""
        if before:
            alike = self._with[before]
            del alike[owner]
            if not alike:
                del self._with[before]
        if now:
            self._with.setdefault(now, OrderedDict())[owner] = None
        if now > self._most or self._most not in self._with:
            self._most = now


class Ask(NamedTuple):
    """A client's question to a camera.

    Attributes:
        question: the question.
        reply_to: where the client wants its answers; None where it did not say.
    """

    question: QuestionContent
    reply_to: ReplyTo | None


class Texts:
    """What a worker knows of questions.

    A text is what its digest says, so learning one never changes another. Of an ad-hoc question text and reply address
    are kept and forgotten together: a worker that has no address asks for the text, and then the edge replies.

    Args:
        capacity: standing questions kept, and ad-hoc ones.
        capacity_bytes: memory that each of the two may take, about.
    """

    def __init__(self, capacity: int, capacity_bytes: int) -> None:
        self._standing: OwnedStore[bytes, QuestionContent] = OwnedStore(
            capacity, capacity_bytes, lambda question: question.size_bytes
        )
        self._asks: OwnedStore[tuple[str, bytes], Ask] = OwnedStore(
            capacity, capacity_bytes, lambda ask: ask.question.size_bytes + _REPLY_TO_BYTES
        )

    def __len__(self) -> int:
        return len(self._standing) + len(self._asks)

    @property
    def held_bytes(self) -> int:
        """Memory that the texts take, about."""
        return self._standing.held_bytes + self._asks.held_bytes

    def learn_standing(self, question: QuestionContent) -> None:
        """Keep a question that was published below its site's name."""
        self._standing.put(question.owner, question.digest, question)

    def learn_text(self, camera: str, question: QuestionContent) -> None:
        """Keep a site's question that the edge of a camera has sent: whose it is, the edge says and no topic."""
        self._standing.put(_sent_by(camera), question.digest, question)

    def learn_ask(self, query_id: str, question: QuestionContent, reply_to: ReplyTo | None) -> None:
        """Keep what a client asked of a camera, beside what it asked under the same query id before."""
        self._asks.put(question.owner, (query_id, question.digest), Ask(question, reply_to))

    def standing(self, camera: str, owner: str, digest: bytes) -> QuestionContent | None:
        """A site's question, if it is known or was sent for a camera."""
        return self._standing.get(owner, digest) or self._standing.get(_sent_by(camera), digest)

    def ask(self, query_id: str, owner: str, digest: bytes) -> Ask | None:
        """What a client asked of a camera, if it is known."""
        return self._asks.get(owner, (query_id, digest))


def _sent_by(camera: str) -> str:
    return f"camera/{camera}"
