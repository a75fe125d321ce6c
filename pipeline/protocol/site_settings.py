"""What a site is, as its session needs it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pipeline.protocol.asking_rules import AskingSettings
from pipeline.protocol.client_budgets import ClientBudget
from pipeline.protocol.event_keeper import EventSettings
from pipeline.protocol.frame_ring import RingSettings
from pipeline.protocol.store_settings import StorePolicy, StoreSettings
from pipeline.protocol.uplink_budget import BudgetSettings
from schemas.messages import Question


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """What a site is.

    Attributes:
        site: its name; it owns the standing questions.
        pool: worker pool that is asked.
        asked_of: ids of the standing questions that the settings ask of each camera, by camera.
        questions: standing questions of the settings, by id.
        uplink_kbps: rate of its uplink in 1000 bits a second; None has no limit.
        priorities: weight of the queries of each camera on the uplink, 1 unless given.
        client_budget: what each client may cost.
        client_budgets: by client, where it is something else.
        takes_asks: clients may ask its cameras.
        deletes_questions: what it does not ask is deleted on the broker.
        store: which frames it keeps while it has no link.
        ring: which frames are kept for questions about the past.
        events: what is kept of the events of each camera.
        event_max_age_s: age from which on an event is dropped.
        gather_s: wait of standing frames for those of the other cameras, to leave with them.
        budget: of its uplink, a day and a month.
        shares: part of the uplink that the standing questions of a camera may use, by camera.
        asking: when they are asked.
        traced: mark messages of questions with their trace.
    """

    site: str
    pool: str
    asked_of: Mapping[str, Collection[str]]
    questions: Mapping[str, Question] = field(default_factory=dict)
    uplink_kbps: float | None = None
    priorities: Mapping[str, float] = field(default_factory=dict)
    client_budget: ClientBudget = field(default_factory=ClientBudget)
    client_budgets: Mapping[str, ClientBudget] = field(default_factory=dict)
    takes_asks: bool = True
    deletes_questions: bool = True
    store: StoreSettings = field(default_factory=lambda: StoreSettings(StorePolicy.OFF))
    ring: RingSettings = field(default_factory=RingSettings)
    events: Mapping[str, EventSettings] = field(default_factory=dict)
    event_max_age_s: float = 604_800.0
    gather_s: float = 0.0
    budget: BudgetSettings | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    asking: AskingSettings = field(default_factory=AskingSettings)
    traced: bool = False
