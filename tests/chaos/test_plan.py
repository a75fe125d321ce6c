"""The plan of a run: all of it follows from the seed."""

from __future__ import annotations

from collections import Counter

import pytest

from latentbus.chaos.plan import DURATIONS_S, ROLES, FaultKind, make_plan


def test_a_seed_gives_the_same_plan_again_and_another_gives_another() -> None:
    plan = make_plan(7, faults=40, questions=2000)

    assert plan == make_plan(7, faults=40, questions=2000)
    assert plan != make_plan(8, faults=40, questions=2000)


def test_every_kind_comes_up_equally_often_and_is_spread_over_the_questions() -> None:
    plan = make_plan(7, faults=40, questions=2000)

    assert Counter(fault.kind for fault in plan) == dict.fromkeys(FaultKind, 5)
    due = [fault.after_asked for fault in plan]
    assert due == sorted(due)
    assert due[0] > 0
    assert due[-1] < 2000
    for fault in plan:
        shortest_s, longest_s = DURATIONS_S[fault.kind]
        assert shortest_s <= fault.duration_s <= longest_s
        assert fault.role in ROLES[fault.kind]


@pytest.mark.parametrize("faults", [0, 1, 3, 9])
def test_a_plan_has_as_many_faults_as_were_asked_for(faults: int) -> None:
    kinds = (FaultKind.KILL_WORKER, FaultKind.CUT_LINK)

    plan = make_plan(1, faults=faults, questions=100, kinds=kinds)

    assert [fault.number for fault in plan] == list(range(faults))
    assert {fault.kind for fault in plan} <= set(kinds)


def test_links_of_both_roles_are_hit() -> None:
    plan = make_plan(3, faults=80, questions=1000)

    hit = {(fault.kind, fault.role) for fault in plan}
    assert hit == {(kind, role) for kind, roles in ROLES.items() for role in roles}
