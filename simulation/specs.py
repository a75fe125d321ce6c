"""What a simulated edge and a simulated worker are, and who is told what they do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pipeline.protocol.change_gate import ChangeGate, GateSettings
from pipeline.protocol.departure_queue import DepartureQueue
from pipeline.protocol.departures import DepartureOrder
from pipeline.protocol.effects import Decision
from pipeline.protocol.frame_ring import RingSettings
from pipeline.protocol.load_shedding import LoadSheddingSettings
from pipeline.protocol.ports import Sent
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.site_settings import SiteSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.store_settings import StorePolicy, StoreSettings
from pipeline.protocol.worker_schedule import Schedule
from pipeline.protocol.worker_throughput import ThroughputEstimate
from pipeline.protocol.worker_work import WorkCosts
from schemas.messages import Answer, QueryOutcome, Question
from simulation.change_gate import GatePlan, SceneRule
from simulation.content import FINGERPRINT, RULE
from simulation.query_ledger import Problem
from simulation.uplink_budgets import BudgetPlan

LARGEST_WIRE_BYTES = 800
"""An open message with the whole latent and many queries, or a long question."""

NO_STORE: Final = StoreSettings(StorePolicy.OFF)


def _ignore(*_: object) -> None:
    """Nobody is told."""


def _raise(*problem: str) -> None:
    """A run in which nobody judges ends at the first broken rule."""
    raise AssertionError(": ".join(problem))


@dataclass(frozen=True, slots=True)
class EdgeSpec:
    """A simulated edge; every process under its name is one of these.

    Attributes:
        site: its name.
        pool: worker pool that it asks.
        cameras: cameras of the site.
        uplink_kbps: rate of its uplink in 1000 bits a second.
        settings: of the protocol machine.
        questions: standing questions of its settings, asked of every camera.
        priorities: weight of cameras on the uplink, 1 where not given.
        load_shedding: how it gives way to an overloaded pool; None is the session's default.
        order: makes what decides which message leaves the uplink next, from its rate in kbps.
        key_every: frames of a camera from one key frame to the next; 0 has no key frames.
        publishes: the broker takes its questions; else workers have to ask for their texts.
        join_s: an ad-hoc question waits so many seconds for a frame of its camera, then one is taken for it.
        budget: of its uplink, with its clock; None has no limit.
        gate: of its change gate; None asks standing questions of every frame.
        store: which frames it keeps while it has no link.
        ring: which frames it keeps for questions about the past.
    """

    site: str
    pool: str
    cameras: tuple[str, ...]
    uplink_kbps: float
    settings: EdgeProtocolSettings = field(default_factory=EdgeProtocolSettings)
    questions: tuple[Question, ...] = ()
    priorities: Mapping[str, float] = field(default_factory=dict)
    load_shedding: LoadSheddingSettings | None = None
    order: Callable[[float | None], DepartureOrder] = DepartureQueue
    key_every: int = 0
    publishes: bool = True
    join_s: float = 0.0
    budget: BudgetPlan | None = None
    gate: GatePlan | None = None
    store: StoreSettings = NO_STORE
    ring: RingSettings = field(default_factory=lambda: RingSettings(history_s=0.0))

    def change_gate(self) -> ChangeGate | None:
        """A gate for its session."""
        if self.gate is None:
            return None
        return ChangeGate(SceneRule(), GateSettings(max_age_s=self.gate.max_age_s, renew_s=self.gate.renew_s))

    def site_settings(self) -> SiteSettings:
        """What its session is told of the site."""
        questions = {question.question_id: question for question in self.questions}
        asked_of = dict.fromkeys(self.cameras, tuple(questions))
        budget = None if self.budget is None else self.budget.settings(LARGEST_WIRE_BYTES)
        return SiteSettings(
            self.site,
            self.pool,
            asked_of,
            questions,
            self.uplink_kbps,
            self.priorities,
            ring=self.ring,
            budget=budget,
            store=self.store,
        )


@dataclass(frozen=True, slots=True)
class EdgeCallbacks:
    """Who is told what an edge does; by default nobody, and a broken rule raises AssertionError.

    Attributes:
        on_query: called with site, query id, deadline in s of virtual time and whether the query is ad-hoc, for each
            query that the session took on.
        on_history: called with site, query id, deadline in s of virtual time and capture of the frame, for each query
            of a stored frame.
        on_terminal: called with the site and each decision of the session.
        on_problem: called with what breaks a rule at this edge: the rule, what it is about, what was seen.
        on_reply: called with each terminal that a client is told on its reply topic.
        on_forgotten: called with queries whose decisions died with a process before the disk had them.
        on_sent: called with each message that leaves the uplink.
    """

    on_query: Callable[[str, str, float, bool], None] = _ignore
    on_history: Callable[[str, str, float, float], None] = _ignore
    on_terminal: Callable[[str, Decision], None] = _ignore
    on_problem: Problem = _raise
    on_reply: Callable[[Answer | QueryOutcome], None] = _ignore
    on_forgotten: Callable[[list[str]], None] = _ignore
    on_sent: Callable[[Sent], None] = _ignore


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A simulated worker; every process under its name is one of these.

    Attributes:
        name: its name.
        pool: its pool.
        batch_s: time of a batch beside its frames.
        frame_s: time of a usual frame in a batch.
        settings: of the protocol machine.
        questions: standing questions that it knows from the start.
        fingerprint: first 4 bytes of the fingerprint of the codec that it decodes.
        stop_rule: when an answer is safe.
        schedule: makes the rule of what goes first.
        costs: work of a pass; by default that of one frame.
        max_batch_frames: frames in a batch.
        max_batch_work: work in a batch, in the unit of ``costs``.
        hiccups: share of the batches that take far too long.
    """

    name: str
    pool: str
    batch_s: float
    frame_s: float
    settings: WorkerProtocolSettings = field(default_factory=WorkerProtocolSettings)
    questions: tuple[Question, ...] = ()
    fingerprint: bytes = FINGERPRINT
    stop_rule: StopRule = RULE
    schedule: Callable[[WorkerProtocolSettings, ThroughputEstimate], Schedule] = Schedule
    costs: WorkCosts = field(default_factory=WorkCosts.by_frames)
    max_batch_frames: int = 16
    max_batch_work: float = math.inf
    hiccups: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerCallbacks:
    """Who is told what a worker does wrong.

    Attributes:
        on_problem: called when a pass reads what it must not; raises AssertionError by default.
        on_stall: called when it renews a lease although its model is stalled; by default nobody is told.
    """

    on_problem: Callable[[str], None] = _raise
    on_stall: Callable[[str], None] = _ignore
