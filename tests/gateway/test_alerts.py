"""When something is an alert, and when it is over."""

from __future__ import annotations

from typing import Any

import pytest

from latentbus.gateway import alerts as alerts_module
from latentbus.gateway.alert_modes import AlertModes
from latentbus.gateway.alerts import AlertBook, Change, matches
from pipeline.config.alert_rules import SiteProfiles
from pipeline.config.gateway_settings import AlertRuleSettings, AlertSettings
from pipeline.protocol.fleet_view import FleetView
from schemas.messages import SiteConfig
from schemas.types import Outcome
from schemas.utc_time import utc_seconds
from tests.gateway.views import view


def rule(**given: Any) -> AlertRuleSettings:
    return AlertRuleSettings.model_validate({"question": "car", "equals": "yes", **given})


def book(**given: Any) -> AlertBook:
    return AlertBook({"car": rule(**given)})


def say(alerts: AlertBook, *answers: str, start: int = 0, **given: Any) -> list[str]:
    """What begins (+), begins in silence (.), and ends (-), by answer; one answer a second."""
    found = []
    for number, text in enumerate(answers, start):
        changes = alerts.observe(view(number, text, **given), float(number))
        found.append("".join(_sign(change) for change in changes))
    return found


def _sign(change: Change) -> str:
    return "-" if change.alert.ended is not None else "+" if change.notify else "."


@pytest.mark.parametrize(
    ("condition", "text", "met"),
    [
        ({"equals": "Yes"}, "yes.", True),
        ({"equals": "yes"}, "yes, two", False),
        ({"differs": "closed"}, "Open", True),
        ({"differs": "closed"}, " closed ", False),
        ({"contains": "FIRE"}, "a small fire", True),
        ({"contains": "fire"}, "nothing", False),
        ({"above": 3}, "4", True),
        ({"above": 3}, "3", False),
        ({"below": 0}, "-1.5 degrees", True),
        ({"below": 2}, "about 2", False),
        ({"above": 3}, "many", None),
    ],
)
def test_conditions(condition: dict[str, Any], text: str, met: bool | None) -> None:
    given = {"question": "car", **condition}
    assert matches(AlertRuleSettings.model_validate(given), text) is met


@pytest.mark.parametrize(
    ("condition", "text", "value", "met"),
    [
        ({"equals": "yes"}, "Yes, there is a", True, True),
        ({"differs": "yes"}, "Yes, there is a", True, False),
        ({"equals": "no"}, "no, none", False, True),
        ({"above": 2}, "three cars, 1 red", 3, True),
        ({"equals": "3"}, "three", 3, True),
        ({"below": 1}, "none", 0, True),
        ({"equals": "dark red"}, "**Dark red**", "Dark red", True),
    ],
)
def test_what_an_answer_says_is_compared_where_its_type_is_known(
    condition: dict[str, Any], text: str, value: bool | int | str, met: bool
) -> None:
    given = {"question": "car", **condition}
    assert matches(AlertRuleSettings.model_validate(given), text, value) is met


def test_an_unchanged_outcome_says_that_the_answer_held_on_in_every_frame_since() -> None:
    alerts = book(n=3, of=4)
    assert say(alerts, "yes") == [""]
    held: dict[str, Any] = {"outcome": Outcome.UNCHANGED, "latents": None}
    assert say(alerts, "", start=1, **held) == ["+"], "in place of three more answers that nobody was asked for"
    assert alerts.going_on()[0].text == "gate: Is there a car? yes", "the answer that holds on"
    assert say(alerts, "no", start=2) == [""]
    assert say(alerts, "", start=3, **held) == ["-"]
    assert say(book(), "", **held) == [""], "of an answer that was never heard"


def test_what_goes_on_for_too_long_is_over_and_begins_again_only_after_it_was_gone() -> None:
    alerts = book(max_duration_s=10, cooldown_s=0)
    assert say(alerts, "yes") == ["+"]
    assert alerts.expire(9.9, 1009.9) == []
    (over,) = alerts.expire(10.0, 1010.0)
    assert (over.alert.ended, over.notify) == (1010.0, False)
    assert alerts.expire(20.0, 1020.0) == []
    assert say(alerts, "yes", "yes", "no", "yes", start=11) == ["", "", "", "+"]


def test_a_restart_takes_no_time_from_what_an_alert_may_last() -> None:
    first = book(max_duration_s=100)
    say(first, "yes")
    second = book(max_duration_s=100)
    second.resume(first.going_on(), now_s=5.0, wall_s=1080.0)
    assert second.expire(24.9, 1099.9) == []
    assert len(second.expire(25.0, 1100.0)) == 1


def test_an_alert_begins_once_and_ends_once() -> None:
    assert say(book(), "no", "yes", "yes", "no", "no") == ["", "+", "", "-", ""]


def test_n_of_m_keeps_it_from_flapping() -> None:
    noisy = ["yes", "no", "yes", "no", "yes", "yes", "yes", "no", "yes", "yes", "no", "no", "no"]
    assert say(book(n=3, of=4, cooldown_s=0), *noisy) == ["", "", "", "", "", "+", "", "", "", "", "", "", "-"]


def test_within_the_cooldown_nobody_is_told_again() -> None:
    assert say(book(cooldown_s=5), *["yes", "no"] * 4) == ["+", "-", ".", "-", ".", "-", "+", "-"]


def test_each_camera_is_judged_by_itself() -> None:
    alerts = book(n=2, of=3)
    assert say(alerts, "yes") == [""]
    assert say(alerts, "yes", camera="yard") == [""]
    assert say(alerts, "yes", start=1) == ["+"]


