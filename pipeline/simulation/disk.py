"""What outlives a simulated edge process."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.protocol.effects import AskedQuery, Terminal
from schemas.messages import Answer, QueryOutcome


@dataclass(slots=True)
class StoredAsk:
    """An ad-hoc question on disk.

    Attributes:
        camera: its camera.
        query: the question, with its deadline.
        terminal: how it ended, None while it has not.
        told: everybody knows that.
    """

    camera: str
    query: AskedQuery
    terminal: Answer | QueryOutcome | None = None
    told: bool = False


@dataclass(slots=True)
class Disk:
    """What an edge's journal holds: ad-hoc questions by query id, decided ones included."""

    asks: dict[str, StoredAsk] = field(default_factory=dict)

    def decided(self, terminal: Terminal) -> None:
        """A query has ended; what its worker has said is known already."""
        stored = self.asks.get(terminal.query_id)
        if stored is not None:
            stored.terminal, stored.told = terminal.answer or terminal.publish, terminal.publish is None

    def told(self, outcome: QueryOutcome) -> None:
        """The broker has an outcome."""
        if outcome.query_id in self.asks:
            self.asks[outcome.query_id].told = True
