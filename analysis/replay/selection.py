"""Which part of a log is meant: topics by MQTT filters, and a stretch of time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from schemas.errors import ConfigError

_NS = 1_000_000_000


class TopicFilter:
    """An MQTT topic filter (MQTT 5, section 4.7).

    Args:
        text: ``+`` stands for one level, a last ``#`` for any number of levels, none included.

    Raises:
        ConfigError: it is none.
    """

    def __init__(self, text: str) -> None:
        levels = text.split("/")
        wild = [level for level in levels if "+" in level or "#" in level]
        if not text or "\0" in text or any(level not in ("+", "#") for level in wild) or "#" in levels[:-1]:
            raise ConfigError("topic filter", f"{text!r} is none: + is a whole level, # the whole last one")
        self._levels = levels

    def matches(self, topic: str) -> bool:
        """Whether a topic name is meant. Wildcards at the front leave out what begins with ``$``."""
        levels = topic.split("/")
        if topic.startswith("$") and self._levels[0] in ("+", "#"):
            return False
        for index, wanted in enumerate(self._levels):
            if wanted == "#":
                return True
            if index == len(levels) or wanted not in ("+", levels[index]):
                return False
        return len(levels) == len(self._levels)


class TopicSelection:
    """Topics to take: one of the filters to include, none of those to exclude.

    Args:
        include: filters; none means every topic.
        exclude: filters that win over them.

    Raises:
        ConfigError: a filter is none.
    """

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = [TopicFilter(text) for text in include]
        self._exclude = [TopicFilter(text) for text in exclude]
        self._known: dict[str, bool] = {}

    def __call__(self, topic: str) -> bool:
        """Whether a topic is taken."""
        known = self._known.get(topic)
        if known is None:
            included = not self._include or any(entry.matches(topic) for entry in self._include)
            known = included and not any(entry.matches(topic) for entry in self._exclude)
            self._known[topic] = known  # a log has at most 65,535 topics
        return known


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of a log.

    Attributes:
        offset_s: seconds from the start of the log; None when it is an absolute time.
        time_ns: nanoseconds since 1970; None when it is an offset.
    """

    offset_s: float | None = None
    time_ns: int | None = None

    def at_ns(self, log_start_ns: int) -> int:
        """The moment as log time."""
        if self.time_ns is not None:
            return self.time_ns
        return log_start_ns + round((self.offset_s or 0.0) * _NS)


def parse_moment(text: str, option: str) -> Moment:
    """Read a moment: seconds from the start of the log, or an ISO 8601 time.

    Args:
        text: for example ``90``, ``2026-05-04T10:00:00`` (UTC) or ``2026-05-04T12:00:00+02:00``.
        option: where it stands, for the error.

    Raises:
        ConfigError: it is neither.
    """
    try:
        offset_s = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ConfigError(
                option, f"{text!r} is neither seconds from the start of the log nor a time like 2026-05-04T10:00:00Z"
            ) from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = int(moment.replace(microsecond=0).timestamp())
        return Moment(time_ns=seconds * _NS + moment.microsecond * 1000)
    if not 0 <= offset_s < math.inf:
        raise ConfigError(option, f"{text} seconds from the start of the log: 0 or more is expected")
    return Moment(offset_s=offset_s)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A stretch of log time.

    Attributes:
        start_ns: its first nanosecond.
        stop_ns: one past its last.
    """

    start_ns: int
    stop_ns: int

    @property
    def duration_s(self) -> float:
        """Its length."""
        return (self.stop_ns - self.start_ns) / _NS

    def __contains__(self, time_ns: object) -> bool:
        return isinstance(time_ns, int) and self.start_ns <= time_ns < self.stop_ns


def time_range(
    log: TimeRange, *, start: Moment | None = None, duration_s: float | None = None, until: Moment | None = None
) -> TimeRange:
    """The part of a log that is meant.

    Args:
        log: first to last message of the log.
        start: where to begin; None is the start of the log.
        duration_s: how much of it; None is all.
        until: where to end, not included; None is the end of the log. With ``duration_s`` the earlier one counts.

    Raises:
        ConfigError: nothing of the log is in it.
    """
    start_ns = log.start_ns if start is None else max(log.start_ns, start.at_ns(log.start_ns))
    stop_ns = log.stop_ns if until is None else min(log.stop_ns, until.at_ns(log.start_ns))
    if duration_s is not None:
        stop_ns = min(stop_ns, start_ns + round(duration_s * _NS))
    if start_ns >= stop_ns:
        first, last = (datetime.fromtimestamp(ns / _NS, UTC).isoformat() for ns in (log.start_ns, log.stop_ns))
        raise ConfigError(
            "--start/--duration/--until",
            f"nothing of the log lies there; it goes from {first} to {last}, {log.duration_s:.1f} seconds",
        )
    return TimeRange(start_ns, stop_ns)
