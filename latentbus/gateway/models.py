"""What the gateway reads and writes as JSON. The OpenAPI document is made of these."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.messages import Options, check_options
from schemas.types import AnswerType, Name, Outcome, QuestionText, UplinkStage


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class AskRequest(BaseModel):
    """A question to a camera."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    camera: Name
    """Name of the camera."""
    question: QuestionText
    """The question, as a person would ask it."""
    answer_type: AnswerType = AnswerType.TEXT
    """What the answer may look like."""
    options: Options = ()
    """Answers to choose from, for answer type choice."""
    deadline_s: Annotated[float, Field(ge=0.5, le=3_600, allow_inf_nan=False)] = 30.0
    """Time to the final answer, in seconds."""
    ago_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] | None = None
    """Ask the newest kept frame that is at least so old, in seconds, in place of the next one."""
    frame: Annotated[str, Field(max_length=32)] | None = None
    """Ask this frame, which an earlier answer names, in place of the next one."""
    id: Name | None = None
    """Key of the question among those to this camera: asked again under it, the same answer comes."""

    @model_validator(mode="after")
    def _whole(self) -> AskRequest:
        check_options(self.answer_type, self.options)
        return self


class AnswerView(_View):
    """An answer to a question, or the outcome without one."""

    query_id: str
    """Key of the query in the fleet."""
    at: float
    """When the gateway received it, in seconds since 1970."""
    camera: str
    """Its camera."""
    site: str | None = None
    """Site of the camera, where it is known."""
    question_id: str
    """Id of the standing question, or of the asking."""
    ad_hoc: bool
    """Asked once; else a standing question."""
    question: str | None = None
    """The question, where its text is known here."""
    outcome: Outcome | None = None
    """How it ended; null while it is provisional and may improve."""
    text: str = ""
    """The answer."""
    value: bool | int | str | None = None
    """What it says: true or false, a count, an option or a text; null where it has not the form of its type."""
    reason: str = ""
    """Why there is none, or why it is not safe."""
    confidence: float | None = None
    """Estimated chance that the answer from the whole latent is the same."""
    latents: int | None = None
    """Length of the prefix that the model was given."""
    latents_total: int | None = None
    """Length of the whole latent, where the codec is known here."""
    payload_bytes: int | None = None
    """Bytes of latents that came for the frame so far."""
    looks: int | None = None
    """Prefixes that the model has read."""
    worker: str | None = None
    """Who answered."""
    frame: str
    """Identity of the frame within its camera."""
    age_ms: int | Literal["unknown"] | None = None
    """How old the frame was when it was sent first, unknown after a power cut; null for a frame of now."""
    late: bool = False
    """Of a frame that waited on its edge for the link to come back: it says nothing about now."""
    elapsed_ms: int | None = None
    """Time since it was asked, for a question that was asked here."""


class QuestionView(_View):
    """A question of a camera with its latest answers."""

    question_id: str
    """Its id; empty for the latest one that was asked once."""
    question: str | None
    """Its text, where it is known here."""
    answer: AnswerView | None
    """The latest answer that is final."""
    latest: AnswerView | None
    """The latest outcome, whatever it was; the same as the answer in the best case."""
    provisional: AnswerView | None
    """An answer that may still improve, of a later frame."""
    strip: tuple[AnswerView, ...]
    """The latest outcomes, the oldest first."""


class CameraView(_View):
    """A camera with what it is asked."""

    camera: str
    """Its name."""
    site: str | None
    """Its site."""
    online: bool
    """Whether an edge that is online serves it."""
    problem: str | None
    """Why it gives no answers, as far as the statuses tell."""
    questions: tuple[QuestionView, ...]
    """What it is asked, by id."""


class SiteView(_View):
    """A site: one edge process and its uplink."""

    site: str
    """Its name."""
    online: bool
    """Whether its edge is online."""
    pool: str | None
    """Pool of workers that it asks."""
    cameras: tuple[str, ...]
    """Its cameras."""
    uplink: UplinkStage = UplinkStage.NORMAL
    """What it leaves out because of the budget of its uplink."""
    latent_bytes_per_minute: int
    """Bytes of latents of its cameras that were answered within the last minute; headers come on top."""
    frames_per_minute: int
    """Frames of its cameras that were answered within the last minute."""


class WorkerView(_View):
    """A worker of a pool."""

    worker: str
    """Its name."""
    online: bool
    """Whether it is online."""
    pool: str | None
    """Its pool."""
    fingerprint: str
    """Of its codec."""
    frames: int
    """Frames that it holds."""
    capacity: int
    """Frames that it may hold; 0 while it drains."""


