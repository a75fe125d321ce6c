"""What statuses, loads and outcomes say about the health of a fleet."""

from __future__ import annotations

import pytest

from pipeline.health import deadlines as deadlines_module
from pipeline.health.deadlines import Deadlines
from pipeline.health.fleet import FleetHealth, fleet_signs, problems_of
from pipeline.protocol.fleet_view import FleetView
from schemas.messages import Condition, Question, Status
from schemas.types import Outcome, UplinkStage

EDGE = Status(kind="edge", id="north", boot=1, online=True, pool="p", fingerprint="00000001", cameras=("gate", "yard"))
WORKER = Status(kind="worker", id="w1", boot=1, online=True, pool="p", fingerprint="00000001", capacity=8)


def fleet_of(*statuses: Status, seen: bool = True) -> FleetView:
    fleet = FleetView()
    fleet.workers_are_seen = seen
    for status in statuses:
        fleet.observe(status)
    return fleet


def wrong(*statuses: Status, seen: bool = True) -> list[tuple[str, str]]:
    return [(sign.kind, sign.name) for sign in problems_of(fleet_of(*statuses, seen=seen))]


def test_what_is_wrong_with_a_fleet() -> None:
    offline = EDGE.model_copy(update={"online": False})
    foreign = WORKER.model_copy(update={"fingerprint": "00000002"})
    assert wrong(EDGE, WORKER) == []
    low = EDGE.model_copy(update={"uplink": UplinkStage.STRETCHED})
    assert wrong(low, WORKER) == [("uplink-budget", "north")]
    assert wrong(low, low.model_copy(update={"online": False}), WORKER) == [("site-offline", "north")]
    assert wrong(EDGE, offline, WORKER) == [("site-offline", "north")]
    assert wrong(EDGE) == [("pool-empty", "p")]
    assert wrong(EDGE, seen=False) == []
    assert wrong(EDGE, foreign) == [("codec-mismatch", "p")]
    assert wrong(EDGE, WORKER, foreign.model_copy(update={"id": "w2"})) == []


def test_what_a_process_says_of_itself_counts_while_it_is_online() -> None:
    conditions = (Condition(kind="camera-stalled", about="gate"), Condition(kind="lens-frozen"))
    ill = EDGE.model_copy(update={"conditions": conditions})
    assert wrong(ill, WORKER) == [("camera-stalled", "north"), ("lens-frozen", "north")]
    assert wrong(ill, ill.model_copy(update={"online": False}), WORKER) == [("site-offline", "north")]
    fleet = fleet_of(EDGE, WORKER)
    fleet.observe_load(WORKER.model_copy(update={"conditions": (Condition(kind="stop-shift"),)}))
    assert [(sign.kind, sign.subject, sign.name) for sign in problems_of(fleet)] == [("stop-shift", "worker", "w1")]
    fleet.observe_load(WORKER)
    assert problems_of(fleet) == []


@pytest.mark.parametrize(("held", "bad"), [(3, False), (4, False), (5, None), (6, None), (7, True), (8, True)])
def test_a_backlog_has_two_thresholds(held: int, bad: bool | None) -> None:
    fleet = fleet_of(EDGE, WORKER.model_copy(update={"parked": held}))
    (backlog,) = [sign for sign in fleet_signs(fleet) if sign.kind == "backlog-growing"]
    assert (backlog.bad, backlog.detail) == (bad, f"{held} of 8")


def silent(health: FleetHealth, now_s: float) -> bool:
    (sign,) = [sign for sign in health.signs(now_s) if sign.kind == "site-silent"]
    return bool(sign.bad)


def listening(*statuses: Status) -> FleetHealth:
    fleet = fleet_of(*statuses)
    fleet.observe_question("north", "car", Question(site="north", question_id="car", text="Is there a car?"))
    return FleetHealth(fleet)


