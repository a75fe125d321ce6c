"""When a condition begins and when it is over, and that none flaps."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.health import machine as machine_module
from pipeline.health.conditions import (
    EXPLANATIONS,
    HealthKind,
    Sign,
    advice_of,
    severity_of,
    text_of,
    worst_first,
)
from pipeline.health.machine import BEGINS_PER_HOUR, HealthMachine


def sign(bad: bool | None, name: str = "north") -> Sign:
    return Sign(HealthKind.SITE_OFFLINE, "site", name, bad)


def changes(machine: HealthMachine, *steps: tuple[float, bool | None]) -> str:
    found = ""
    for now_s, bad in steps:
        made = machine.observe([sign(bad)], now_s)
        found += "".join("+" if change.begins else "-" for change in made) or "."
    return found


def test_a_condition_must_last_before_it_begins_and_before_it_ends() -> None:
    machine = HealthMachine(30.0)
    steps = [(0, True), (29, True), (30, True), (60, True), (61, False), (80, True), (81, False), (110, False)]
    assert changes(machine, *steps, (111, False)) == "..+.....-"
    assert machine.going_on() == []


def test_between_the_thresholds_it_stays_as_it_was() -> None:
    machine = HealthMachine(30.0)
    steps: list[tuple[float, bool | None]] = [(0, None), (40, None), (50, True), (60, None), (80, None), (200, None)]
    assert changes(machine, *steps) == "....+."
    assert changes(machine, (201, False), (220, None), (231, None)) == "..-"


def test_what_is_not_looked_at_any_more_is_over() -> None:
    machine = HealthMachine(30.0)
    machine.observe([sign(True)], 0)
    machine.observe([sign(True)], 30)
    assert machine.observe([], 31) == []
    (over,) = machine.observe([], 61)
    assert (over.begins, over.sign) == (False, sign(True))


def test_one_that_comes_again_must_be_gone_for_longer() -> None:
    machine = HealthMachine(10.0)
    assert changes(machine, (0, True), (10, True), (11, False), (21, False)) == ".+.-"
    assert changes(machine, (30, True), (40, True), (41, False), (51, False), (80, False), (81, False)) == ".+...-"
    assert changes(machine, (90, True), (100, True), (101, False), (260, False), (261, False)) == ".+..-"
    hour = 100 + 3_600
    assert changes(machine, (hour, True), (hour + 10, True), (hour + 11, False), (hour + 21, False)) == ".+.-"


@given(seed=st.integers(0, 2**32), longest_s=st.integers(1, 600))
def test_none_flaps_whatever_the_signs_do(seed: int, longest_s: int) -> None:
    draw, machine, begun = random.Random(seed), HealthMachine(30.0), []
    now_s, bad = 0.0, True
    while now_s < 20_000:
        bad = draw.choice((True, False, not bad))
        now_s += draw.uniform(0.5, longest_s)
        begun += [now_s for change in machine.observe([sign(bad)], now_s) if change.begins]
    most = max((sum(start <= other < start + 3_600 for other in begun) for start in begun), default=0)
    assert most <= BEGINS_PER_HOUR


def test_counts_are_zero_for_what_was_looked_at() -> None:
    machine = HealthMachine(0.0)
    machine.observe([sign(False)], 0)
    assert machine.counts() == {"site-offline": 0}
    machine.observe([sign(True), sign(True, "south")], 1)
    assert machine.counts() == {"site-offline": 2}


def test_one_that_went_on_before_begins_no_second_time() -> None:
    machine = HealthMachine(30.0)
    machine.resume(sign(True), 0)
    assert changes(machine, (1, True), (40, True), (41, False), (71, False)) == "...-"


def test_the_number_of_conditions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "MAX_STATES", 3)
    machine = HealthMachine(0.0)
    machine.observe([sign(True, f"s{number}") for number in range(10)], 0)
    assert len(machine) == 3
    machine.observe([], 1)
    machine.observe([], 4_000)
    assert len(machine) == 0


@pytest.mark.parametrize("kind", HealthKind)
def test_every_condition_says_what_it_is_and_what_to_do(kind: HealthKind) -> None:
    shown = Sign(kind, "site", "north", part="gate", detail="3 of 4")
    assert kind in EXPLANATIONS
    assert "site north" in text_of(shown)
    assert "{" not in text_of(shown)
    assert not advice_of(shown).endswith(".")


def test_one_of_a_newer_version_is_shown_all_the_same() -> None:
    shown = Sign("lens-frozen", "site", "north")
    assert (text_of(shown), severity_of(shown)) == (
        "site north reports a condition that this version does not know",
        "warning",
    )


def test_the_worst_comes_first() -> None:
    signs = [Sign(kind, "site", "north") for kind in ("clock-wrong", "site-offline", "camera-stalled")]
    assert [one.kind for one in worst_first(signs)] == ["site-offline", "camera-stalled", "clock-wrong"]
