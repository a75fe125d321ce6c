"""Settings of a site: one edge process, its cameras and the uplink that they share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.codec.spec import Precision
from pipeline.config.asking_settings import MAX_PROFILES, ProfileSettings, TimeZone
from pipeline.config.broker_settings import Port, path_below
from pipeline.config.camera_settings import MAX_INTERVAL_S, CameraSettings, source_below
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.recording_settings import EdgeRecordingSettings, recording_below
from pipeline.config.section import Section
from pipeline.config.settings_file import CHECKED
from pipeline.protocol.journal_requests import MAX_OPEN_ASKS
from pipeline.protocol.store_settings import StorePolicy
from schemas.types import MAX_AGE_MS, Name

MAX_CAMERAS_PER_SITE = 128
"""A site's status message lists its cameras; 128 names fit its size limit."""
MAX_UPLINK_KBPS = 10_000_000.0
MAX_BUDGET_MB = 1_000_000_000.0
MAX_NAMED_BUDGETS = 256
Threads = Annotated[int, Field(ge=1, le=256)]
FirstPrefixRule: TypeAlias = Literal["bytes", "delay", "base", "whole"]


class RingSettings(Section):
    """The last frames of every camera, kept in memory as latents for questions about the past."""

    history_s: Annotated[float, Field(ge=0, le=3_600)] = 60.0
    """Age up to which a frame is kept; 0 keeps none."""
    memory_mb: Annotated[float, Field(ge=0.1, le=4_096)] = 16.0
    """Memory that the kept frames of all cameras take at most, in megabytes (1,000,000 bytes)."""
    disk_mb: Annotated[float, Field(ge=0.1, le=100_000)] = 64.0
    """Kept events in ``state_dir``; the oldest are dropped."""
    max_age_s: Annotated[float, Field(ge=60, le=2_678_400)] = 604_800.0
    """Age from which on an event is dropped."""


class ClientBudgetSettings(Section):
    """What one client may cost a site."""

    asks_per_s: Annotated[float, Field(ge=0.001, le=10_000)] = 2.0
    """Ad-hoc questions a second, in the long run; further ones are refused."""
    burst_asks: Annotated[int, Field(ge=1, le=100_000)] = 60
    """Ad-hoc questions at once."""
    open_asks: Annotated[int, Field(ge=1, le=MAX_OPEN_ASKS)] = 64
    """Ad-hoc questions without an outcome; the site has room for 256 of all clients."""
    kbps: Annotated[float, Field(ge=0.1, le=MAX_UPLINK_KBPS)] = 8.0
    """Rate of what it causes on the uplink: acknowledgements, refusals, replies. Beyond it refusals are silent."""


