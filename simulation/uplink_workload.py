"""What thin uplinks compete for in :mod:`simulation.scheduler_comparison`: cameras, questions, latents and a model.

Cameras differ in the number of their questions, their deadlines, the size of their latents, how soon their answers are
safe, and their priority. Everything follows from the seed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import partial

from pipeline.protocol.effects import AskedQuery, InferencePass, PassAnswer
from simulation.clock import VirtualClock
from simulation.content import LADDER, LATENTS
from simulation.edge_actor import EdgeActor
from simulation.questions import ad_hoc, standing

_INTERVALS_S = (1.0, 2.0, 4.0)
DEADLINES_S = (2.0, 4.0, 8.0, 16.0)
ASK_DEADLINE_S = 8.0
_BYTES_A_LATENT = (3, 8, 20)
_EVIDENCE = (0.7, 1.0, 1.5, 2.2)
"""What one rung adds to what is known of an answer, as the mean of a unit normal: at 2.2 the base prefix nearly always
makes it safe, at 0.7 hardly ever."""
_PRIORITIES = (0.5, 1.0, 1.0, 1.0, 3.0)
_ASKS_HZ = (0.0, 0.0, 0.05)


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """What is asked of whom.

    Attributes:
        sites: sites, each with an uplink of its own.
        cameras_per_site: cameras that share it.
        uplink_share: rate of each uplink, as a share of what its site would send if there were no limit.
        duration_s: virtual time in which frames are captured.
        seed: decides the workload.
    """

    sites: int = 4
    cameras_per_site: int = 12
    uplink_share: float = 0.6
    duration_s: float = 120.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class WorkloadCamera:
    """What one camera is like.

    Attributes:
        name: its name.
        interval_s: time between two frames.
        phase_s: time of the first one.
        questions: standing questions with their deadlines in seconds.
        bytes_a_latent: size of a latent.
        evidence: what one rung adds to what is known of an answer.
        priority: its weight on the uplink.
        asks_at_s: times of ad-hoc questions.
    """

    name: str
    interval_s: float
    phase_s: float
    questions: tuple[tuple[str, float], ...]
    bytes_a_latent: int
    evidence: float
    priority: float
    asks_at_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _SizedLatent:
    """A latent of as many bytes as its camera's have."""

    bytes_a_latent: int
    latent_count: int = LATENTS

    def payload(self, start: int, stop: int) -> bytes:
        return bytes((stop - start) * self.bytes_a_latent)


class ScoredModel:
    """Answers with honest scores: each rung adds evidence on whether the answer is the whole latent's.

    The evidence is a normal variable whose sign is the truth; the score is the posterior of the better guess. What a
    query meets follows from its id alone, so every order and worker sees the same.

    Args:
        seed: of the workload.
        evidence: strength of a rung by camera.
    """

    def __init__(self, seed: int, evidence: dict[str, float]) -> None:
        self._seed = seed
        self._evidence = evidence

    def answer(self, inference_pass: InferencePass) -> list[PassAnswer]:
        """Answers to every query of a pass."""
        rungs = sum(inference_pass.stop >= rung for rung in LADDER)
        answers = []
        for query in inference_pass.queries:
            draw = random.Random(f"{self._seed}/{query.query_id}")
            strength = self._evidence[inference_pass.camera]
            truth = draw.choice((-1.0, 1.0))
            log_odds = sum(2 * strength * draw.gauss(truth * strength, 1.0) for _ in range(rungs))
            score = 1.0 / (1.0 + math.exp(-abs(log_odds)))
            answers.append(PassAnswer(query.query_id, "yes" if log_odds > 0 else "no", score))
        return answers


def draw_sites(plan: ComparisonPlan) -> list[list[WorkloadCamera]]:
    """The cameras of each site."""
    draw = random.Random(plan.seed)
    return [
        [_camera(draw, f"cam{site}-{index}", plan.duration_s) for index in range(plan.cameras_per_site)]
        for site in range(plan.sites)
    ]


def _camera(draw: random.Random, name: str, duration_s: float) -> WorkloadCamera:
    interval_s = draw.choice(_INTERVALS_S)
    questions = tuple((f"q{index}", draw.choice(DEADLINES_S)) for index in range(draw.randint(1, 4)))
    rate_hz = draw.choice(_ASKS_HZ)
    asks = [draw.random() * duration_s for _ in range(round(rate_hz * duration_s))]
    return WorkloadCamera(
        name,
        interval_s,
        draw.random() * interval_s,
        questions,
        draw.choice(_BYTES_A_LATENT),
        draw.choice(_EVIDENCE),
        draw.choice(_PRIORITIES),
        tuple(sorted(asks)),
    )


def schedule(clock: VirtualClock, edge: EdgeActor, camera: WorkloadCamera, duration_s: float) -> None:
    """Let a camera capture its frames and be asked its questions."""
    latent = _SizedLatent(camera.bytes_a_latent)

    def capture() -> None:
        now_s = clock.now_s
        queries = [
            AskedQuery(standing(edge.site, question), now_s + deadline_s) for question, deadline_s in camera.questions
        ]
        edge.capture(camera.name, queries, latent=latent)

    def ask(index: int) -> None:
        # No worker has heard of the question, so one of them will ask for its text.
        query = AskedQuery(ad_hoc("client", f"a-{camera.name}-{index}"), clock.now_s + ASK_DEADLINE_S)
        edge.capture(camera.name, [query], latent=latent)

    for slot in range(math.ceil((duration_s - camera.phase_s) / camera.interval_s)):
        clock.at(camera.phase_s + slot * camera.interval_s, capture)
    for index, time_s in enumerate(camera.asks_at_s):
        clock.at(time_s, partial(ask, index))
