"""What an episode is made of: fleet, workload and faults, as data, so that a part can be left out and replayed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from pipeline.protocol.frame_ring import RingSettings
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.store_settings import StoreSettings
from schemas.messages import Ask, Question
from simulation.change_gate import GatePlan
from simulation.faults import HEIR, Fault
from simulation.specs import NO_STORE
from simulation.uplink_budgets import BudgetPlan

QUESTIONS = ("q0", "q1", "q2")
CLIENTS = ("alice", "bob", "site0")
"""The last one has the name of a site: their questions are not the same for that."""
QUERY_IDS = (*QUESTIONS, "1", "2")
"""Few, so that clients meet; some are ids of standing questions."""
LONGEST_DEADLINE_S = 40.0
THIN_KBPS = 6.0
"""Of an uplink on which opens wait for one another."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """A worker of the pool.

    Attributes:
        name: its name.
        batch_s: time of a batch beside its frames.
        frame_s: time of a frame in a batch.
        foreign: it decodes another codec than the edges send.
        hiccups: share of its batches that take far too long, on a machine that others use as well.
    """

    name: str
    batch_s: float
    frame_s: float
    foreign: bool = False
    hiccups: float = 0.0


@dataclass(frozen=True, slots=True)
class SitePlan:
    """An edge process.

    Attributes:
        name: its name.
        cameras: its cameras.
        uplink_kbps: what they share.
        questions: standing questions of its settings.
        key_every: frames of a camera from one key frame to the next; 0 codes every frame by itself.
        join_s: an ad-hoc question waits so long for the next frame of its camera.
        publishes: workers get the texts of its standing questions by the broker; else they have to ask.
        budget: of its uplink; None has no limit.
        gate: of its change gate; None asks standing questions of every frame.
        store: which frames it keeps while it has no link.
        ring: which frames it keeps for questions about the past.
    """

    name: str
    cameras: tuple[str, ...]
    uplink_kbps: float
    questions: tuple[Question, ...] = ()
    key_every: int = 0
    join_s: float = 0.0
    publishes: bool = True
    budget: BudgetPlan | None = None
    gate: GatePlan | None = None
    store: StoreSettings = NO_STORE
    ring: RingSettings = field(default_factory=RingSettings)


@dataclass(frozen=True, slots=True)
class FramePlan:
    """A captured frame with its standing questions.

    Attributes:
        time_s: when it is captured.
        site: edge that captures it.
        camera: its camera.
        questions: ids of what is asked of it, unless the site does not have it then.
    """

    time_s: float
    site: str
    camera: str
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """An operator's word on a standing question, by the broker.

    Attributes:
        time_s: when it is published.
        site: site of the question.
        question_id: its id.
        question: what it is from then on; None deletes it.
    """

    time_s: float
    site: str
    question_id: str
    question: Question | None


@dataclass(frozen=True, slots=True)
class AskPlan:
    """An ad-hoc question; the same query id again is a client that asks again.

    Attributes:
        time_s: when the client publishes it.
        camera: camera that it is about.
        client: who asks.
        ask: the question.
        of_kept: it is asked of a frame that the edge keeps then: from 0, the oldest, to 1; None takes the ask as it is.
    """

    time_s: float
    camera: str
    client: str
    ask: Ask
    of_kept: float | None = None


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """Everything that happens in an episode, apart from what the real machines make of it.

    Attributes:
        seed: draws what is left to chance: delays, and which message a bad wire hits.
        duration_s: end of the workload and of the faults.
        keepalive_s: of every client; one and a half of it is how long the broker waits for a client that fell silent.
        delay_s: mean of the random part of a delivery's delay.
        recorder: somebody subscribes to everything, which hides reason code 16.
        late_wills_s: last wills come so much later, at most.
        easy_share: share of the queries that the base prefix answers.
        crowd_known: workers know the question of the frames that fill them.
        batch_tokens: work in a batch, in tokens; infinite where a batch is bounded in frames alone.
        edge: settings of every edge.
        worker: settings of every worker.
        sites: edges.
        workers: the pool.
        frames: standing questions, in time order for each camera.
        changes: of standing questions.
        asks: ad-hoc questions.
        faults: what breaks.
    """

    seed: int
    duration_s: float
    keepalive_s: float
    delay_s: float
    recorder: bool
    late_wills_s: float
    easy_share: float
    crowd_known: bool
    batch_tokens: float
    edge: EdgeProtocolSettings
    worker: WorkerProtocolSettings
    sites: tuple[SitePlan, ...]
    workers: tuple[WorkerPlan, ...]
    frames: tuple[FramePlan, ...]
    changes: tuple[ChangePlan, ...]
    asks: tuple[AskPlan, ...]
    faults: tuple[Fault, ...]

    @property
    def all_fit(self) -> bool:
        """Whether every worker decodes what the edges send."""
        return not any(worker.foreign for worker in self.workers)

    @property
    def budgeted(self) -> bool:
        """Whether a site may spend its budget: it leaves questions out then, and tells late."""
        return any(site.budget is not None for site in self.sites)

    @property
    def most_passes(self) -> int:
        """Passes that one prefix of a frame may take: each asks one of its questions at least."""
        return 1 if math.isinf(self.batch_tokens) else len(QUESTIONS) + 1 + len(CLIENTS) * len(QUERY_IDS)

    @property
    def healthy(self) -> bool:
        """Whether nothing breaks and nothing is short: most queries must be answered then, even of a loaded fleet."""
        enough = math.isinf(self.batch_tokens) and all(site.uplink_kbps > THIN_KBPS for site in self.sites)
        fast = all(worker.batch_s < 1.0 and not worker.hiccups for worker in self.workers)
        return not self.faults and self.all_fit and not self.budgeted and enough and fast


def without(
    plan: EpisodePlan,
    *,
    sites: tuple[SitePlan, ...] | None = None,
    workers: tuple[WorkerPlan, ...] | None = None,
) -> EpisodePlan:
    """A plan with fewer processes: what concerns the others goes with them."""
    sites = plan.sites if sites is None else sites
    workers = plan.workers if workers is None else workers
    cameras = {camera for site in sites for camera in site.cameras}
    names = {site.name for site in sites} | {worker.name for worker in workers} | {"", HEIR}
    return replace(
        plan,
        sites=sites,
        workers=workers,
        frames=tuple(frame for frame in plan.frames if frame.camera in cameras),
        changes=tuple(change for change in plan.changes if change.site in names),
        asks=tuple(ask for ask in plan.asks if ask.camera in cameras),
        faults=tuple(fault for fault in plan.faults if fault.target in names),
    )
