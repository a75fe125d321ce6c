"""When a standing question is due."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_nodes.asking import asking_settings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.protocol.asking_rules import AskingRules, AskingSettings
from schemas.messages import SiteConfig
from schemas.utc_time import utc_seconds

CAR, DOG = {"text": "A car?"}, {"text": "A dog?"}
UNTIL = "2026-11-30T18:00:00Z"


def edge(questions: dict[str, Any] | None = None, camera: dict[str, Any] | None = None, **more: Any) -> EdgeSettings:
    asked = questions or {"car": CAR, "dog": DOG}
    cameras = {"gate": {"source": "test:1", "questions": list(asked), **(camera or {})}}
    return EdgeSettings.model_validate({"site": "depot", "cameras": cameras, "questions": asked, **more})


def rules(*args: Any, **more: Any) -> AskingRules:
    return AskingRules(asking_settings(edge(*args, **more)))


def asked(made: AskingRules, *slots_s: float, ids: tuple[str, ...] = ("car", "dog")) -> list[list[str]]:
    """What is asked at each slot of camera gate."""
    found = []
    for now_s in slots_s:
        due = made.due("gate", ids, now_s)
        made.taken("gate", due, ids, now_s)
        found.append(due)
    return found


def config(**fields: Any) -> SiteConfig:
    return SiteConfig.model_validate({"site": "depot", **fields}, strict=False)


def test_without_rules_everything_is_due_at_every_slot() -> None:
    made = AskingRules()
    assert asked(made, 0.0, 0.1) == [["car", "dog"]] * 2
    assert made.interval_s("gate", ["car"]) is None


def test_each_question_has_its_interval_and_the_camera_the_shortest() -> None:
    made = rules({"car": CAR, "dog": {**DOG, "interval_s": 3}}, {"interval_s": 1})
    assert made.interval_s("gate", ("car", "dog")) == 1.0
    assert asked(made, 0.0, 1.0, 2.0, 3.0, 4.1, 6.0) == [
        ["car", "dog"], ["car"], ["car"], ["car", "dog"], ["car"], ["car", "dog"]
    ]  # fmt: skip
    alone = rules({"dog": {**DOG, "interval_s": 30}}, {"interval_s": 1})
    assert alone.interval_s("gate", ("dog",)) == 30.0, "no frame is taken for nothing"
    assert asked(alone, 0.0, 30.0, ids=("dog",)) == [["dog"], ["dog"]]


@given(
    start_s=st.integers(0, 1_000_000),
    lags_s=st.lists(st.floats(0, 0.4), min_size=50, max_size=50),
    every=st.integers(2, 9),
)
def test_slots_that_come_a_little_late_lose_no_asking(start_s: int, lags_s: list[float], every: int) -> None:
    made = rules({"car": {**CAR, "interval_s": every}, "dog": DOG}, {"interval_s": 1})
    times = [start_s + number + lag_s for number, lag_s in enumerate(lags_s)]
    count = sum("car" in due for due in asked(made, *times))
    assert 50 // every <= count <= 50 // every + 2


def test_a_camera_may_ask_a_question_at_other_times() -> None:
    made = rules(
        {"car": {**CAR, "interval_s": 10}, "dog": DOG},
        {"interval_s": 1, "overrides": {"car": {"interval_s": 2}}},
    )
    assert [due.count("car") for due in asked(made, 0.0, 1.0, 2.0, 3.0, 4.0)] == [1, 0, 1, 0, 1]


def test_an_operator_goes_before_the_settings() -> None:
    made = rules({"car": CAR, "dog": {**DOG, "interval_s": 5}}, {"interval_s": 1})
    changes = made.changes
    said = made.apply(config(camera_intervals_s={"gate": 4.0}, question_intervals_s={"dog": 2.0}))
    assert said == "gate every 4 s, dog every 2 s"
    assert made.changes > changes
    assert made.interval_s("gate", ("car", "dog")) == 2.0
    assert asked(made, 0.0, 2.0, 4.0) == [["car", "dog"], ["dog"], ["car", "dog"]]
    assert made.apply(None) == "as the settings say"
    assert made.interval_s("gate", ("car", "dog")) == 1.0


# ---- the time of day ------------------------------------------------------------------------------------------------


def due_at(made: AskingRules, moment: str) -> list[str]:
    made.wall_clock(utc_seconds(moment))
    return made.due("gate", ("car", "dog"), 0.0)


def test_hours_are_those_of_the_time_zone_of_the_camera_in_summer_and_in_winter() -> None:
    made = rules({"car": {**CAR, "schedule": "mon-fri 08:00-18:00"}, "dog": DOG}, {"time_zone": "Europe/Berlin"})
    assert due_at(made, "2026-01-12T06:59:59Z") == ["dog"]
    assert due_at(made, "2026-01-12T07:00:00Z") == ["car", "dog"]
    assert due_at(made, "2026-07-13T06:00:00Z") == ["car", "dog"]
    assert due_at(made, "2026-07-13T16:00:00Z") == ["dog"]
    assert due_at(made, "2026-01-17T12:00:00Z") == ["dog"], "a Saturday"


def test_the_nearest_schedule_counts() -> None:
    made = rules(
        {"car": {**CAR, "schedule": "08:00-12:00"}, "dog": DOG},
        {"schedule": "20:00-22:00", "overrides": {"car": {"schedule": ["06:00-07:00"]}}},
        time_zone="UTC",
    )
    assert due_at(made, "2026-01-12T06:30:00Z") == ["car"]
    assert due_at(made, "2026-01-12T09:00:00Z") == []
    assert due_at(made, "2026-01-12T21:00:00Z") == ["dog"]


def test_a_clock_that_is_not_set_keeps_nothing_from_being_asked() -> None:
    made = rules({"car": {**CAR, "schedule": "08:00-12:00"}, "dog": DOG})
    assert due_at(made, "2000-01-01T00:00:10Z") == ["car", "dog"]
    assert [notice.level for notice in made.take_outputs()] == ["warning"]
    assert due_at(made, "2026-01-12T13:00:00Z") == ["dog"]
    assert made.next_look_s(utc_seconds("2026-01-12T13:00:50Z")) == 10.0, "at the next whole minute"


def test_a_snoozed_camera_is_asked_nothing_until_then() -> None:
    made = rules()
    assert due_at(made, "2026-11-30T17:00:00Z") == ["car", "dog"]
    assert "camera gate snoozed until" in made.apply(config(snoozed_cameras={"gate": UNTIL}))
    assert due_at(made, "2026-11-30T17:59:59Z") == []
    assert due_at(made, UNTIL) == ["car", "dog"]


# ---- profiles and durations -----------------------------------------------------------------------------------------

PROFILES = {"home": {"questions": ["car"]}, "night": {"questions": ["car", "dog"]}, "off": {"questions": []}, "all": {}}


def test_a_profile_switches_the_questions_of_the_settings() -> None:
    made = rules(profiles=PROFILES, profile="home")
    ids = ("bus", "car", "dog")
    assert made.due("gate", ids, 0.0) == ["bus", "car"], "one that stands on the bus alone is in every profile"
    assert made.apply(config(profile="night")) == "profile night"
    assert made.due("gate", ids, 0.0) == ["bus", "car", "dog"]
    made.apply(config(profile="off"))
    assert made.due("gate", ids, 0.0) == ["bus"]
    made.apply(config(profile="all"))
    assert made.due("gate", ids, 0.0) == ["bus", "car", "dog"]
    made.apply(None)
    assert made.profile == "home"


def test_a_question_lasts_as_long_as_it_may_and_begins_anew_when_it_is_set_again() -> None:
    made = rules({"car": {**CAR, "max_duration_s": 60}, "dog": DOG}, profiles=PROFILES)
    assert asked(made, 100.0, 159.0, 160.0) == [["car", "dog"], ["car", "dog"], ["dog"]]
    assert [notice.context for notice in made.take_outputs()] == [{"question": "car"}], "said once"
    made.begin_anew("car")
    assert asked(made, 200.0, 260.0) == [["car", "dog"], ["dog"]]
    made.apply(config(profile="night"))
    assert asked(made, 300.0) == [["car", "dog"]], "a switch of the profile begins anew as well"


def test_other_settings_take_the_place_of_the_first() -> None:
    made = rules({"car": {**CAR, "max_duration_s": 60}, "dog": DOG})
    assert asked(made, 0.0, 61.0) == [["car", "dog"], ["dog"]]
    made.replace(asking_settings(edge({"car": {**CAR, "max_duration_s": 90}, "dog": {**DOG, "interval_s": 9}})))
    assert asked(made, 64.0, 65.0) == [["car", "dog"], ["car"]]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"profile": "party"}, "no profile party in the settings; there are all, home, night, off"),
        ({"snoozed_cameras": {"yard": UNTIL}}, "no camera yard at this site; it has gate"),
        ({"camera_intervals_s": {"yard": 1.0}}, "no camera yard at this site; it has gate"),
        ({"question_intervals_s": {"cow": 1.0}}, "no question cow at this site; it has car, dog"),
        ({"snoozed_alerts": {"anything": UNTIL}}, ""),
    ],
)
def test_what_a_site_cannot_do_is_refused_with_what_it_has(fields: dict[str, Any], problem: str) -> None:
    made = rules(profiles=PROFILES)
    assert made.refusal(config(**fields), ["gate"], ["car", "dog"]) == problem


def test_a_profile_that_the_settings_have_no_more_gives_way_to_theirs() -> None:
    made = rules(profiles=PROFILES, profile="home")
    made.apply(config(profile="night"))
    made.replace(AskingSettings(profiles={"home": None}, profile="home"))
    assert made.profile == "home"
