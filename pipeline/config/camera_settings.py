"""Settings of a camera: its source, what is asked of it and when, what is shown of it, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator

from pipeline.codec.spec import FitMode
from pipeline.config.asking_settings import TimeZone, TimingSettings
from pipeline.config.section import Section
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.types import Name
from schemas.week_hours import WeekHours

MAX_INTERVAL_S = 86_400.0
PATH_SCHEMES = ("file", "folder", "images")
"""Kinds of sources whose rest is a path of this machine."""
MAX_MASKS = 32
MAX_CORNERS = 64
MAX_PICTURE_CLIENTS = 64


def _with_area(sides: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = sides
    if left >= right or top >= bottom:
        raise ValueError(f"{list(sides)} has no area: give left, top, right, bottom")
    return sides


def _shape(mask: object) -> str:
    corners = isinstance(mask, list | tuple) and any(isinstance(entry, list | tuple) for entry in mask)
    return "polygon" if corners else "rectangle"


Share = Annotated[float, Field(ge=0, le=1)]
Polygon: TypeAlias = Annotated[tuple[tuple[Share, Share], ...], Field(min_length=3, max_length=MAX_CORNERS)]
Rectangle: TypeAlias = Annotated[tuple[Share, Share, Share, Share], AfterValidator(_with_area)]
Mask: TypeAlias = Annotated[
    Annotated[Rectangle, Tag("rectangle")] | Annotated[Polygon, Tag("polygon")], Discriminator(_shape)
]


class CameraRingSettings(Section):
    """Which frames of a camera are kept."""

    interval_s: Annotated[float, Field(ge=0.02, le=MAX_INTERVAL_S)] | None = None
    """Encode a frame so often for the ring, asked about or not; null keeps only those that are analysed anyway."""
    before_s: Annotated[float, Field(ge=0, le=3_600)] = 0.0
    """Frames so long before an answer that is an event are kept with it."""
    after_s: Annotated[float, Field(ge=0, le=3_600)] = 0.0
    """Frames so long after it; with 0 before and after no event of the camera is kept."""
    pictures_for: Annotated[tuple[Name, ...], Field(max_length=MAX_PICTURE_CLIENTS)] = ()
    """Clients that may fetch the pictures of events; empty: none are made, and no pixels leave the device."""


class CameraSettings(Section):
    """A camera of the site."""

    source: Annotated[str, Field(min_length=1)]
    """Path of a video file, the address of a stream, or a kind and what belongs to it: ``snapshot:http://...``,
    ``v4l2:/dev/video0``, ``folder:PATH``, ``images:PATH``, ``test:SEED``."""
    interval_s: Annotated[float, Field(ge=0.02, le=MAX_INTERVAL_S)] = 1.0
    """Time from one analysed frame to the next."""
    questions: Annotated[tuple[Name, ...], Field(max_length=MAX_QUERIES_PER_FRAME)] = ()
    """Ids of the standing questions that every analysed frame is asked."""
    priority: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Weight of its questions where cameras compete for the uplink: 2 counts each of them twice."""
    uplink_share: Annotated[float, Field(ge=0.001, le=1)] | None = None
    """Part of the uplink that it may use for its standing questions; null has no limit. Needs ``uplink_kbps``."""
    schedule: WeekHours | None = None
    """Hours of the week in which its standing questions are asked: ``mon-fri 08:00-18:00``; null: always."""
    time_zone: TimeZone | None = None
    """Of its schedules; null takes that of the site."""
    overrides: Annotated[dict[Name, TimingSettings], Field(max_length=MAX_QUERIES_PER_FRAME)] = Field(
        default_factory=dict
    )
    """When this camera is asked a question, by id, where that is not as the question says."""
    loop: bool = True
    """Start a video file again at its end."""
    stall_s: Annotated[float, Field(ge=1, le=3600)] = 10.0
    """A live source that shows no new frame for so long is opened again."""
    verify_tls: bool = True
    """The certificate of an ``https://`` or ``rtsps://`` source must be trusted."""
    fit: FitMode | None = None
    """How a frame becomes the model's square; null takes what the codec was calibrated for."""
    region: Rectangle | None = None
    """Part of the frame that is looked at: left, top, right, bottom, as shares of width and height."""
    masks: Annotated[tuple[Mask, ...], Field(max_length=MAX_MASKS)] = ()
    """Parts that are blacked out on the device: rectangles like ``region``, or lists of corners ``[x, y]``."""
    change_gate: bool = True
    """Its questions are not asked of frames that show what the last answered one showed; false asks all frames."""

    ring: CameraRingSettings = Field(default_factory=CameraRingSettings)
    """Which frames are kept for questions about the past."""

    @field_validator("questions")
    @classmethod
    def _distinct(cls, questions: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({question for question in questions if questions.count(question) > 1})
        if repeated:
            raise ValueError(f"listed twice: {', '.join(repeated)}")
        return questions


def source_below(source: str, folder: Path) -> str:
    """A source whose path, if it has one, counts from a folder."""
    if not is_url_or_kind(source):
        return str(folder / Path(source).expanduser())
    scheme, _, path = source.partition(":")
    if scheme.lower() not in PATH_SCHEMES or not path:
        return source
    return f"{scheme}:{folder / Path(path).expanduser()}"


def is_url_or_kind(source: str) -> bool:
    """Whether a source is something else than a file: ``test:7``, ``rtsp://...``."""
    scheme, colon, _ = source.partition(":")
    return bool(colon) and len(scheme) > 1 and scheme.replace("+", "").isalnum()
