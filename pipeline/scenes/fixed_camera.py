"""A camera that looks at one place for hours: what stands there, what passes by now and then, and what never stops.

Sensor noise is new in every frame, the light drifts, exposure hunts, rain comes and goes, wind moves what gives way.
None of these is an event. An event is something that is there for a while and was not before, or the other way round:
mostly one object, as small as scenes have them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from pipeline.scenes.motion import SceneClip, Track
from pipeline.scenes.questions import QuestionSpec
from pipeline.scenes.scene import Scene, SceneObject, clash

_STAGE_S: Final = 1.0
"""Length of a shot of the clip that things are taken from; it has no meaning here."""
_SWAYS: Final = ("tree", "umbrella", "sign")
_PROGRESS_CHECKS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that differs from the rest of the time.

    Attributes:
        start_s: From then on.
        end_s: Until then.
        visitor: What passes or stands there; None where something that is always there is gone instead.
        gone: Place of that in the scene's own objects; None for a visitor.
    """

    start_s: float
    end_s: float
    visitor: Track | None = None
    gone: int | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a place goes through without anything happening.

    Attributes:
        drift: Largest change of the light, as a share of it.
        drift_period_s: Of a full swing.
        exposure: Largest change of exposure from one frame to the next, as a share.
        sway: How far wind moves what gives way, as a share of the frame.
        rain: Shares of each ``rain_period_s`` between which it rains; equal ones for no rain.
        rain_period_s: See there.
    """

    drift: float = 0.05
    drift_period_s: float = 1_800.0
    exposure: float = 0.005
    sway: float = 0.003
    rain: tuple[float, float] = (0.0, 0.0)
    rain_period_s: float = 3_600.0


def sample_conditions(rng: np.random.Generator) -> Conditions:
    """Conditions of a place: three in ten see rain."""
    rain = (0.0, 0.0)
    if rng.random() < 0.3:
        start = float(rng.uniform(0, 0.5))
        rain = (start, start + float(rng.uniform(0.2, 0.5)))
    return Conditions(
        drift=float(rng.uniform(0.01, 0.08)),
        drift_period_s=float(rng.uniform(900, 5_400)),
        exposure=float(rng.uniform(0, 0.01)),
        sway=float(rng.uniform(0, 0.004)),
        rain=rain,
        rain_period_s=float(rng.uniform(600, 7_200)),
    )


class FixedCamera:
    """Scenes of one place over time.

    Args:
        seed: Same seed and arguments, same scenes.
        questions: What the place is laid out to answer clearly.
        event_times_s: When something happens, from and until, ascending and apart from one another.
        conditions: What goes on all the time; drawn unless given.

    Attributes:
        questions: As given.
        conditions: What goes on all the time.
        events: What happens; of the times given, those for which a place was found.
    """

    def __init__(
        self,
        seed: int,
        questions: Sequence[QuestionSpec],
        event_times_s: Sequence[tuple[float, float]],
        *,
        conditions: Conditions | None = None,
    ) -> None:
        rng = np.random.default_rng([seed, 7])
        self.questions = tuple(questions)
        self.conditions = conditions or sample_conditions(rng)
        self._seed = seed
        # 60 % of the mean is the shortest shot, so there is one for every event.
        clip = SceneClip(seed, (len(event_times_s) + 2) * _STAGE_S * 1.4, questions, mean_shot_s=_STAGE_S,
                         one_place=True)  # fmt: skip
        first = clip.scene_at(0.0)
        self._base = replace(first, objects=tuple(replace(item, moving=False) for item in first.objects))
        self._phase = float(rng.uniform(0, 2 * math.pi))
        self.events = tuple(
            event
            for number, (start_s, end_s) in enumerate(event_times_s, start=1)
            if (event := self._event(rng, clip.tracks(number), start_s, end_s)) is not None
        )

    def event_at(self, t_s: float) -> Event | None:
        """What happens at a time; None for nothing."""
        return next((event for event in self.events if event.start_s <= t_s < event.end_s), None)

    def scene_at(self, t_s: float) -> Scene:
        """The scene at a time, in seconds from the start."""
        there, base, rng = self.conditions, self._base, np.random.default_rng([self._seed, 8, round(t_s * 1000)])
        objects = [self._in_the_wind(item, number, t_s) for number, item in enumerate(base.objects)]
        event = self.event_at(t_s)
        if event is not None and event.gone is not None:
            del objects[event.gone]
        elif event is not None and event.visitor is not None:
            objects.append(event.visitor.at((t_s - event.start_s) / (event.end_s - event.start_s)))
        swing = math.sin(2 * math.pi * t_s / there.drift_period_s + self._phase)
        light = 1 + there.drift * swing + there.exposure * float(rng.uniform(-1, 1))
        share = (t_s / there.rain_period_s) % 1
        return replace(
            base,
            objects=tuple(sorted(objects, key=lambda item: item.box[3])),
            brightness=base.brightness * light,
            sun=max(-1.0, min(1.0, base.sun + 0.2 * there.drift * swing)),
            weather="rain" if there.rain[0] <= share < there.rain[1] else base.weather,
            noise_seed=int(rng.integers(2**32)),
        )

    def _in_the_wind(self, item: SceneObject, number: int, t_s: float) -> SceneObject:
        if item.kind not in _SWAYS:
            return item
        return replace(item, x=item.x + self.conditions.sway * math.sin(1.7 * t_s + number + self._phase))

    def _event(self, rng: np.random.Generator, tracks: Sequence[Track], start_s: float, end_s: float) -> Event | None:
        present = self._base.objects
        if present and rng.random() < 0.25:
            return Event(start_s, end_s, gone=int(rng.integers(len(present))))
        for number in rng.permutation(len(tracks)).tolist():
            track = tracks[number]
            if not any(clash(track.at(share), item) for item in present for share in _PROGRESS_CHECKS):
                return Event(start_s, end_s, visitor=track)
        return Event(start_s, end_s, gone=int(rng.integers(len(present)))) if present else None
