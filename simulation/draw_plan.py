"""Draws episodes from seeds: small fleets, with work and faults for about a minute of virtual time."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import replace

from pipeline.protocol.frame_ring import RingSettings
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.store_settings import StorePolicy, StoreSettings
from schemas.messages import Ask, Question
from schemas.types import AnswerType
from simulation.change_gate import GatePlan
from simulation.faults import draw_faults, draw_key_faults, draw_relay, draw_store_faults
from simulation.plan import (
    CLIENTS,
    LONGEST_DEADLINE_S,
    QUERY_IDS,
    QUESTIONS,
    THIN_KBPS,
    AskPlan,
    ChangePlan,
    EpisodePlan,
    FramePlan,
    SitePlan,
    WorkerPlan,
    without,
)
from simulation.questions import question_text
from simulation.specs import NO_STORE
from simulation.uplink_budgets import BudgetPlan

NEVER_S = 1_000.0
"""A camera that takes no frame for an ad-hoc question alone."""
_ADDED = "q3"
"""A question that only an operator asks."""
_DEADLINES_MS = (1_500, 5_000, 15_000, 40_000, 40_000)
_LENGTHS = (0, 0, 80, 400)
"""Of texts: what is long costs more of a model's time."""
_ANSWER_TYPES = (AnswerType.TEXT, AnswerType.YES_NO, AnswerType.COUNT, AnswerType.WORD)
_FOREIGN = "stranger"
_RELAY_SHARE = 0.03
"""Episodes in which frames come back to a worker whose pass over them still runs; chance alone hardly ever does it."""
_RELAY_ASKS = 8
_BUDGET_SHARE = 0.05
"""Episodes whose sites have a budget of the uplink."""
_STORE_SHARE = 0.4
"""Episodes with edges that store frames."""
_KEY_SITE_SHARE = 0.4
"""Edges that use key frames."""
_GATE_SHARE = 0.25
"""Episodes whose edges have a change gate."""
_FEW_KEY_BYTES = 500
"""Room for two key frames, in a pool of up to nine cameras."""


def draw_plan(seed: int) -> EpisodePlan:
    """A small fleet of a few sites and workers, with work and faults for about a minute of virtual time.

    Args:
        seed: decides everything.
    """
    draw = random.Random(seed)
    duration_s = draw.uniform(20.0, 60.0)
    base_lease_s = draw.choice([1.0, 3.0])
    sites = tuple(_draw_site(draw, index) for index in range(draw.randint(1, 3)))
    workers = _draw_workers(draw)
    frames, asks, changes = _draw_workload(draw, sites, duration_s)
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
        edge=_draw_edge_settings(draw, base_lease_s),
        worker=_draw_worker_settings(draw, base_lease_s),
        sites=sites,
        workers=workers,
        frames=frames,
        changes=changes,
        asks=asks,
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
    plan = _with_key_frames(plan, random.Random(f"{seed}/key frames"))
    plan = _with_questions_of_the_past(plan, random.Random(f"{seed}/past"))
    plan = _with_store(plan, random.Random(f"{seed}/store"))
    plan = _with_gates(plan, random.Random(f"{seed}/gates"))
    budgets = random.Random(f"{seed}/budgets")
    return with_budgets(plan, budgets) if budgets.random() < _BUDGET_SHARE else plan


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


def with_budgets(plan: EpisodePlan, draw: random.Random) -> EpisodePlan:
    """The plan with a budget for each site, which it spends, on short days, with clocks of all kinds."""
    sites = tuple(
        replace(
            site,
            budget=BudgetPlan(
                day_bytes=draw.choice([8_000, 15_000, 30_000]),
                day_s=draw.choice([12.0, 20.0, 30.0]),
                clock_set_s=draw.choice([0.0, 0.0, 2.5, 7.0]),
            ),
        )
        for site in plan.sites
    )
    return replace(plan, sites=sites)


def _with_gates(plan: EpisodePlan, draw: random.Random) -> EpisodePlan:
    """The plan with a change gate at its edges, now and then."""
    if draw.random() >= _GATE_SHARE:
        return plan
    gates = [
        GatePlan(draw.choice([2, 4, 9, 100]), draw.choice([6.0, 20.0, 600.0]), draw.choice([1.0, 5.0, 15.0]))
        for _ in plan.sites
    ]
    return replace(plan, sites=tuple(replace(site, gate=gate) for site, gate in zip(plan.sites, gates, strict=True)))


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


def _with_store(plan: EpisodePlan, draw: random.Random) -> EpisodePlan:
    """The plan with frames stored at some of its edges, and times without a link."""
    if draw.random() >= _STORE_SHARE:
        return plan
    sites = tuple(replace(site, store=_draw_store(draw)) if draw.random() < 0.7 else site for site in plan.sites)
    storing = [site.name for site in sites if site.store != NO_STORE]
    if not storing:
        return plan
    added = draw_store_faults(draw, duration_s=plan.duration_s, sites=storing)
    faults = tuple(sorted((*plan.faults, *added), key=lambda fault: fault.start_s))
    return replace(plan, sites=sites, faults=faults)


