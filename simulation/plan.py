"""What an episode is made of: fleet, workload and faults, as data, so that a part can be left out and replayed."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from schemas.messages import Ask, Question
from schemas.types import AnswerType
from simulation.faults import HEIR, Fault, draw_faults, draw_key_faults, draw_relay
from simulation.questions import question_text

QUESTIONS = ("q0", "q1", "q2")
ADDED = "q3"
"""A question that only an operator asks."""
CLIENTS = ("alice", "bob", "site0")
"""The last one has the name of a site: their questions are not the same for that."""
_QUERY_IDS = (*QUESTIONS, "1", "2")
"""Few, so that clients meet; some are ids of standing questions."""
LONGEST_DEADLINE_S = 40.0
_DEADLINES_MS = (1_500, 5_000, 15_000, 40_000, 40_000)
_LENGTHS = (0, 0, 80, 400)
"""Of texts: what is long costs more of a model's time."""
_ANSWER_TYPES = (AnswerType.TEXT, AnswerType.YES_NO, AnswerType.COUNT, AnswerType.WORD)
THIN_KBPS = 6.0
"""Of an uplink on which opens wait for one another."""
_FOREIGN = "stranger"
_RELAY_SHARE = 0.03
"""Episodes that are about frames coming back to a worker that still looks at them; chance alone hardly ever does it."""
_RELAY_ASKS = 8
_KEY_SITE_SHARE = 0.4
"""Edges that use key frames."""
_FEW_KEY_BYTES = 500
"""Room for two key frames, in a pool of up to nine cameras."""

NEVER_S = 1_000.0
"""A camera that takes no frame for an ad-hoc question alone."""


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
    """

    name: str
    cameras: tuple[str, ...]
    uplink_kbps: float
    questions: tuple[Question, ...] = ()
    key_every: int = 0
    join_s: float = 0.0
    publishes: bool = True


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
    """

    time_s: float
    camera: str
    client: str
    ask: Ask


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
    def most_passes(self) -> int:
        """Looks that one prefix of a frame may take: each asks one of its questions at least."""
        return 1 if math.isinf(self.batch_tokens) else len(QUESTIONS) + 1 + len(CLIENTS) * len(_QUERY_IDS)

    @property
    def healthy(self) -> bool:
        """Whether nothing breaks and nothing is short: most queries must be answered then, even of a loaded fleet."""
        enough = math.isinf(self.batch_tokens) and all(site.uplink_kbps > THIN_KBPS for site in self.sites)
        fast = all(worker.batch_s < 1.0 and not worker.hiccups for worker in self.workers)
        return not self.faults and self.all_fit and enough and fast