class AlertView(_View):
    """An alert: it begins, and it ends."""

    id: int
    """Its number."""
    rule: str
    """Rule of the settings, or the kind of a system alert."""
    source: Literal["answer", "system"]
    """An answer, or the state of the system."""
    severity: Literal["info", "warning", "critical"]
    """As the rule says."""
    camera: str | None = None
    """Camera that it is about."""
    site: str | None = None
    """Site that it is about; of a system alert the name of its ``subject``."""
    subject: Literal["site", "pool", "worker", "gateway"] | None = None
    """What a system alert is about; null of an answer."""
    part: str = ""
    """Camera, folder or file that a system alert is about, if it is no more than that."""
    text: str
    """What it is; for a system alert also what to do."""
    began: float
    """When it began, in seconds since 1970."""
    ended: float | None = None
    """When it ended; null while it goes on."""
    answer: AnswerView | None = None
    """The answer that made it begin."""


class GapView(_View):
    """A time in which the gateway did not hear the broker."""

    began: float
    """When it heard it last, in seconds since 1970."""
    ended: float
    """When it heard it again."""
    kept: bool
    """Whether the broker has kept the outcomes of that time, as many as its queue holds; else they are missing here."""
    reason: str
    """Why, in words."""


class HistoryPage(_View):
    """Outcomes, the newest first."""

    outcomes: tuple[AnswerView, ...]
    """As many as were asked for."""
    next_before: int | None
    """Value of ``before`` for the next page; null on the last one."""
    gaps: tuple[GapView, ...]
    """Times within this page in which the gateway did not hear the broker."""


class AskResult(_View):
    """A question that is over, for those who want no stream."""

    final: AnswerView
    """How it ended."""
    provisional: tuple[AnswerView, ...]
    """The answers before, in order."""


class ProblemView(_View):
    """Why a request is not answered."""

    code: str
    """The kind of problem, for programs."""
    problem: str
    """What is wrong, and what to do instead."""


class HealthView(_View):
    """The state of the gateway."""

    ready: bool
    """Whether it does its work."""
    problems: tuple[str, ...]
    """Why not."""


class SessionRequest(BaseModel):
    """A token, for a browser that keeps it as a cookie."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    token: Annotated[str, Field(min_length=1, max_length=512)]
    """The token."""


class SessionView(_View):
    """Who is asking."""

    name: str | None
    """Name of the token; null where none is needed."""
    role: Literal["viewer", "asker", "operator"]
    """What it may do."""
    cameras: tuple[str, ...]
    """Cameras that it is held to; none means all."""


class Snapshot(_View):
    """Everything that the dashboard shows, at the beginning of a stream."""

    now: float
    """The clock of the gateway, in seconds since 1970."""
    cameras: tuple[CameraView, ...]
    """All cameras."""
    sites: tuple[SiteView, ...]
    """All sites."""
    workers: tuple[WorkerView, ...]
    """All workers."""
    alerts: tuple[AlertView, ...]
    """Alerts that go on, then the latest that are over."""
    gaps: tuple[GapView, ...]
    """The latest times in which the gateway did not hear the broker."""
    health: HealthView
    """The state of the gateway."""
    session: SessionView
    """Who is asking."""


class FleetUpdate(_View):
    """Sites and workers, whenever something of them changes."""

    sites: tuple[SiteView, ...]
    """All sites."""
    workers: tuple[WorkerView, ...]
    """All workers."""
    gaps: tuple[GapView, ...]
    """As in the snapshot."""
    health: HealthView
    """The state of the gateway."""


class CamerasUpdate(_View):
    """Cameras, whenever something of them changes."""

    cameras: tuple[CameraView, ...]
    """All cameras, without what they are asked."""


class CameraList(_View):
    """Cameras."""

    cameras: tuple[CameraView, ...]
    """By name."""


class FleetList(_View):
    """Sites and workers."""

    sites: tuple[SiteView, ...]
    """By name."""
    workers: tuple[WorkerView, ...]
    """By name."""


class AnswerList(_View):
    """Answers."""

    answers: tuple[AnswerView, ...]
    """The latest final answer to each question of each camera."""


class AlertList(_View):
    """Alerts."""

    alerts: tuple[AlertView, ...]
    """Those that go on, then those that are over, each the newest first."""


def iso(at_s: float) -> str:
    """A time as text, for people."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")
