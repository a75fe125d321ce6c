"""A small fleet at three times its pool's capacity: what the rule promises, and what happens without it."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from schemas.errors import ConfigError
from simulation.fleet import FleetPlan
from simulation.overload import PHASES, OverloadPlan, OverloadSimulation, expected_passes

FLEET = FleetPlan(cameras=24, workers=1, cameras_per_site=8, questions=2, frame_ms=40.0, deadline_s=8.0, lost_share=0.0)


@cache
def figures(seed: int, *, rule: bool) -> dict[str, Any]:
    fleet = FleetPlan(**{name: getattr(FLEET, name) for name in FLEET.__slots__} | {"seed": seed})
    return OverloadSimulation(OverloadPlan(fleet, calm_s=30.0, peak_s=60.0, after_s=60.0, rule=rule)).run()


@pytest.mark.parametrize("seed", [1, 2])
def test_at_three_times_the_capacity_the_fleet_degrades_by_rule_and_comes_back(seed: int) -> None:
    got = figures(seed, rule=True)
    assert got["load"]["peak"] == 3.0
    for phase in PHASES:
        ad_hoc = got["ad_hoc"][phase]
        assert ad_hoc["asked"] >= 10
        assert ad_hoc["answered_in_time"] >= 0.99 * ad_hoc["asked"], f"ad-hoc questions keep their deadlines {phase}"
        assert ad_hoc["shed"] == ad_hoc["superseded"] == 0
    standing = got["standing"]
    assert standing["before"]["answered_of_asked"] >= 0.99
    assert standing["peak"]["shed"] > 0.5 * standing["peak"]["wanted"], "standing questions are shed"
    assert standing["peak"]["answered_of_asked"] >= 0.75, "what is still asked is answered"
    assert standing["peak"]["answered_per_s"] >= 0.9 * standing["before"]["answered_per_s"], "the pool stays at work"
    assert got["recovery_s"] is not None
    assert got["recovery_s"] <= 45.0
    assert got["standing_share"]["peak"] < 0.6
    # Memory: no more than the rule admits. Half of the deadline would be 8 s of passes at about 24 a second.
    assert got["most_frames_at_a_worker"]["peak"] <= 100
    assert got["most_frames_and_messages_at_an_edge"]["peak"] <= 60
    assert got["undecided"] == 0


def test_without_the_rule_ad_hoc_questions_drown_with_the_others() -> None:
    on, off = figures(1, rule=True), figures(1, rule=False)
    assert off["ad_hoc"]["peak"]["answered_of_asked"] < 0.5
    assert off["standing"]["peak"]["answered_per_s"] < 0.5 * on["standing"]["peak"]["answered_per_s"]
    assert off["most_frames_at_a_worker"]["peak"] > on["most_frames_at_a_worker"]["peak"]
    assert off["standing_share"] == dict.fromkeys(PHASES, 1.0)


def test_a_plan_replays_to_the_same_figures() -> None:
    figures.cache_clear()
    plan = OverloadPlan(FLEET, calm_s=10.0, peak_s=10.0, after_s=10.0)
    assert OverloadSimulation(plan).run() == OverloadSimulation(plan).run()


def test_passes_follow_from_what_the_queries_need() -> None:
    # 80 % need the base prefix; the others one of three longer ones: 1 + 0.2 + 0.2 * 2/3 + 0.2 * 1/3.
    assert expected_passes(1, 1) == pytest.approx(1.4, abs=0.05)
    assert expected_passes(1, 3) > expected_passes(1, 1)


@pytest.mark.parametrize("change", [{"peak_load": 0.5}, {"calm_load": 1.5}, {"ad_hoc_share": 0.5}, {"after_s": 1.0}])
def test_what_is_no_overload_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        OverloadSimulation(OverloadPlan(FLEET, **change))  # type: ignore[arg-type]