def _draw_store(draw: random.Random) -> StoreSettings:
    return StoreSettings(
        policy=draw.choice([StorePolicy.NEWEST, StorePolicy.EVERY_NTH]),
        nth=draw.choice([1, 2]),
        newest_every_s=draw.choice([0.0, 3.0]),
        max_entries=draw.choice([2, 6]),
        max_bytes=draw.choice([1_500, 1_000_000]),
        max_age_s=draw.choice([20.0, 10_000.0]),
        offline_after_s=draw.choice([0.0, 0.5, 3.0]),
        least_deadline_s=draw.choice([5.0, 20.0]),
        under_way=draw.choice([1, 4]),
        retry_s=2.0,
    )


def _with_questions_of_the_past(plan: EpisodePlan, draw: random.Random) -> EpisodePlan:
    """The plan with clients that ask about frames that were taken before, and rings and workers that keep few."""
    sites = tuple(
        replace(site, ring=RingSettings(draw.choice([4.0, 15.0, 60.0]), draw.choice([4_000, 1_000_000])))
        for site in plan.sites
    )
    kept = draw.choice([0, 2, 4096, 4096])
    plan = replace(plan, sites=sites, worker=replace(plan.worker, kept_frames=kept))
    asks = list(plan.asks)
    for camera in (camera for site in sites for camera in site.cameras):
        for number in range(draw.choice([0, 0, 4, 10])):
            time_s = draw.uniform(0.0, plan.duration_s)
            asked = _ask(draw, camera, draw.choice(CLIENTS), f"p{number}", time_s, draw.choice([3.0, 12.0, 12.0]))
            if draw.random() < 0.5:
                asked = replace(asked, of_kept=draw.random() ** 0.5)
            else:
                message = asked.ask.model_copy(update={"ago_ms": draw.choice([0, 500, 2_000, 5_000, 20_000])})
                asked = replace(asked, ask=message)
            asks.append(asked)
            if draw.random() < 0.2:
                asks.append(replace(asked, time_s=min(plan.duration_s, time_s + 1.0)))
    return replace(plan, asks=tuple(sorted(asks, key=lambda ask: ask.time_s)))


def _draw_workers(draw: random.Random) -> tuple[WorkerPlan, ...]:
    hiccups = draw.choice([0.0, 0.0, 0.0, 0.2])
    batch_times_s = draw.choice([(0.02,), (0.5,), (3.0,), (3.0,), (0.02, 0.1, 0.5, 3.0)])  # machines alike, or not
    workers = tuple(
        WorkerPlan(f"w{index}", draw.choice(batch_times_s), draw.choice([0.002, 0.05]), hiccups=hiccups)
        for index in range(draw.choice([1, 2, 2, 2, 3, 5]))
    )
    if draw.random() < 0.1:
        workers += (WorkerPlan(_FOREIGN, 0.02, 0.002, foreign=True),)
    return workers


def _draw_edge_settings(draw: random.Random, base_lease_s: float) -> EdgeProtocolSettings:
    return EdgeProtocolSettings(
        base_lease_s=base_lease_s,
        attempts=draw.choice([3, 6]),
        max_frames_per_camera=draw.choice([2, 16]),
        terminal_cache=draw.choice([2, 1024]),
    )


def _draw_worker_settings(draw: random.Random, base_lease_s: float) -> WorkerProtocolSettings:
    return WorkerProtocolSettings(
        base_lease_s=base_lease_s,
        max_lease_s=draw.choice([2.0, 10.0]),
        capacity_frames=draw.choice([2, 8, 64, 1024]),
        finalise_margin_s=draw.choice([0.1, 0.3]),
        terminal_cache=draw.choice([4, 4096, 4096]),
        text_cache=draw.choice([4, 8, 4096]),
        text_cache_bytes=draw.choice([2_000, 4 * 1024 * 1024]),
    )


def _draw_workload(
    draw: random.Random, sites: Iterable[SitePlan], duration_s: float
) -> tuple[tuple[FramePlan, ...], tuple[AskPlan, ...], tuple[ChangePlan, ...]]:
    """Frames, clients' questions, and operators' changes in time order."""
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
    return tuple(frames), tuple(asks), tuple(sorted(changes, key=lambda change: change.time_s))


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
    question_id = draw.choice((*QUESTIONS, _ADDED))
    if draw.random() < 0.3:
        return ChangePlan(time_s, site.name, question_id, None)
    question = _draw_question(draw, site.name, question_id, f"{draw.randrange(1, 100)}")
    cameras = tuple(camera for camera in site.cameras if draw.random() < 0.7)
    if question_id == _ADDED or draw.random() < 0.4:
        question = question.model_copy(update={"cameras": cameras})
    return ChangePlan(time_s, site.name, question_id, question)


def _draw_frames(draw: random.Random, site: str, camera: str, duration_s: float) -> list[FramePlan]:
    period_s = draw.choice([1.0, 2.0, 4.0, 10.0])
    questions = (*QUESTIONS[: draw.randint(1, len(QUESTIONS))], _ADDED)
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
    ids = [(client, query_id) for client in CLIENTS for query_id in QUERY_IDS]
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
