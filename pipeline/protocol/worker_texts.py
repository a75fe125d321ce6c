"""Texts of questions that a worker knows beside those that its frames keep, and where answers are replied to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

from pipeline.protocol.effects import ReplyTo
from schemas.identity import QuestionContent

OWNER_SHARE: Final = 4
"""One owner may take this part of a store: an asker in a hurry evicts his own questions and no other's."""
_REPLY_TO_BYTES: Final = 400
"""Memory of a reply address, about: topic and correlation data have at most 128 bytes each."""

K = TypeVar("K")
V = TypeVar("V")


class OwnedStore(Generic[K, V]):
    """A bounded store whose entries belong to owners.

    An owner with more than his share loses his own entry that was not used for longest. When all owners together have
    too much, the owner that was silent for longest loses his.

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
        self._owners: OrderedDict[str, OrderedDict[K, V]] = OrderedDict()

    def __len__(self) -> int:
        return self._held

    def put(self, owner: str, key: K, value: V) -> None:
        """Keep an entry; one under the same key is replaced."""
        self._remove(owner, key)
        mine = self._owners.setdefault(owner, OrderedDict())
        mine[key] = value
        self._owners.move_to_end(owner)
        self._held += 1
        self.held_bytes += self._size_bytes(value)
        while len(mine) > max(1, self._capacity // OWNER_SHARE):
            self._remove(owner, next(iter(mine)))
        while self._held > self._capacity or self.held_bytes > self._capacity_bytes:
            silent = next(iter(self._owners))
            self._remove(silent, next(iter(self._owners[silent])))

    def get(self, owner: str, key: K) -> V | None:
        """An entry, if it is here."""
        mine = self._owners.get(owner)
        if mine is None or key not in mine:
            return None
        self._owners.move_to_end(owner)
        mine.move_to_end(key)
        return mine[key]

    def _remove(self, owner: str, key: K) -> None:
        mine = self._owners.get(owner)
        if mine is None or key not in mine:
            return
        self.held_bytes -= self._size_bytes(mine.pop(key))
        self._held -= 1
        if not mine:
            del self._owners[owner]


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
        """Keep a site's question."""
        self._standing.put(question.owner, question.digest, question)

    def learn_ask(self, query_id: str, question: QuestionContent, reply_to: ReplyTo | None) -> None:
        """Keep what a client asked of a camera, beside what it asked under the same query id before."""
        self._asks.put(question.owner, (query_id, question.digest), Ask(question, reply_to))

    def standing(self, owner: str, digest: bytes) -> QuestionContent | None:
        """A site's question, if it is known."""
        return self._standing.get(owner, digest)

    def ask(self, query_id: str, owner: str, digest: bytes) -> Ask | None:
        """What a client asked of a camera, if it is known."""
        return self._asks.get(owner, (query_id, digest))
