"""Ad-hoc questions of a simulated site: on a disk that outlives the process first, then in a frame."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from pipeline.protocol.effects import AskedQuery, Terminal
from schemas.identity import ad_hoc_query_id
from schemas.messages import Answer, Ask, QueryOutcome


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


@dataclass(slots=True)
class Desk:
    """Where questions wait for a frame.

    Attributes:
        disk: of the site.
        waiting: questions that no frame has taken yet, by camera.
    """

    disk: Disk
    waiting: defaultdict[str, list[AskedQuery]] = field(default_factory=lambda: defaultdict(list))

    def known(self, camera: str, client: str, ask: Ask) -> StoredAsk | None:
        """The question that has this id already. What is asked again under it counts for nothing."""
        return self.disk.asks.get(ad_hoc_query_id(camera, client, ask.query_id))

    def take_in(self, camera: str, client: str, ask: Ask, now_s: float) -> AskedQuery:
        """Store a new question; it waits for a frame."""
        query = AskedQuery(ask.content(client), now_s + ask.deadline_ms / 1000)
        self.disk.asks[ad_hoc_query_id(camera, client, ask.query_id)] = StoredAsk(camera, query)
        self.waiting[camera].append(query)
        return query

    def restore(self) -> int:
        """What an earlier process left undecided waits again; how many that are."""
        undecided = [stored for stored in self.disk.asks.values() if stored.terminal is None]
        for stored in undecided:
            self.waiting[stored.camera].append(stored.query)
        return len(undecided)

    def untold(self) -> list[QueryOutcome]:
        """Outcomes that the broker may not have."""
        return [
            stored.terminal
            for stored in self.disk.asks.values()
            if isinstance(stored.terminal, QueryOutcome) and not stored.told
        ]