def draw_plan(seed: int) -> EpisodePlan:
    """A small fleet of a few sites and workers, with work and faults for about a minute of virtual time.

    Args:
        seed: decides everything.
    """
    draw = random.Random(seed)
    duration_s = draw.uniform(20.0, 60.0)
    base_lease_s = draw.choice([1.0, 3.0])
    sites = tuple(_draw_site(draw, index) for index in range(draw.randint(1, 3)))
    hiccups = draw.choice([0.0, 0.0, 0.0, 0.2])
    batch_times_s = draw.choice([(0.02,), (0.5,), (3.0,), (3.0,), (0.02, 0.1, 0.5, 3.0)])  # machines alike, or not
    workers = tuple(
        WorkerPlan(f"w{index}", draw.choice(batch_times_s), draw.choice([0.002, 0.05]), hiccups=hiccups)
        for index in range(draw.choice([1, 2, 2, 2, 3, 5]))
    )
    if draw.random() < 0.1:
        workers += (WorkerPlan(_FOREIGN, 0.02, 0.002, foreign=True),)
    frames: list[FramePlan] = []
    asks: list[AskPlan] = []
    changes: list[ChangePlan] = []
    changes_a_site = draw.choice([0, 0, 2, 6])
    for site in sites:
        mine: list[FramePlan] = []
        for camera in site.cameras:
            mine += _draw_frames(draw, site.name, camera, duration_s)
            asks += _draw_asks(draw, camera, [frame.time_s for frame in mine], duration_s)
        frames += mine
        changes += (_draw_change(draw, site, mine) for _ in range(draw.randint(0, changes_a_site)))
    plan = EpisodePlan(
        seed=seed,
        duration_s=duration_s,
        keepalive_s=draw.choice([4.0, 30.0]),
        delay_s=draw.choice([0.005, 0.02, 0.1]),
        recorder=draw.random() < 0.3,
        late_wills_s=draw.choice([0.0, 0.0, 4.0, 15.0]),
        easy_share=draw.choice([0.8, 0.4, 0.1]),
        crowd_known=draw.random() < 0.8,
        batch_tokens=draw.choice([math.inf, math.inf, 200.0, 600.0]),
        edge=EdgeProtocolSettings(
            base_lease_s=base_lease_s,
            attempts=draw.choice([3, 6]),
            max_frames_per_camera=draw.choice([2, 16]),
            terminal_cache=draw.choice([2, 1024]),
        ),
        worker=WorkerProtocolSettings(
            base_lease_s=base_lease_s,
            max_lease_s=draw.choice([2.0, 10.0]),
            capacity_frames=draw.choice([2, 8, 64, 1024]),
            finalise_margin_s=draw.choice([0.1, 0.3]),
            terminal_cache=draw.choice([4, 4096, 4096]),
            text_cache=draw.choice([4, 8, 4096]),
            text_cache_bytes=draw.choice([2_000, 4 * 1024 * 1024]),
        ),
        sites=sites,
        workers=workers,
        frames=tuple(frames),
        changes=tuple(sorted(changes, key=lambda change: change.time_s)),
        asks=tuple(asks),
        faults=tuple(
            draw_faults(
                draw,
                duration_s=duration_s,
                workers=[worker.name for worker in workers],
                sites=[site.name for site in sites],
                rate_hz=draw.choice([0.0, 0.1, 0.3, 0.8]),
            )
        ),
    )
    # Draws of its own, so that the other episodes are what they would be without it.
    relay = random.Random(f"{seed}/relay")
    if relay.random() < _RELAY_SHARE:
        plan = _as_relay(plan, relay)
    return _with_key_frames(plan, random.Random(f"{seed}/key frames"))


def _as_relay(plan: EpisodePlan, draw: random.Random) -> EpisodePlan:
    """The plan with one site, hard questions that clients wait for, and faults that lead from worker to worker."""
    plan = without(plan, sites=plan.sites[:1])
    asks = [
        _ask(draw, camera, draw.choice(CLIENTS), f"r{index}", draw.uniform(0.0, plan.duration_s), LONGEST_DEADLINE_S)
        for camera in plan.sites[0].cameras
        for index in range(_RELAY_ASKS)
    ]
    batch_s = draw.choice([0.5, 3.0])
    return replace(
        plan,
        keepalive_s=30.0,
        easy_share=0.1,
        edge=replace(plan.edge, attempts=6),
        worker=replace(plan.worker, capacity_frames=1024),
        batch_tokens=math.inf,
        workers=tuple(WorkerPlan(f"w{index}", batch_s, 0.002) for index in range(2)),
        asks=tuple(sorted(asks, key=lambda ask: ask.time_s)),
        faults=tuple(draw_relay(draw, duration_s=plan.duration_s)),
    )


def _with_key_frames(plan: EpisodePlan, draw: random.Random) -> EpisodePlan:
    """The plan with key frames at some of its edges, and now and then with what breaks them."""
    sites = tuple(
        replace(site, key_every=draw.choice([2, 4, 12])) if draw.random() < _KEY_SITE_SHARE else site
        for site in plan.sites
    )
    if sites == plan.sites:
        return plan
    worker = replace(plan.worker, key_frame_bytes=draw.choice([_FEW_KEY_BYTES, plan.worker.key_frame_bytes]))
    faults = plan.faults
    if draw.random() < 0.5:
        added = draw_key_faults(
            draw,
            duration_s=plan.duration_s,
            workers=[worker.name for worker in plan.workers],
            sites=[site.name for site in sites if site.key_every],
        )
        faults = tuple(sorted((*faults, *added), key=lambda fault: fault.start_s))
    return replace(plan, sites=sites, worker=worker, faults=faults)


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