def test_a_site_that_says_nothing_for_longer_than_usual_is_silent() -> None:
    health = listening(EDGE, WORKER)
    assert not silent(health, 0)
    assert not silent(health, 600)
    assert silent(health, 601)
    health.heard("north", None, 5_000)
    assert silent(health, 5_601), "once is no habit"
    health.heard("north", None, 9_000)
    assert not silent(health, 15_000), "it has its nights, of 4,000 and 5,000 s"
    assert silent(health, 15_001)
    health.deaf()
    assert not silent(health, 16_000)
    assert silent(health, 22_001), "from when it could be heard again"
    assert silent(health, 16_601 + 15 * 86_400), "what was two weeks ago is forgotten"


def test_a_site_that_was_offline_was_not_silent() -> None:
    fleet = fleet_of(EDGE, WORKER)
    fleet.observe_question("north", "car", Question(site="north", question_id="car", text="Is there a car?"))
    health = FleetHealth(fleet)
    assert not silent(health, 0)
    fleet.observe(EDGE.model_copy(update={"online": False}))
    health.signs(5_000)
    fleet.observe(EDGE)
    assert not silent(health, 9_000)
    assert silent(health, 9_601)


def test_only_a_site_that_should_speak_is_silent() -> None:
    spent = EDGE.model_copy(update={"uplink": UplinkStage.SPENT})
    for health in (listening(spent, WORKER), listening(EDGE), FleetHealth(fleet_of(EDGE, WORKER))):
        assert not silent(health, 0)
        assert not silent(health, 5_000)


def burnt(outcomes: list[tuple[float, bool]], now_s: float, share: float = 0.01) -> tuple[bool | None, str]:
    deadlines = Deadlines(share)
    for at_s, missed in outcomes:
        deadlines.ended("north", missed, at_s)
    burn = deadlines.burn("north", now_s)
    return burn.bad, burn.severity


def every(start_s: int, end_s: int, missed_of_100: int) -> list[tuple[float, bool]]:
    """A question a second."""
    return [(float(at_s), at_s % 100 < missed_of_100) for at_s in range(start_s, end_s)]


def test_a_budget_of_missed_deadlines_burns_fast_slowly_or_not() -> None:
    assert burnt([], 0) == (False, "warning")
    assert burnt(every(0, 3_600, 0), 3_600)[0] is False
    assert burnt(every(0, 3_600, 5), 3_600)[0] is None, "a little less than six times too fast"
    assert burnt(every(0, 3_600, 10), 3_600) == (True, "warning")
    assert burnt(every(0, 3_600, 20), 3_600) == (True, "critical")
    assert burnt(every(0, 3_600, 20) + every(3_600, 6_000, 0), 6_000)[0] is False, "it is over soon after the misses"
    assert burnt(every(0, 3_300, 0) + every(3_300, 3_600, 50), 3_600)[0] is not True, "a few bad minutes are none"
    assert burnt([(0.0, True)] * 5, 1)[0] is False, "five questions say nothing"
    assert burnt(every(0, 3_600, 95), 3_600, share=0.5) == (True, "critical")


def test_only_deadlines_count_as_missed() -> None:
    health = listening(EDGE, WORKER)
    for number in range(100):
        health.heard("north", Outcome.DEGRADED, number, reason="form: no yes_no answer")
        health.heard("north", Outcome.SUPERSEDED, number)
        health.heard("north", Outcome.EXPIRED, number, late=True)
        health.heard(None, Outcome.EXPIRED, number)
    (sign,) = [sign for sign in health.signs(100) if sign.kind == "deadlines-missed"]
    assert sign.bad is False
    for number in range(100):
        health.heard("north", Outcome.DEGRADED, 100 + number, reason="deadline while parked")
        health.heard("north", Outcome.EXPIRED, 100 + number)
    (sign,) = [sign for sign in health.signs(200) if sign.kind == "deadlines-missed"]
    assert (sign.bad, sign.detail) == (True, "200 of 300 within 5 min")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines_module, "MAX_SITES", 3)
    deadlines = Deadlines()
    for number in range(10):
        deadlines.ended(f"s{number}", True, 0)
    assert len(deadlines) == 3
    for number in range(2_000):
        deadlines.ended("s9", True, 60.0 * number)
    assert len(deadlines._sites["s9"].minutes) == 361
