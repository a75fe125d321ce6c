"""The budget of the uplink in the simulator: it holds over crashes, freezes, cuts and clocks that begin in 1970."""

from __future__ import annotations

import random

import pytest

from simulation.draw_plan import draw_plan, with_budgets
from simulation.episode import Episode, EpisodeReport
from simulation.mutation import Mutation
from simulation.mutations_of_budgets import BUDGET_MUTATIONS
from simulation.uplink_budgets import OVERSPENT

SEEDS = range(1, 25)


def play(seed: int) -> tuple[EpisodeReport, Episode]:
    episode = Episode(with_budgets(draw_plan(seed), random.Random(f"{seed}/b")), stop_at_first=True)
    return episode.run(), episode


def test_budgets_hold_and_no_other_rule_breaks_for_it() -> None:
    spent = 0
    for seed in SEEDS:
        report, episode = play(seed)
        assert report.violations == [], seed
        assert not report.healthy
        spent += any(edge.session.budget.skipped.total() for edge in episode.edges.values())
    assert spent >= len(SEEDS) // 4


@pytest.mark.parametrize("mutation", BUDGET_MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_fault_in_it_is_noticed(mutation: Mutation) -> None:
    with mutation.applied():
        rules = (violation.rule for seed in range(1, 60) for violation in play(seed)[0].violations)
        assert OVERSPENT in rules
