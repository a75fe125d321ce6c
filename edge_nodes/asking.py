"""When the standing questions of a site are asked, as its session needs it, and what may change while it runs."""

from __future__ import annotations

from typing import Final

from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.reload import Path, cold_changes
from pipeline.protocol.asking_rules import AskingSettings, Timing
from schemas.errors import ConfigError

HOT: Final[tuple[Path, ...]] = (
    *(("cameras", "*", key) for key in ("questions", "interval_s", "schedule", "time_zone", "overrides", "priority")),
    ("cameras", "*", "change_gate"),
    *(("change_gate", key) for key in ("max_age_s", "renew_s")),
    ("questions",),
    ("time_zone",),
    ("profiles",),
    ("profile",),
)
"""Settings of an edge that take effect when they are read again; all others need a restart."""


def asking_settings(edge: EdgeSettings) -> AskingSettings:
    """What the settings of a site say about when its questions are asked."""
    timings: dict[tuple[str, str], Timing] = {}
    for name, camera in edge.cameras.items():
        for question_id, question in edge.questions.items():
            override = camera.overrides.get(question_id)
            said = [entry for entry in (override, question) if entry is not None]
            intervals = [entry.interval_s for entry in said if entry.interval_s is not None]
            schedules = [entry.schedule for entry in said if entry.schedule is not None]
            if intervals or schedules:
                schedule = schedules[0] if schedules else camera.schedule
                interval_s = intervals[0] if intervals else camera.interval_s
                timings[name, question_id] = Timing(interval_s, schedule or ())
    return AskingSettings(
        cameras={name: Timing(camera.interval_s, camera.schedule or ()) for name, camera in edge.cameras.items()},
        timings=timings,
        zones={name: camera.time_zone or edge.time_zone for name, camera in edge.cameras.items()},
        durations_s={
            question_id: question.max_duration_s
            for question_id, question in edge.questions.items()
            if question.max_duration_s is not None
        },
        profiles={
            name: None if profile.questions is None else frozenset(profile.questions)
            for name, profile in edge.profiles.items()
        },
        profile=edge.profile,
        questions=frozenset(edge.questions),
    )


def check_reload(before: EdgeSettings, after: EdgeSettings) -> None:
    """Whether a running edge can take other settings.

    Raises:
        ConfigError: something else has changed, which needs a restart.
    """
    if changed := cold_changes(before, after, HOT):
        raise ConfigError(", ".join(f"edge.{key}" for key in changed), "takes effect after a restart")
