"""When a standing question of a camera is due: intervals, hours of the week, profiles, snoozes, and how long it lasts.

Pure. Slots of a camera come from whoever drives it, at :meth:`AskingRules.interval_s`; at each of them
:meth:`AskingRules.due` says which of its questions are asked. What an operator has said about the site
(:class:`~schemas.messages.SiteConfig`) goes before the settings:

=============  ====================================================================================================
an interval    of the question, of the camera as the operator says; then of the question at this camera, of the
               question, of the camera as the settings say
hours          of the question at this camera, of the question, of the camera; without any it is always due
a profile      says which questions of the settings are asked. One that stands on the bus alone is in every profile
a snooze       of a camera: none of its standing questions is asked
=============  ====================================================================================================

Hours and snoozes need the time of day. While the device's clock is not set they are ignored: a question too many does
less harm than a night without alerts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal
from zoneinfo import ZoneInfo

from pipeline.protocol.ports import Notice
from schemas.messages import SiteConfig
from schemas.utc_time import utc_seconds
from schemas.week_hours import Span, is_within, spans_of

CLOCK_IS_SET_S: Final = 1_735_689_600.0
"""Begin of 2025: a clock that says less starts at 1970, or somewhere else that is not now."""
LOOK_S: Final = 60.0
"""Hours and snoozes have whole minutes."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When a question is asked at one camera.

    Attributes:
        interval_s: from one asking to the next.
        hours: texts of the hours of the week; empty: always.
    """

    interval_s: float
    hours: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AskingSettings:
    """What the settings of a site say.

    Attributes:
        cameras: of questions without a timing of their own, by camera.
        timings: by camera and question.
        zones: time zone of each camera, UTC unless given.
        durations_s: how long a question is asked, by question; it is asked on and on unless given.
        profiles: questions of each profile; None for all.
        profile: the one that holds unless an operator says otherwise.
        questions: ids of the settings; a profile is about these.
    """

    cameras: Mapping[str, Timing] = field(default_factory=dict)
    timings: Mapping[tuple[str, str], Timing] = field(default_factory=dict)
    zones: Mapping[str, str] = field(default_factory=dict)
    durations_s: Mapping[str, float] = field(default_factory=dict)
    profiles: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    profile: str | None = None
    questions: frozenset[str] = frozenset()


_ANY_SLOT: Final = Timing(0.0)


class AskingRules:
    """The rules of a site.

    Args:
        settings: of the site.

    Attributes:
        changes: how often intervals may have changed.
        config: what operators say.
    """

    def __init__(self, settings: AskingSettings | None = None) -> None:
        self.changes = 0
        self.config: SiteConfig | None = None
        self._settings = settings or AskingSettings()
        self._utc_s: float | None = None
        self._minutes: dict[str, int] = {}
        self._last: dict[tuple[str, str], int] = {}
        self._began_s: dict[str, float] = {}
        self._over: set[str] = set()
        self._snoozes: dict[str, float] = {}
        self._notices: list[Notice] = []

    def take_outputs(self) -> list[Notice]:
        """What the log shall say, since the last call, in order."""
        notices, self._notices = self._notices, []
        return notices

    # ---- what holds -------------------------------------------------------------------------------------------------

    @property
    def profile(self) -> str | None:
        """The profile that holds."""
        said = None if self.config is None else self.config.profile
        return said if said in self._settings.profiles else self._settings.profile

    def replace(self, settings: AskingSettings) -> None:
        """The settings are others now; what ran out begins anew where it may last for another time."""
        before = self._settings
        self._settings = settings
        for question in [*self._began_s]:
            if before.durations_s.get(question) != settings.durations_s.get(question):
                self.begin_anew(question)
        self._changed()

    def refusal(self, config: SiteConfig, cameras: Collection[str], questions: Collection[str]) -> str:
        """Why this site cannot do what an operator says; empty when it can.

        Args:
            config: what is said.
            cameras: of the site.
            questions: of the site.
        """
        profiles = self._settings.profiles
        if config.profile is not None and config.profile not in profiles:
            known = ", ".join(sorted(profiles)) or "none"
            return f"no profile {config.profile} in the settings; there are {known}"
        named = {*config.camera_intervals_s, *config.snoozed_cameras}
        if unknown := sorted(named - set(cameras)):
            return f"no camera {', '.join(unknown)} at this site; it has {', '.join(cameras)}"
        if unknown := sorted(set(config.question_intervals_s) - set(questions)):
            known = ", ".join(sorted(questions)) or "none"
            return f"no question {', '.join(unknown)} at this site; it has {known}"
        return ""

    def apply(self, config: SiteConfig | None) -> str:
        """Do what an operator says, None for what the settings say alone; returns what holds now, in words."""
        before = self.profile
        self.config = config
        self._snoozes = {} if config is None else {
            camera: utc_seconds(until) for camera, until in config.snoozed_cameras.items()
        }  # fmt: skip
        if self.profile != before:
            self._over.clear()
            self._began_s.clear()
        self._changed()
        said = self._in_words()
        self._notice("info", "an operator has configured the site" if config else "the settings rule again", now=said)
        return said

    def wall_clock(self, utc_s: float) -> None:
        """What the device's clock says."""
        unset = utc_s < CLOCK_IS_SET_S
        if unset and self._utc_s is None and (self._snoozes or any(self._all_hours())):
            self._notice("warning", "the clock is not set: hours of the week and snoozes are ignored")
        self._utc_s = None if unset else utc_s
        self._minutes = {} if unset else {zone: _minute_of_week(utc_s, zone) for zone in {*self._zones(), "UTC"}}

    def next_look_s(self, utc_s: float) -> float:
        """Time to the next look at the clock, in seconds."""
        return LOOK_S - utc_s % LOOK_S if utc_s >= CLOCK_IS_SET_S else LOOK_S

    # ---- what is due ------------------------------------------------------------------------------------------------

    def interval_s(self, camera: str, questions: Iterable[str]) -> float | None:
        """Time from one slot of a camera to the next: the shortest of its questions.

        Args:
            camera: the camera.
            questions: what it is asked; without any there is no interval but that of the camera.
        """
        if camera not in self._settings.cameras:
            return None
        intervals = [self._timing(camera, question).interval_s for question in questions]
        return min(intervals, default=self._camera(camera).interval_s)

    def due(self, camera: str, questions: Sequence[str], now_s: float) -> list[str]:
        """Which questions are asked at a slot of a camera.

        Args:
            camera: the camera.
            questions: all that it is asked.
            now_s: monotonic time.
        """
        if self._is_snoozed(camera):
            return []
        grid_s = self.interval_s(camera, questions) or 0.0
        return [question for question in questions if self._is_due(camera, question, grid_s, now_s)]

    def taken(self, camera: str, asked: Iterable[str], questions: Sequence[str], now_s: float) -> None:
        """These were asked at a slot.

        Args:
            camera: the camera.
            asked: what was asked.
            questions: all that it is asked.
            now_s: monotonic time.
        """
        grid_s = self.interval_s(camera, questions) or 0.0
        for question in asked:
            interval_s = self._timing(camera, question).interval_s
            if interval_s > grid_s:
                self._last[camera, question] = _slot(interval_s, grid_s, now_s)
            if question in self._settings.durations_s:
                self._began_s.setdefault(question, now_s)

    def begin_anew(self, question: str) -> None:
        """A question was set: it lasts from now on."""
        self._began_s.pop(question, None)
        self._over.discard(question)

    def _is_due(self, camera: str, question: str, grid_s: float, now_s: float) -> bool:
        if question in self._settings.questions:
            selected = self._settings.profiles.get(self.profile or "")
            if selected is not None and question not in selected:
                return False
        if self._has_lasted(question, now_s):
            return False
        timing = self._timing(camera, question)
        if timing.hours and self._minutes:
            minute = self._minutes[self._settings.zones.get(camera, "UTC")]
            if not is_within(_spans(timing.hours), minute):
                return False
        if timing.interval_s <= grid_s:
            return True
        return self._last.get((camera, question)) != _slot(timing.interval_s, grid_s, now_s)

    def _has_lasted(self, question: str, now_s: float) -> bool:
        duration_s = self._settings.durations_s.get(question)
        if duration_s is None:
            return False
        began_s = self._began_s.get(question, now_s)
        if now_s - began_s < duration_s:
            return False
        if question not in self._over:
            self._over.add(question)
            self._notice("info", "a standing question has lasted as long as it may", question=question)
        return True

    def _is_snoozed(self, camera: str) -> bool:
        until_s = self._snoozes.get(camera)
        return until_s is not None and self._utc_s is not None and self._utc_s < until_s

    def _timing(self, camera: str, question: str) -> Timing:
        own = self._settings.timings.get((camera, question)) or self._settings.cameras.get(camera, _ANY_SLOT)
        if self.config is None:
            return own
        said = self.config.question_intervals_s.get(question) or self.config.camera_intervals_s.get(camera)
        return own if said is None else Timing(said, own.hours)

    def _camera(self, camera: str) -> Timing:
        own = self._settings.cameras.get(camera, _ANY_SLOT)
        said = None if self.config is None else self.config.camera_intervals_s.get(camera)
        return own if said is None else Timing(said, own.hours)

    # ---- internals --------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        self.changes += 1
        self._last.clear()
        if self._utc_s is not None:
            self.wall_clock(self._utc_s)

    def _zones(self) -> set[str]:
        return set(self._settings.zones.values())

    def _all_hours(self) -> Iterable[tuple[str, ...]]:
        timings = (*self._settings.cameras.values(), *self._settings.timings.values())
        return (timing.hours for timing in timings)

    def _in_words(self) -> str:
        parts = [f"profile {self.profile}"] if self.profile is not None else []
        config = self.config
        if config is not None:
            parts += [f"camera {camera} snoozed until {until}" for camera, until in config.snoozed_cameras.items()]
            parts += [f"alert {alert} snoozed until {until}" for alert, until in config.snoozed_alerts.items()]
            intervals = {**config.camera_intervals_s, **config.question_intervals_s}
            parts += [f"{name} every {interval_s:g} s" for name, interval_s in intervals.items()]
        return ", ".join(parts) or "as the settings say"

    def _notice(self, level: Literal["info", "warning"], event: str, **context: object) -> None:
        self._notices.append(Notice(level, event, context))


def _slot(interval_s: float, grid_s: float, now_s: float) -> int:
    """Number of the interval that a slot is in; one that comes a little early is in the next."""
    return math.floor((now_s + grid_s / 2) / interval_s)


@lru_cache(maxsize=1_024)
def _spans(hours: tuple[str, ...]) -> tuple[Span, ...]:
    return tuple(span for text in hours for span in spans_of(text))


def _minute_of_week(utc_s: float, zone: str) -> int:
    local = datetime.fromtimestamp(utc_s, UTC).astimezone(ZoneInfo(zone))
    return (local.weekday() * 24 + local.hour) * 60 + local.minute