def test_a_rule_looks_at_what_it_names() -> None:
    alerts = book(site="north", cameras=["gate"])
    assert say(alerts, "yes", site="south") == [""]
    assert say(alerts, "yes", camera="yard") == [""]
    assert say(alerts, "yes", question_id="bus") == [""]
    assert say(alerts, "yes", ad_hoc=True) == [""]
    assert say(alerts, "yes", late=True) == [""], "of a frame that waited for the link"
    assert say(alerts, "", outcome="failed") == [""]
    assert say(alerts, "yes", outcome="degraded") == ["+"]


def test_an_alert_carries_its_answer() -> None:
    (change,) = book(severity="critical", channels=None).observe(view(3, "yes"), 0.0)
    alert = change.alert
    assert (alert.text, alert.severity, alert.began) == ("gate: Is there a car? yes", "critical", 1003.0)
    assert alert.answer == view(3, "yes")


def test_after_a_restart_nobody_is_told_again_and_it_still_ends() -> None:
    first = book(n=2, of=3)
    say(first, "yes", "yes")
    going_on = [alert.model_copy(update={"id": 7}) for alert in first.going_on()]
    again = book(n=2, of=3)
    assert again.resume(going_on, 0.0) == []
    assert say(again, "yes", "yes", "no", "no", start=2) == ["", "", "", "-"]
    gone = AlertBook({})
    (over,) = gone.resume(going_on, 0.0)
    assert (over.alert.id, over.notify) == (7, False)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts_module, "MAX_WINDOWS", 3)
    alerts = book(n=2, of=3)
    for number in range(10):
        say(alerts, "yes", camera=f"c{number}")
    assert len(alerts._windows) == 3


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"rules": {"a": {"question": "car"}}}, "needs one condition"),
        ({"rules": {"a": {"question": "car", "equals": "yes", "contains": "y"}}}, "has equals, contains"),
        ({"rules": {"a": {"question": "car", "equals": "yes", "n": 1, "of": 2}}}, "more than half"),
        ({"rules": {"a": {"question": "car", "equals": "yes", "channels": ["x"]}}}, "tells x"),
        ({"webhooks": {"a": {"url": "ftp://x"}}}, "http:// or https://"),
        ({"webhooks": {"a": {"url": "https://x"}}, "addresses": {"a": "json://x"}}, "both called a"),
        ({"allow": ["not a host"]}, "must be a host name"),
    ],
)
def test_settings_that_contradict_themselves(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        AlertSettings.model_validate(wrong)


def modes(**configs: Any) -> AlertModes:
    fleet = FleetView()
    for site, given in configs.items():
        fleet.observe_config(site, SiteConfig.model_validate({"site": site, **given}))
    profiles = {"home": frozenset({"queue"}), "night": None, "off": frozenset[str]()}
    return AlertModes(fleet, {"north": SiteProfiles(profiles, "home"), "south": SiteProfiles({}, None)})


def test_a_profile_says_which_alerts_count_at_a_site() -> None:
    assert [modes().counts(rule, "north") for rule in ("queue", "north/queue", "north/car")] == [True, True, False]
    assert modes().counts("south/car", "south")
    assert modes().counts("car", "unknown-to-the-file")
    assert modes(north={"profile": "night"}).counts("north/car", "north")
    assert not modes(north={"profile": "off"}).counts("queue", "north")
    assert modes(north={"profile": "gone"}).counts("queue", "north"), "that of the settings"


def test_of_a_snoozed_alert_or_camera_nobody_is_told_until_then() -> None:
    until = {"car": "2026-11-30T18:00:00Z"}
    alert, camera = modes(north={"snoozed_alerts": until}), modes(north={"snoozed_cameras": {"gate": until["car"]}})
    before, then = utc_seconds(until["car"]) - 1, utc_seconds(until["car"])
    assert alert.is_snoozed("north/car", "north", "gate", before)
    assert alert.is_snoozed("car", "north", "gate", before)
    assert not alert.is_snoozed("north/car", "north", "gate", then)
    assert not alert.is_snoozed("south/car", "south", "gate", before)
    assert camera.is_snoozed("anything", "north", "gate", before)
    assert not camera.is_snoozed("anything", "north", "yard", before)


def test_what_does_not_count_is_not_judged_and_ends_where_it_went_on() -> None:
    alerts = book(n=2, of=2)
    say(alerts, "yes", "yes")
    assert alerts.observe(view(3, "no"), 3.0, lambda _rule, _site: False) == []
    (ended,) = alerts.end_unless(lambda _rule, _site: False, 1004.0)
    assert (ended.alert.ended, ended.notify, alerts.going_on()) == (1004.0, False, [])
    assert alerts.end_unless(lambda _rule, _site: False, 1005.0) == []
    assert say(alerts, "yes", start=5) == [""], "it begins from nothing"


def test_rules_that_are_read_again_keep_what_goes_on_and_end_what_is_gone() -> None:
    alerts = book(n=1, of=1)
    say(alerts, "yes")
    alerts.replace({"car": rule(n=2, of=3, cooldown_s=0)})
    assert alerts.end_unless(lambda _rule, _site: True, 1001.0) == []
    assert say(alerts, "no", "no", start=2) == ["", "-"], "judged by the other rule"
    say(alerts, "yes", "yes", start=4)
    alerts.replace({})
    assert [change.alert.ended for change in alerts.end_unless(lambda _rule, _site: True, 1009.0)] == [1009.0]
