"""Hours of the week, as people write them: ``mon-fri 08:00-18:00``, ``sat,sun 22:00-06:00``, ``06:30-07:30``.

Days are those on which the time begins; one that ends at or before its beginning ends on the next day. Without days it
is every day. ``24:00`` is the end of a day.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES: Final = 1_440
WEEK_MINUTES: Final = 7 * DAY_MINUTES
MAX_SPANS: Final = 64

Span: TypeAlias = tuple[int, int]
"""Minutes from Monday, 00:00: the first one, and the one after the last, which may be past the end of the week."""

_SPAN: Final = re.compile(r"\s*(?:([a-z,-]+)\s+)?(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d)\s*", re.IGNORECASE)
_HOW: Final = "write days and times such as mon-fri 08:00-18:00"


def spans_of(text: str) -> list[Span]:
    """The times that a text names, one for each day.

    Raises:
        ValueError: it names none.
    """
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} are no hours of the week: {_HOW}")
    begins, ends = (_minute(text, hour, minute) for hour, minute in ((found[2], found[3]), (found[4], found[5])))
    if begins == DAY_MINUTES:
        raise ValueError(f"{text[:40]!r} begins at 24:00: that is 00:00 of the next day")
    length = ends - begins if ends > begins else ends - begins + DAY_MINUTES
    starts = [day * DAY_MINUTES + begins for day in _days(text, found[1])]
    return [(start, start + length) for start in starts]


def is_within(spans: Sequence[Span], minute: int) -> bool:
    """Whether a minute of the week, from Monday, 00:00, is in one of these times."""
    return any(begins <= at < ends for begins, ends in spans for at in (minute, minute + WEEK_MINUTES))


def _minute(text: str, hour: str, minute: str) -> int:
    total = int(hour) * 60 + int(minute)
    if int(minute) > 59 or total > DAY_MINUTES:
        raise ValueError(f"{text[:40]!r} names no time of day: {hour}:{minute}")
    return total


def _days(text: str, names: str | None) -> list[int]:
    if names is None:
        return list(range(7))
    found: list[int] = []
    for part in names.lower().split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"{text[:40]!r}: {part!r} is no day; {_HOW}; days are {', '.join(DAYS)}")
        begins, ends = DAYS.index(first), DAYS.index(last or first)
        found += [day % 7 for day in range(begins, ends + 1 if ends >= begins else ends + 8)]
    return sorted(set(found))


def _checked(text: str) -> str:
    spans_of(text)
    return text


_TEXT_SCHEMA: Final = {"type": "string", "examples": ["mon-fri 08:00-18:00"]}

WeekHours = Annotated[
    tuple[Annotated[str, AfterValidator(_checked)], ...],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Field(max_length=MAX_SPANS),
    WithJsonSchema({"anyOf": [_TEXT_SCHEMA, {"type": "array", "items": _TEXT_SCHEMA, "maxItems": MAX_SPANS}]}),
]
"""Hours of the week as settings have them: one text or several."""
