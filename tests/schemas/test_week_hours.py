"""Hours of the week, as people write them."""

from __future__ import annotations

import pytest

from schemas.utc_time import utc_seconds, utc_text
from schemas.week_hours import DAY_MINUTES, WEEK_MINUTES, is_within, spans_of


def at(day: int, hour: int, minute: int = 0) -> int:
    return day * DAY_MINUTES + hour * 60 + minute


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("mon-fri 08:00-18:00", [at(0, 8), at(4, 17, 59)], [at(0, 7, 59), at(0, 18), at(5, 12)]),
        ("sat,sun 10:30-11:00", [at(5, 10, 30), at(6, 10, 59)], [at(6, 11), at(0, 10, 45)]),
        ("22:00-06:00", [at(0, 22), at(3, 5, 59), at(6, 23), at(0, 0)], [at(0, 6), at(2, 21, 59)]),
        ("sun 22:00-06:00", [at(6, 22), at(0, 5, 59)], [at(6, 5), at(0, 6), at(1, 0)]),
        ("fri-mon 00:00-24:00", [at(4, 0), at(5, 12), at(0, 23, 59)], [at(1, 0), at(3, 23, 59)]),
        ("Tue 6:05-6:06", [at(1, 6, 5)], [at(1, 6, 6), at(1, 6, 4)]),
        ("wed 12:00-12:00", [at(2, 12), at(3, 11, 59)], [at(2, 11, 59), at(3, 12)]),
    ],
)
def test_what_is_within(text: str, inside: list[int], outside: list[int]) -> None:
    spans = spans_of(text)
    assert [is_within(spans, minute) for minute in inside] == [True] * len(inside)
    assert [is_within(spans, minute) for minute in outside] == [False] * len(outside)


def test_a_day_has_its_minutes_and_no_more() -> None:
    assert sum(is_within(spans_of("mon-sun 00:00-24:00"), minute) for minute in range(WEEK_MINUTES)) == WEEK_MINUTES
    assert sum(is_within(spans_of("thu 09:00-10:00"), minute) for minute in range(WEEK_MINUTES)) == 60


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no hours of the week"),
        ("mon", "no hours of the week"),
        ("mon 8-18", "no hours of the week"),
        ("mo 08:00-18:00", "'mo' is no day"),
        ("mon- 08:00-18:00", "'mon-' is no day"),
        ("25:00-26:00", "no time of day: 25:00"),
        ("08:60-09:00", "no time of day: 08:60"),
        ("24:00-01:00", "00:00 of the next day"),
    ],
)
def test_what_is_no_time_says_what_to_write(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        spans_of(text)


def test_moments_of_utc() -> None:
    assert utc_seconds("1970-01-02T00:00:01Z") == 86_401.0
    assert utc_text(86_401.0) == "1970-01-02T00:00:01Z"
    for text in ("2026-02-30T00:00:00Z", "2026-01-01T25:00:00Z", "2026-01-01 00:00:00"):
        with pytest.raises(ValueError, match="no moment of UTC"):
            utc_seconds(text)
