"""What an edge asks of the disk that keeps its ad-hoc questions, and what it is told. Plain data.

The shell does the requests one after the other, in the order in which they come, and answers each one once with
``stored(token, result, now_s)``. :class:`pipeline.node.ask_journal.AskJournal` does them with SQLite.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from pipeline.protocol.effects import ReplyTo
from schemas.identity import ad_hoc_query_id
from schemas.messages import Answer, Ask, QueryOutcome

MAX_OPEN_ASKS: Final = 256
"""Ad-hoc questions of a site without an outcome."""


class Admission(Enum):
    """What an ask meets."""

    NEW = "new"
    RUNNING = "running"
    """Asked before and not decided yet; the newer reply topic counts."""
    DECIDED = "decided"
    CONFLICT = "conflict"
    """The query id stands for another question."""
    FULL = "full"
    """The site has no room for further questions."""
    CLIENT_FULL = "client_full"
    """This client has as many without an outcome as it may."""


@dataclass(frozen=True, slots=True)
class StoredAsk:
    """An ad-hoc question on disk.

    Attributes:
        ask: the question.
        camera: whom it was asked of.
        client: who asked.
        remaining_s: time to its deadline, negative when that is over.
        reply_to: where its client wants the answer.
        terminal: how it ended, None while it is undecided.
    """

    ask: Ask
    camera: str
    client: str
    remaining_s: float
    reply_to: ReplyTo | None
    terminal: Answer | QueryOutcome | None

    @property
    def query_id(self) -> str:
        """Key of the question."""
        return ad_hoc_query_id(self.camera, self.client, self.ask.query_id)


# ---- requests -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadUnfinished:
    """Questions that an earlier process left undecided or untold: :class:`Unfinished`."""

    token: int


@dataclass(frozen=True, slots=True)
class MoveToFile:
    """Go on in the file that could not be opened so far: :class:`Unfinished`, what an earlier process left in it."""

    token: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Store a question: :class:`Admitted`.

    Attributes:
        token: names the request.
        camera: whom it is asked of.
        client: who asks.
        ask: the question.
        reply_to: where the client wants the answer.
        max_of_client: undecided questions that this client may have.
    """

    token: int
    camera: str
    client: str
    ask: Ask
    reply_to: ReplyTo | None
    max_of_client: int = MAX_OPEN_ASKS


@dataclass(frozen=True, slots=True)
class Decide:
    """Store how a question ended; the first terminal stays: :class:`Decided`.

    Attributes:
        token: names the request.
        query_id: the question.
        terminal: its terminal message.
        told: the broker has it already.
    """

    token: int
    query_id: str
    terminal: Answer | QueryOutcome
    told: bool


@dataclass(frozen=True, slots=True)
class MarkTold:
    """Store that the broker has the terminal of a question: :class:`Decided`."""

    token: int
    query_id: str


JournalRequest = ReadUnfinished | MoveToFile | Admit | Decide | MarkTold


# ---- results --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Questions of an earlier process that are undecided or untold, the oldest first.

    Attributes:
        asks: the questions.
        in_memory: the file cannot be opened yet, and nothing survives this process.
    """

    asks: tuple[StoredAsk, ...]
    in_memory: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a question has met, and the question as it is stored."""

    admission: Admission
    stored: StoredAsk


@dataclass(frozen=True, slots=True)
class Decided:
    """It is on disk; the question, or None if it is not known or was decided before."""

    stored: StoredAsk | None


@dataclass(frozen=True, slots=True)
class NotStored:
    """The disk did not take it.

    Attributes:
        problem: why.
    """

    problem: str


JournalResult = Unfinished | Admitted | Decided | NotStored
