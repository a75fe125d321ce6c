"""The one reducer from messages on the wire to outcomes: the first terminal of a query wins, repeats are counted.

On the wire a terminal is at-least-once: a worker that was frozen may wake and repeat one. Client, gateway and recorder
all read through this class, so that they agree. It also keeps the latest answer of each standing question: one that
tells of an old frame, which waited for a link, never takes the place of one that tells of a newer frame. An *unchanged*
outcome renews the answer to an earlier frame.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Final

from pipeline.protocol.renewals import renewed_query_id
from schemas.messages import Answer, QueryOutcome
from schemas.types import FrameId, Outcome

LATENCY_S: Final = 120.0
"""Longest way of an old frame from its first open to its answer at a reader, deadline included: the age that the answer
tells is that of the open."""
MAX_LATEST: Final = 16_384
"""Standing questions, each of one camera, whose latest answer is remembered."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The terminal outcome of a query.

    Attributes:
        query_id: the query.
        outcome: how it ended.
        text: the answer, that which is renewed included; empty when there is none, or the reader never saw it.
        source: the message that decided it.
        renewed: the answer that an *unchanged* outcome renews; None for other outcomes, or if the reader never saw it.
    """

    query_id: str
    outcome: Outcome
    text: str
    source: Answer | QueryOutcome
    renewed: Answer | None = None

    @property
    def history(self) -> bool:
        """It tells of a frame that waited for the link to come back."""
        return self.source.history


@dataclass(frozen=True, slots=True)
class Latest:
    """The answer to a standing question that tells of the newest frame.

    Attributes:
        decided: the answer, or the outcome that renewed it last.
        captured_s: its frame was not taken later, by the clock of who reads; minus infinity when nobody knows.
    """

    decided: Decided
    captured_s: float

    @property
    def frame(self) -> FrameId:
        """Its frame."""
        return self.decided.source.frame


@dataclass(slots=True)
class OutcomeReducer:
    """First terminal wins.

    Attributes:
        capacity: decided queries that are remembered; the oldest is forgotten first, but one whose answer was renewed
            counts as new.
        repeats: terminals that came after the first with the same outcome and text.
        conflicts: terminals that came after the first and say something else.
        live: outcomes of queries about frames of their time.
        history: outcomes of queries about frames that waited for a link.
        renewals: *unchanged* outcomes among the first terminals.
        renewals_unknown: those among them that renew an answer which this reader does not have.
    """

    capacity: int = 65_536
    repeats: int = 0
    conflicts: int = 0
    live: Counter[Outcome] = field(default_factory=Counter)
    history: Counter[Outcome] = field(default_factory=Counter)
    renewals: int = 0
    renewals_unknown: int = 0
    _decided: OrderedDict[str, Decided] = field(default_factory=OrderedDict)
    _latest: OrderedDict[tuple[str, str, str], Latest] = field(default_factory=OrderedDict)

    def observe(self, message: Answer | QueryOutcome, now_s: float) -> Decided | None:
        """Take a message in.

        Args:
            message: it.
            now_s: when it came, on a monotonic clock.

        Returns:
            The outcome if this message decides its query, None if it is provisional or late.
        """
        if message.outcome is None:
            return None
        first = self._decided.get(message.query_id)
        if first is not None:
            same = first.outcome == message.outcome and _text(first.source) == _text(message)
            self.repeats += same
            self.conflicts += not same
            return None
        renewed = self._renewed(message)
        text = _text(message) if renewed is None else renewed.text
        decided = Decided(message.query_id, message.outcome, text, message, renewed)
        self._decided[message.query_id] = decided
        if len(self._decided) > self.capacity:
            self._decided.popitem(last=False)
        (self.history if decided.history else self.live)[decided.outcome] += 1
        if text and not message.ad_hoc:
            self._note_latest(decided, now_s)
        return decided

    def get(self, query_id: str) -> Decided | None:
        """The outcome of a query, if it is decided and remembered."""
        return self._decided.get(query_id)

    def latest(self, camera: str, owner: str, question_id: str) -> Latest | None:
        """The answer of a standing question that tells of the newest frame, None while there is none."""
        return self._latest.get((camera, owner, question_id))

    def _note_latest(self, decided: Decided, now_s: float) -> None:
        message = decided.source
        key = (message.camera, message.owner, message.question_id)
        # An answer that holds on tells of the frame that renews it.
        age_ms = message.age_ms if isinstance(message, Answer) else None
        captured_s = now_s if age_ms is None else -math.inf if isinstance(age_ms, str) else now_s - age_ms / 1000
        known = self._latest.get(key)
        if known is not None and is_older(decided, captured_s, known):
            return
        self._latest[key] = Latest(decided, captured_s)
        self._latest.move_to_end(key)
        if len(self._latest) > MAX_LATEST:
            self._latest.popitem(last=False)

    def _renewed(self, message: Answer | QueryOutcome) -> Answer | None:
        if not isinstance(message, QueryOutcome) or message.outcome is not Outcome.UNCHANGED:
            return None
        self.renewals += 1
        query_id = renewed_query_id(message)
        known = None if query_id is None else self._decided.get(query_id)
        answer = None if known is None else known.source
        # What this reader took for the end of that query may be something else than what its edge took for it.
        if not isinstance(answer, Answer) or answer.outcome is not Outcome.ANSWERED or answer.owner != message.owner:
            self.renewals_unknown += 1
            return None
        self._decided.move_to_end(answer.query_id)
        return answer


def _text(message: Answer | QueryOutcome) -> str:
    return message.text if isinstance(message, Answer) else ""


def is_older(decided: Decided, captured_s: float, known: Latest) -> bool:
    """Whether an answer may tell of an older frame than the one that is known.

    Args:
        decided: the answer.
        captured_s: its frame was not taken later.
        known: the latest answer so far.
    """
    if decided.history:
        return captured_s - LATENCY_S < known.captured_s or math.isinf(captured_s)
    # A frame of its time that was opened later was taken later than all that were opened before.
    frame = decided.source.frame
    return frame.boot == known.frame.boot and frame.sequence < known.frame.sequence
