"""The change gate in the simulator: what is held back is judged, and what breaks the gate is found."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from pipeline.protocol.change_gate import Renewal, Sifted
from pipeline.protocol.effects import AskedQuery, Decision
from pipeline.protocol.renewals import same_as
from schemas.identity import QuestionContent, owner_of, standing_query_id
from schemas.messages import QueryOutcome, Question
from schemas.types import AnswerType, FrameId, Outcome
from simulation.change_gate import HELD_WRONGLY, NOT_RENEWED, RENEWED_WRONGLY, GateLedger, GatePlan, SceneRule
from simulation.draw_plan import draw_plan
from simulation.episode import Episode
from simulation.mutations_of_gate import GATE_MUTATIONS
from simulation.plan import EpisodePlan, FramePlan, WorkerPlan

CAMERA = "cam0-0"


def _plan(gate: GatePlan | None) -> EpisodePlan:
    """One site with one camera, a frame a second for a minute, wide links, and a worker that is quick and certain."""
    plan = draw_plan(7_000_000)
    site = replace(
        plan.sites[0],
        cameras=(CAMERA,),
        uplink_kbps=1000.0,
        gate=gate,
        questions=tuple(
            Question(site="site0", question_id=name, text=f"{name}?", answer_type=kind, deadline_ms=5_000,
                     set_by="settings")
            for name, kind in (("q0", AnswerType.YES_NO), ("q1", AnswerType.WORD))
        ),
    )  # fmt: skip
    return replace(
        plan,
        duration_s=60.0,
        sites=(site,),
        easy_share=1.0,
        batch_tokens=math.inf,
        workers=(WorkerPlan("w0", 0.02, 0.002),),
        worker=replace(plan.worker, capacity_frames=1024),
        frames=tuple(FramePlan(float(second), "site0", CAMERA, ("q0", "q1")) for second in range(2, 60)),
        changes=(),
        asks=(),
        faults=(),
    )


def test_a_scene_that_changes_is_asked_once_a_change_and_renewed_in_between() -> None:
    report = Episode(_plan(GatePlan(20, 600.0, 5.0))).run()
    assert report.violations == []
    counters = report.counters
    # 58 frames, three scenes; one question is held, nothing is proved for the other one.
    assert counters["gate_open"] == 58
    assert counters["gate_first"] + counters["gate_changed"] == 3
    assert counters["gate_held"] == 55
    assert counters["renewals"] == report.outcomes["unchanged"] == counters["gate_renewed"] > 6
    assert counters["renewals_unknown"] == 0


def test_without_a_gate_every_frame_is_asked() -> None:
    report = Episode(_plan(None)).run()
    assert report.violations == []
    assert report.outcomes == {"answered": 116}


def test_under_faults_what_is_held_back_is_right() -> None:
    report = None
    for seed in range(300):
        plan = draw_plan(seed)
        if plan.faults and any(site.gate for site in plan.sites):
            report = Episode(plan).run()
            assert report.violations == [], seed
            if report.counters["gate_held"] and report.counters["renewals"]:
                break
    assert report is not None
    assert report.counters["renewals"], "no episode has renewed anything"


@pytest.mark.parametrize("name", [mutation.name for mutation in GATE_MUTATIONS])
def test_a_broken_gate_is_found(name: str) -> None:
    (mutation,) = [mutation for mutation in GATE_MUTATIONS if mutation.name == name]
    plans = (plan for plan in map(draw_plan, range(7_000_000, 7_002_000)) if any(site.gate for site in plan.sites))
    with mutation.applied():
        assert any(Episode(plan, stop_at_first=True).run().violations for plan in itertools.islice(plans, 120))


class Problems(list[tuple[str, str]]):
    def __call__(self, rule: str, _subject: str, problem: str) -> None:
        self.append((rule, problem))


def _ledger() -> tuple[GateLedger, Problems]:
    problems = Problems()
    return GateLedger("site0", GatePlan(1, 60.0, 10.0), problems), problems


CAR = QuestionContent(owner_of("site", "site0"), "car", "car?", AnswerType.YES_NO, (), 0.005)
ASKED = AskedQuery(CAR, 1e9)


def _decision(frame: FrameId, outcome: Outcome, publish: QueryOutcome | None = None) -> Decision:
    return Decision(CAMERA, frame, CAR.query_id(CAMERA, frame), CAR, outcome, publish=publish)


@pytest.mark.parametrize(
    ("outcome", "query", "scene", "now_s", "what"),
    [
        (Outcome.ANSWERED, ASKED, 1, 5.0, ""),
        (Outcome.DEGRADED, ASKED, 1, 5.0, "not safe"),
        (Outcome.EXPIRED, ASKED, 1, 5.0, "never answered"),
        (None, ASKED, 1, 5.0, "under way"),
        (Outcome.ANSWERED, ASKED, 2, 5.0, "another scene"),
        (Outcome.ANSWERED, ASKED, 1, 61.0, "too old"),
        (Outcome.ANSWERED, AskedQuery(replace(CAR, text="van?"), 1e9), 1, 5.0, "another text"),
        (Outcome.ANSWERED, AskedQuery(replace(CAR, risk=0.02), 1e9), 1, 5.0, "left a risk of 0.02"),
        (Outcome.ANSWERED, AskedQuery(replace(CAR, owner="client/me"), 1e9), 1, 5.0, "a client's"),
    ],
)
def test_what_must_be_asked_and_is_held_is_found(
    outcome: Outcome | None, query: AskedQuery, scene: int, now_s: float, what: str
) -> None:
    ledger, problems = _ledger()
    ledger.taken(CAMERA, 1, [ASKED], Sifted([ASKED]), FrameId(1, 0), 0.0)
    if outcome is not None:
        ledger.decided(_decision(FrameId(1, 0), outcome), now_s)
    ledger.taken(CAMERA, scene, [query], Sifted([], held=["car"]), None, now_s)
    found = [problem for rule, problem in problems if rule == HELD_WRONGLY]
    assert any(what in problem for problem in found) if what else problems == []


def test_a_silent_gate_and_a_wrong_renewal_are_found() -> None:
    ledger, problems = _ledger()
    ledger.taken(CAMERA, 1, [ASKED], Sifted([ASKED]), FrameId(1, 0), 0.0)
    ledger.decided(_decision(FrameId(1, 0), Outcome.ANSWERED), 0.5)
    ledger.taken(CAMERA, 1, [ASKED], Sifted([], held=["car"]), None, 11.0)
    assert [rule for rule, _ in problems] == [NOT_RENEWED]
    renewal = Renewal(ASKED, FrameId(1, 0), 12.0)
    ledger.taken(CAMERA, 1, [ASKED], Sifted([], [renewal], ["car"]), FrameId(1, 1), 12.0)
    said = QueryOutcome(
        query_id=standing_query_id(CAMERA, FrameId(1, 1), "car"), owner=CAR.owner, camera=CAMERA, frame=FrameId(1, 1),
        question_id="car", outcome=Outcome.UNCHANGED, age_ms=12_000, reason=same_as(FrameId(1, 0)),
    )  # fmt: skip
    ledger.decided(_decision(FrameId(1, 1), Outcome.UNCHANGED, said), 12.0)
    assert len(problems) == 1
    for wrong in ({"age_ms": 11_000}, {"reason": same_as(FrameId(1, 5))}):
        ledger.decided(_decision(FrameId(1, 1), Outcome.UNCHANGED, said.model_copy(update=wrong)), 12.0)
    assert [rule for rule, _ in problems[1:]] == [RENEWED_WRONGLY] * 2


def test_a_frame_of_somebody_elses_making_resembles_nothing() -> None:
    assert SceneRule().distance(-1, -1) == 1.0
    assert SceneRule().limit(AnswerType.WORD, 1.0) is None


@pytest.mark.parametrize("number", [100_000_006, 108_000_015, 108_000_022])
def test_renewals_wait_while_an_edge_has_no_link(number: int) -> None:
    assert Episode(draw_plan(number)).run().violations == []
