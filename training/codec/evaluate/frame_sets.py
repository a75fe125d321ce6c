"""Frames that a codec is evaluated on: drawn ones, or somebody's own images and questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipeline.codec.spec import FrameFit
from schemas.errors import ConfigError
from training.codec.data import AskedFrames
from training.codec.frame_source import FrameSource
from training.codec.own_frames import OwnFrames

_SELECTION_SHARE: Final = 3
"""One in so many of somebody's own frames chooses settings; the others are reported."""
_MIN_FRAMES: Final = 2
"""Of each part: the variance of one frame's tokens is nothing that errors could be measured by."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Two disjoint sets of frames of one domain.

    Attributes:
        domain: What they show.
        selection: On these the baselines' settings are chosen.
        report: On these everything is scored.
    """

    domain: str
    selection: AskedFrames
    report: AskedFrames


def drawn_set(source: FrameSource, *, frames: int, selection: int) -> EvaluationSet:
    """Frames of the source's one domain that nothing was trained, counted or calibrated on.

    Args:
        source: Draws and keeps them.
        frames: Reported ones.
        selection: Those on which settings are chosen.

    Raises:
        ConfigError: Photographs are wanted and none are given.
        ArtifactError: They cannot be read.
    """
    domain = source.domains[0]
    return EvaluationSet(domain, source.frames("selection", selection), source.frames("report", frames))


def own_set(own: OwnFrames, size_px: int, fit: FrameFit) -> EvaluationSet:
    """A third of somebody's own images for choosing settings, the others for scoring.

    Raises:
        ConfigError: There are too few.
        ArtifactError: An image cannot be read.
    """
    if len(own) < 2 * _MIN_FRAMES:
        raise ConfigError(
            str(own.questions_file),
            f"asks about {len(own)} frames; choosing and scoring need {2 * _MIN_FRAMES} or more",
        )
    few = max(_MIN_FRAMES, len(own) // _SELECTION_SHARE)
    return EvaluationSet("own", own.part(0, few, size_px, fit), own.part(few, len(own), size_px, fit))