class UplinkBudgetSettings(Section):
    """What a site may send in a day and in a month, in megabytes (1,000,000 bytes on the wire)."""

    day_mb: Annotated[float, Field(ge=1, le=MAX_BUDGET_MB)] | None = None
    """From midnight to midnight of UTC; null has no limit."""
    month_mb: Annotated[float, Field(ge=1, le=MAX_BUDGET_MB)] | None = None
    """In a month of the contract; null has no limit."""
    month_begins: Annotated[int, Field(ge=1, le=28)] = 1
    """Day on which the month begins, at midnight of UTC."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.day_mb is None and self.month_mb is None:
            raise ValueError("a budget without day_mb and month_mb: give one of them")
        return self


class ChangeGateSettings(Section):
    """When standing questions are not asked, because the scene is as it was."""

    enabled: bool = True
    """False asks them of every frame."""
    max_age_s: Annotated[float, Field(ge=1, le=MAX_INTERVAL_S)] = 600.0
    """From the capture of a frame, its answer holds on so long at most; then a frame is asked, whatever it shows."""
    renew_s: Annotated[float, Field(ge=1, le=MAX_INTERVAL_S)] = 180.0
    """Silence about a question after which an *unchanged* outcome says that its answer holds on. A camera that is
    silent for longer shows nothing."""

    @model_validator(mode="after")
    def _renews_in_time(self) -> Self:
        if self.renew_s > self.max_age_s:
            raise ValueError(
                f"renew_s {self.renew_s:g} is above max_age_s {self.max_age_s:g}: nothing would be renewed"
            )
        return self


class StoreSettings(Section):
    """Frames that a site keeps while it has no link, for its standing questions."""

    policy: StorePolicy = StorePolicy.NEWEST
    """``newest`` keeps the newest frame of each question, ``every_nth`` those of every n-th slot, ``off`` none."""
    nth: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """With ``every_nth``: slots of a camera from one kept frame to the next."""
    max_frames: Annotated[int, Field(ge=1, le=100_000)] = 4_096
    """Frames kept; beyond it the oldest goes first, of each question the newest last."""
    max_mb: Annotated[float, Field(ge=0.1, le=10_000)] = 16.0
    """Size of their latents in megabytes (1,000,000 bytes); the file may be twice as large."""
    max_age_s: Annotated[float, Field(ge=1, le=MAX_AGE_MS / 1000)] = 604_800.0
    """Older frames are dropped."""

    @property
    def max_bytes(self) -> int:
        """Size of the latents."""
        return round(self.max_mb * 1_000_000)


class EdgeSettings(Section):
    """A site: one edge process, whose cameras share one uplink."""

    site: Name
    """Name of this process; its cameras share one uplink."""
    pool: Name = "main"
    """Pool of workers that answers; edge and workers of a pool carry the same codec."""
    uplink_kbps: Annotated[float, Field(ge=1, le=MAX_UPLINK_KBPS)] | None = None
    """Rate that this process may put on the uplink, all bytes on the wire counted; null leaves it unlimited."""
    uplink_gather_ms: Annotated[int, Field(ge=0, le=5_000)] = 0
    """Longest wait of a frame with standing questions for those of the other cameras, in milliseconds: what leaves
    together shares its headers. The cameras then take their frames at the same time, not one after the other."""
    uplink_budget: UplinkBudgetSettings | None = None
    """What may be sent in a day and in a month; null has no limit. Needs ``state_dir``."""
    codec: Path | None = None
    """Codec folder; null takes the bundled one."""
    first_prefix: FirstPrefixRule = "bytes"
    """What the first message of a frame carries: the prefix that needs the fewest expected wire bytes, or the shortest
    expected time, until all is answered; always the codec's base prefix; or always the whole latent."""
    key_frames: bool = True
    """Code frames given an earlier one of their camera, wherever that saves bytes; false codes each by itself."""
    change_gate: ChangeGateSettings = Field(default_factory=ChangeGateSettings)
    """When standing questions are not asked, because the scene is as it was."""
    cameras: Annotated[dict[Name, CameraSettings], Field(min_length=1, max_length=MAX_CAMERAS_PER_SITE)]
    """By name."""
    questions: dict[Name, QuestionSettings] = Field(default_factory=dict)
    """Standing questions by id. The id travels with every frame, the text only once: keep ids short."""
    time_zone: TimeZone = "UTC"
    """Of the schedules of its cameras, by its IANA name."""
    profiles: Annotated[dict[Name, ProfileSettings], Field(max_length=MAX_PROFILES)] = Field(default_factory=dict)
    """Sets of questions and alerts, by name; an operator switches them by one message."""
    profile: Name | None = None
    """The one that holds unless an operator says otherwise; null: everything is asked and counts."""
    client_budget: ClientBudgetSettings = Field(default_factory=ClientBudgetSettings)
    """What each client may cost this site."""
    client_budgets: Annotated[dict[Name, ClientBudgetSettings], Field(max_length=MAX_NAMED_BUDGETS)] = Field(
        default_factory=dict
    )
    """Budgets of clients that ask for many people, by name: gateways and operators."""
    ring: RingSettings = Field(default_factory=RingSettings)
    """How many frames are kept for questions about the past."""
    state_dir: Path | None = None
    """Folder of what must survive a restart (ad-hoc questions not yet answered, stored frames); null keeps nothing."""
    store: StoreSettings = Field(default_factory=StoreSettings)
    """Frames that are kept while there is no link."""
    metrics_port: Port | None = None
    """Port of the Prometheus endpoint; null opens none."""
    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address that the endpoint listens on; ``0.0.0.0`` opens it to the network, to whoever reaches the port."""
    frame_log: Path | None = None
    """JSON lines for whoever scores the answers: which source frame became which frame id, and the uplink bytes."""
    recording: EdgeRecordingSettings | None = None
    """Log of what this process sends and receives; null writes none."""
    threads: Threads = 1
    """Threads of the encoder."""
    precision: Precision = "fp32"
    """Arithmetic of the encoder: ``fp32``, or ``int8`` where the codec folder has an encoder in 8-bit integers."""

    @model_validator(mode="after")
    def _ring_reaches_back(self) -> Self:
        for name, camera in self.cameras.items():
            if camera.ring.before_s > self.ring.history_s:
                problem = f"camera {name}: ring.before_s is longer than edge.ring.history_s, {self.ring.history_s:g} s"
                raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _shares_are_of_something(self) -> Self:
        shared = [name for name, camera in self.cameras.items() if camera.uplink_share is not None]
        if shared and self.uplink_kbps is None:
            raise ValueError(f"camera {shared[0]} has an uplink_share of no rate: set uplink_kbps")
        return self

    @model_validator(mode="after")
    def _profile_exists(self) -> Self:
        if self.profile is not None and self.profile not in self.profiles:
            known = ", ".join(sorted(self.profiles)) or "none"
            raise ValueError(f"profile {self.profile} is not among its profiles ({known})")
        return self

    @model_validator(mode="after")
    def _budget_is_kept(self) -> Self:
        if self.uplink_budget is not None and self.state_dir is None:
            raise ValueError("uplink_budget without state_dir: a restart would forget what was spent")
        return self

    @model_validator(mode="after")
    def _questions_exist(self) -> Self:
        asked = {name: camera.questions for name, camera in self.cameras.items()}
        for camera, _, question in undefined_in(asked, self.questions):
            raise PydanticCustomError(CHECKED, f"camera {camera} asks {question}, not defined under questions")
        return self


def site_below(edge: EdgeSettings, folder: Path) -> EdgeSettings:
    """The settings with paths that count from a folder."""
    cameras = {
        name: camera.model_copy(update={"source": source_below(camera.source, folder)})
        for name, camera in edge.cameras.items()
    }
    files = {name: path_below(getattr(edge, name), folder) for name in ("codec", "state_dir", "frame_log")}
    update = {"cameras": cameras, "recording": recording_below(edge.recording, folder), **files}
    return edge.model_copy(update=update)


def undefined_in(asked: Mapping[str, Sequence[Any]], defined: Collection[str]) -> Iterator[tuple[str, int, str]]:
    """Camera, place and id of each question that is not defined."""
    for camera, questions in asked.items():
        for index, question in enumerate(questions):
            if isinstance(question, str) and question not in defined:
                yield camera, index, question
