"""The one reducer from messages on the wire to outcomes: the first terminal of a query wins, repeats are counted.

On the wire a terminal is at-least-once: a worker that was frozen may wake and repeat one. An *unchanged* outcome renews
the answer to an earlier frame. Client, gateway and recorder all read through this class, so that they agree.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from pipeline.protocol.renewals import renewed_query_id
from schemas.messages import Answer, QueryOutcome
from schemas.types import Outcome


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


@dataclass(slots=True)
class OutcomeReducer:
    """First terminal wins.

    Attributes:
        capacity: decided queries that are remembered; the oldest is forgotten first, but one whose answer was renewed
            counts as new.
        repeats: terminals that came after the first with the same outcome and text.
        conflicts: terminals that came after the first and say something else.
        renewals: *unchanged* outcomes among the first terminals.
        renewals_unknown: those among them that renew an answer which this reader does not have.
    """

    capacity: int = 65_536
    repeats: int = 0
    conflicts: int = 0
    renewals: int = 0
    renewals_unknown: int = 0
    _decided: OrderedDict[str, Decided] = field(default_factory=OrderedDict)

    def observe(self, message: Answer | QueryOutcome) -> Decided | None:
        """Take a message in.

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
        return decided

    def get(self, query_id: str) -> Decided | None:
        """The outcome of a query, if it is decided and remembered."""
        return self._decided.get(query_id)

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
