"""Budgets of a day and a month: what is left out near their end, what the clock may do, and what a power cut costs."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.calendar_periods import DAY_S, Days, Months, Period
from pipeline.protocol.ports import Notice
from pipeline.protocol.uplink_budget import (
    AD_HOC_ONLY_FROM,
    LEAST_SHARE,
    LOOK_S,
    SPENT_FROM,
    STRETCH_FROM,
    BudgetSettings,
    StoreSpending,
    UplinkBudget,
)
from schemas.types import UplinkStage

DAY_BYTES = 1_000_000
SETTINGS = BudgetSettings(day_bytes=DAY_BYTES, largest_message_bytes=1_000, step_bytes=1_000)
CAMERA = "gate"


def at(text: str) -> float:
    return dt.datetime.fromisoformat(f"{text}+00:00").timestamp()


class Device:
    """A device with a clock that somebody may set, and its disk."""

    def __init__(self, settings: BudgetSettings = SETTINGS, now: str = "2026-11-30 00:00") -> None:
        self.settings = settings
        self.utc_s = at(now)
        self.uptime_s = 0.0
        self.disk: StoreSpending | None = None
        self.notices: list[Notice] = []
        self.start()

    def start(self) -> None:
        """A process starts with what is on disk; nothing is said about the one before."""
        self.budget = UplinkBudget(self.settings, self.disk)
        self.look()

    def look(self) -> None:
        self.budget.wall_clock(self.utc_s, self.uptime_s)
        self.take()

    def stage(self) -> UplinkStage:
        return self.budget.stage

    def is_closed(self) -> bool:
        return self.budget.is_closed

    def take(self) -> None:
        for output in self.budget.take_outputs():
            if isinstance(output, Notice):
                self.notices.append(output)
            else:
                self.disk = output

    def pass_s(self, seconds: float) -> None:
        self.utc_s += seconds
        self.uptime_s += seconds
        self.look()

    def set(self, now: str) -> None:
        """Somebody sets the clock; no time passes."""
        self.utc_s = at(now)
        self.look()

    def spend(self, wire_bytes: int) -> None:
        self.budget.charge(wire_bytes)
        self.take()

    @property
    def spent_bytes(self) -> int:
        return self.budget.states()["day"].spent_bytes


def test_without_a_budget_everything_is_allowed_and_nothing_is_said() -> None:
    device = Device(BudgetSettings())
    device.spend(10**12)
    device.pass_s(DAY_S)
    assert (device.stage(), device.budget.share, device.is_closed()) == (UplinkStage.NORMAL, 1.0, False)
    assert device.budget.takes(CAMERA)
    assert device.budget.refusal() is None
    assert device.disk is None
    assert device.notices == []


def test_near_its_end_a_budget_stretches_then_keeps_the_rest_for_ad_hoc_then_refuses_then_closes() -> None:
    device = Device()
    seen: list[tuple[UplinkStage, bool]] = []
    while not device.is_closed():
        state = (device.stage(), device.budget.refusal() is not None)
        if state not in seen:
            seen.append(state)
        device.spend(1_000)
    assert seen == [
        (UplinkStage.NORMAL, False),
        (UplinkStage.STRETCHED, False),
        (UplinkStage.AD_HOC_ONLY, False),
        (UplinkStage.SPENT, True),
    ]
    assert DAY_BYTES - 1_000 <= device.spent_bytes <= DAY_BYTES
    assert [notice.level for notice in device.notices] == ["warning"] * 3  # one line for each step
    assert device.notices[-1].context["day_ends"] == "2026-12-01 00:00 UTC"
    assert device.budget.refusal() == (
        "the uplink's budget of this day is spent; the next one begins 2026-12-01 00:00 UTC"
    )
    device.look()
    device.pass_s(DAY_S)
    assert device.stage() is UplinkStage.NORMAL
    assert not device.is_closed()
    assert [notice.level for notice in device.notices] == ["warning"] * 3 + ["info"]


@pytest.mark.parametrize(
    ("spent", "hour", "share"),
    [
        (STRETCH_FROM - 0.01, 1, 1.0),  # enough is left to let it be
        (0.8, 0, 0.1 / 0.9),
        (0.8, 12, 0.1 / 0.9 / 0.5),
        (0.8, 23, 1.0),  # the rest of the day is shorter still
        (0.895, 0, LEAST_SHARE),
        (AD_HOC_ONLY_FROM, 23, 0.0),
        (SPENT_FROM, 23, 0.0),
    ],
)
def test_intervals_grow_so_that_the_rest_lasts(spent: float, hour: int, share: float) -> None:
    device = Device(now=f"2026-11-30 {hour:02}:00")
    device.spend(round(spent * DAY_BYTES))
    assert device.budget.share == pytest.approx(share)
    slots = 1_000
    taken = sum(device.budget.takes(CAMERA) for _ in range(slots))
    assert taken == pytest.approx(share * slots, abs=1)
    assert device.budget.skipped[CAMERA] == slots - taken


def test_steady_standing_questions_last_until_the_end_of_the_day() -> None:
    """Twice what a day allows: the intervals grow, and standing questions are still asked in its last hour."""
    device = Device()
    per_slot = 2 * DAY_BYTES / DAY_S * 60
    last_s = 0.0
    for _ in range(24 * 60):
        device.pass_s(60)
        if device.budget.takes(CAMERA):
            device.spend(round(per_slot))
            last_s = device.uptime_s
    assert last_s > 23 * 3600
    assert device.spent_bytes <= AD_HOC_ONLY_FROM * DAY_BYTES + per_slot


def test_a_stage_does_not_come_and_go() -> None:
    """Just at the pace of the day: every change would be a line in the log and a status on the uplink."""
    device = Device(now="2026-11-30 18:00")
    device.spend(round(0.76 * DAY_BYTES))
    for _ in range(5 * 60):
        device.spend(330 if device.uptime_s % 600 < 300 else 0)
        device.pass_s(60)
    assert len(device.notices) <= 2


def test_the_worse_of_two_budgets_counts_and_says_until_when() -> None:
    settings = BudgetSettings(DAY_BYTES, 2 * DAY_BYTES, month_begins=15, largest_message_bytes=1_000)
    device = Device(settings, "2026-12-10 00:00")
    for _ in range(3):
        device.spend(round(0.6 * DAY_BYTES))
        device.pass_s(DAY_S)
    assert device.stage() is UplinkStage.AD_HOC_ONLY
    device.spend(round(0.2 * DAY_BYTES))
    assert "of this month is spent; the next one begins 2026-12-15 00:00 UTC" in str(device.budget.refusal())
    device.pass_s(DAY_S)
    assert device.stage() is UplinkStage.SPENT
    device.pass_s(DAY_S)
    assert device.stage() is UplinkStage.NORMAL


# ---- restarts and power cuts -----------------------------------------------------------------------------------------


def test_a_restart_forgets_nothing_and_an_orderly_one_counts_nothing_twice() -> None:
    device = Device()
    for _ in range(100):
        device.spend(777)
    device.budget.close()
    device.take()
    device.start()
    assert device.spent_bytes == 77_700


@given(spent=st.lists(st.integers(1, 400), max_size=200))
def test_a_power_cut_at_any_moment_forgets_nothing_and_counts_a_step_twice_at_most(spent: list[int]) -> None:
    device = Device()
    for wire_bytes in spent:
        device.spend(wire_bytes)
    total = sum(spent)
    device.start()
    assert total <= device.spent_bytes <= total + SETTINGS.step_bytes


def test_a_disk_is_written_once_a_step_not_once_a_message() -> None:
    device = Device()
    writes = 0
    for _ in range(1_000):
        device.budget.charge(100)
        writes += sum(isinstance(output, StoreSpending) for output in device.budget.take_outputs())
    assert 100_000 / SETTINGS.step_bytes <= writes <= 2 * 100_000 / SETTINGS.step_bytes + 2


# ---- the clock -------------------------------------------------------------------------------------------------------


def test_days_are_those_of_utc_and_months_begin_on_their_day() -> None:
    assert Days().number(at("2026-11-30 23:59")) + 1 == Days().number(at("2026-12-01 00:00"))
    months = Months(15)
    assert months.number(at("2026-12-14 23:59")) + 1 == months.number(at("2026-12-15 00:00"))
    assert months.begins_s(months.number(at("2027-01-14 12:00"))) == at("2026-12-15 00:00")
    assert Months().begins_s(Months().number(at("2026-12-31 12:00")) + 1) == at("2027-01-01 00:00")
    for nonsense_s in (-1e30, float("1e300")):
        assert Days().number(nonsense_s) >= 0
        assert months.begins_s(months.number(nonsense_s) + 1) is not None


def test_a_device_that_starts_in_1970_finds_no_new_budget_there() -> None:
    device = Device()
    device.spend(900_000)
    for _ in range(3):
        device.utc_s = 0.0
        device.start()
        assert device.spent_bytes >= 900_000
        device.spend(10)
    device.set("2026-11-30 12:00")
    assert device.spent_bytes >= 900_030
    device.set("2026-12-01 00:01")
    assert device.spent_bytes <= 1_000  # what this process has spent


def test_what_was_spent_before_the_clock_was_right_counts_on_the_right_day() -> None:
    device = Device(now="1970-01-01 00:00")
    device.spend(300_000)
    device.set("2026-11-30 12:00")
    assert device.spent_bytes == 300_000
    device.pass_s(DAY_S)
    assert device.spent_bytes == 0


def test_a_clock_that_was_ahead_once_darkens_no_more_than_a_day() -> None:
    device = Device(now="2099-01-01 00:00")
    device.spend(DAY_BYTES)
    device.utc_s = at("2026-11-30 12:00")
    device.start()
    assert device.stage() is UplinkStage.SPENT
    device.start()
    device.pass_s(13 * 3600)
    assert device.stage() is UplinkStage.NORMAL
    assert Days().number(device.utc_s) == Days().number(at("2026-12-01 01:00"))


def test_a_clock_that_is_set_back_and_forth_gives_no_budget_away() -> None:
    device = Device(now="2026-11-30 12:00")
    device.spend(500_000)
    for now in ("2026-11-29 12:00", "2026-12-01 12:00", "2026-11-30 12:00", "2026-12-02 00:01"):
        device.set(now)
        assert device.spent_bytes == 500_000


def test_a_device_that_slept_over_midnight_has_a_new_day() -> None:
    device = Device(now="2026-11-30 20:00")
    device.spend(500_000)
    device.pass_s(8 * 3600)  # uptime counts sleep
    assert device.spent_bytes == 500_000  # since the last look, so perhaps spent after midnight
    device.pass_s(LOOK_S)
    device.budget.close()
    device.take()
    device.pass_s(DAY_S)
    assert device.spent_bytes == 0


def test_a_device_that_was_off_over_midnight_has_a_new_day() -> None:
    device = Device(now="2026-11-30 20:00")
    device.spend(500_000)
    device.utc_s += 8 * 3600
    device.uptime_s = 0.0
    device.start()
    assert device.spent_bytes == 0


@given(
    events=st.lists(
        st.one_of(
            st.tuples(st.just("spend"), st.integers(1, 3_000)),
            st.tuples(st.just("pass"), st.integers(1, 30_000)),
            st.tuples(st.just("power cut"), st.booleans()),
        ),
        max_size=80,
    )
)
def test_no_true_day_has_more_than_its_budget(events: list[tuple[str, int]]) -> None:
    """Whatever restarts there are, and whether the clock begins in 1970 after each: as the uplink spends, it holds."""
    settings = BudgetSettings(day_bytes=20_000, largest_message_bytes=3_000, step_bytes=100)
    device = Device(settings, "2026-11-30 00:00")
    true_s, lost_s = device.utc_s, 0.0
    spent: Counter[int] = Counter()
    for kind, value in events:
        match kind:
            case "spend":
                for _ in range(4):
                    if not device.is_closed():
                        device.spend(value)
                        spent[int(true_s // DAY_S)] += value
            case "pass":
                true_s += value
                for _ in range(value // 60):
                    device.pass_s(60.0)
                device.pass_s(value % 60)
                device.utc_s = true_s if lost_s else device.utc_s
                lost_s = 0.0
                device.look()
            case _:
                device.utc_s, device.uptime_s = (0.0 if value else true_s), 0.0
                lost_s = true_s - device.utc_s
                device.start()
    assert all(total <= 20_000 for total in spent.values())


def test_periods_never_go_back_unless_the_clock_goes_on_there() -> None:
    period = Period(10)
    assert period.at(10) == (Period(10), False)
    assert period.at(12) == (Period(12), True)
    behind, is_new = period.at(3)
    assert (behind, is_new) == (Period(10, 3), False)
    assert behind.at(2) == (Period(10, 2), False)
    assert behind.at(10) == (Period(10), False)
    assert behind.at(4) == (Period(4), True)
    assert behind.at(4, jumped=True) == (Period(10, 4), False)