def _draw_site(draw: random.Random, index: int) -> SitePlan:
    name = f"site{index}"
    cameras = tuple(f"cam{index}-{camera}" for camera in range(draw.randint(1, 3)))
    return SitePlan(
        name,
        cameras,
        draw.choice([THIN_KBPS, THIN_KBPS, 24.0, 64.0, 256.0, 1000.0]),
        tuple(_draw_question(draw, name, question_id, "0") for question_id in QUESTIONS),
        join_s=draw.choice([0.0, 0.4, 1.5, NEVER_S]),
        publishes=draw.random() < 0.8,
    )


def _draw_question(draw: random.Random, site: str, question_id: str, edition: str) -> Question:
    """A standing question; now and then it has the same text as that of another site."""
    whose = site if draw.random() < 0.7 else "all"
    return Question(
        site=site,
        question_id=question_id,
        text=question_text(whose, question_id, edition, length=draw.choice(_LENGTHS)),
        answer_type=draw.choice(_ANSWER_TYPES),
        deadline_ms=draw.choice(_DEADLINES_MS),
        risk=draw.choice([None, None, 0.02, 0.001]),
        set_by="settings" if edition == "0" else "operator",
    )


def _draw_change(draw: random.Random, site: SitePlan, frames: list[FramePlan]) -> ChangePlan:
    """An operator's word a moment after a frame was taken: another text or risk, other cameras, a new one, no more."""
    time_s = draw.choice(frames).time_s + draw.random()
    question_id = draw.choice((*QUESTIONS, ADDED))
    if draw.random() < 0.3:
        return ChangePlan(time_s, site.name, question_id, None)
    question = _draw_question(draw, site.name, question_id, f"{draw.randrange(1, 100)}")
    cameras = tuple(camera for camera in site.cameras if draw.random() < 0.7)
    if question_id == ADDED or draw.random() < 0.4:
        question = question.model_copy(update={"cameras": cameras})
    return ChangePlan(time_s, site.name, question_id, question)


def _draw_frames(draw: random.Random, site: str, camera: str, duration_s: float) -> list[FramePlan]:
    period_s = draw.choice([1.0, 2.0, 4.0, 10.0])
    questions = (*QUESTIONS[: draw.randint(1, len(QUESTIONS))], ADDED)
    frames = []
    time_s = draw.random()
    while time_s < duration_s:
        frames.append(FramePlan(time_s, site, camera, questions))
        time_s += period_s
    return frames


def _draw_asks(draw: random.Random, camera: str, frames_s: list[float], duration_s: float) -> list[AskPlan]:
    """Some are asked again a moment later, as after a lost connection, or long after their end.

    Clients choose from few ids, so that two of them, or one at two cameras, often have the same. Many ask as a frame is
    taken, so that their questions and standing ones wait for the uplink, or for the model, at once.
    """
    asks: list[AskPlan] = []
    ids = [(client, query_id) for client in CLIENTS for query_id in _QUERY_IDS]
    for client, query_id in draw.sample(ids, draw.randint(0, 6)):
        first_s = draw.uniform(0.0, duration_s)
        if draw.random() < 0.7:
            first_s = max(0.0, draw.choice(frames_s) + draw.uniform(-0.5, 0.5))
        deadline_s = draw.choice([3.0, 12.0, LONGEST_DEADLINE_S])
        first = _ask(draw, camera, client, query_id, first_s, deadline_s)
        asks.append(first)
        for again_s in draw.choice([(), (), (2.0,), (deadline_s + 5.0,)]):
            # What is asked under an id that is known counts for nothing, whatever it says.
            other = _ask(draw, camera, client, query_id, first_s + again_s, deadline_s)
            asks.append(other if draw.random() < 0.3 else replace(first, time_s=other.time_s))
    return [ask for ask in asks if ask.time_s < duration_s]


def _ask(draw: random.Random, camera: str, client: str, query_id: str, time_s: float, deadline_s: float) -> AskPlan:
    text = question_text(client, query_id, str(draw.randrange(100)), length=draw.choice(_LENGTHS))
    ask = Ask(
        query_id=query_id, text=text, answer_type=draw.choice(_ANSWER_TYPES), deadline_ms=round(1000 * deadline_s)
    )
    return AskPlan(time_s, camera, client, ask)
