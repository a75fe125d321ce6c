"""The one reducer from messages on the wire to outcomes: the first terminal of a query wins, repeats are counted.

On the wire a terminal is at-least-once: a worker that was frozen may wake and repeat one. Client, gateway and recorder
all read through this class, so that they agree.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from schemas.messages import Answer, QueryOutcome
from schemas.types import Outcome


@dataclass(frozen=True, slots=True)
class Decided:
    """The terminal outcome of a query.

    Attributes:
        query_id: the query.
        outcome: how it ended.
        text: the answer, empty when there is none.
        source: the message that decided it.
    """

    query_id: str
    outcome: Outcome
    text: str
    source: Answer | QueryOutcome


@dataclass(slots=True)
class OutcomeReducer:
    """First terminal wins.

    Attributes:
        capacity: decided queries that are remembered; the oldest is forgotten first.
        repeats: terminals that came after the first with the same outcome and text.
        conflicts: terminals that came after the first and say something else.
    """

    capacity: int = 65_536
    repeats: int = 0
    conflicts: int = 0
    _decided: OrderedDict[str, Decided] = field(default_factory=OrderedDict)

    def observe(self, message: Answer | QueryOutcome) -> Decided | None:
        """Take a message in.

        Returns:
            The outcome if this message decides its query, None if it is provisional or late.
        """
        if message.outcome is None:
            return None
        text = message.text if isinstance(message, Answer) else ""
        first = self._decided.get(message.query_id)
        if first is not None:
            same = first.outcome == message.outcome and first.text == text
            self.repeats += same
            self.conflicts += not same
            return None
        decided = Decided(message.query_id, message.outcome, text, message)
        self._decided[message.query_id] = decided
        if len(self._decided) > self.capacity:
            self._decided.popitem(last=False)
        return decided

    def get(self, query_id: str) -> Decided | None:
        """The outcome of a query, if it is decided and remembered."""
        return self._decided.get(query_id)
