"""Every setting of a Latentbus process, read from one YAML file.

A file may hold a whole fleet, ``sites:`` and ``pools:`` with defaults that they share, or one process, ``edge:`` or
``worker:``; a process reads its own part (:mod:`pipeline.config.fleet_file`). String values may name
environment variables (``${NAME}`` or ``${NAME:-default}``), and any value can be overridden from the environment
(``LATENTBUS_BROKER__PASSWORD``), so that no secret needs to be in the file. Relative paths count from its folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pipeline.codec.spec import FitMode, Precision
from pipeline.config.asking_settings import MAX_PROFILES, ProfileSettings, TimeZone, TimingSettings
from pipeline.config.fleet_file import Part, read_part
from pipeline.config.gateway_settings import GatewaySettings
from pipeline.config.question_settings import QuestionSettings as QuestionSettings
from pipeline.config.section import Section as _Section
from pipeline.config.serving_settings import ModelPrecision, VllmSettings
from pipeline.config.settings_file import CHECKED, Check, Location, SettingsFile
from pipeline.protocol.journal_requests import MAX_OPEN_ASKS
from pipeline.protocol.store_settings import StorePolicy
from schemas.errors import ConfigError
from schemas.hosts import check_host
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.types import MAX_AGE_MS, NAME_PATTERN, Name
from schemas.week_hours import WeekHours

ENV_PREFIX = "LATENTBUS_"
ENV_DELIMITER = "__"
MAX_CAMERAS_PER_SITE = 128
"""A site's status message lists its cameras; 128 names fit its size limit."""

MAX_SITES = 1_024
MAX_POOLS = 256
MAX_INTERVAL_S = 86_400.0
MAX_UPLINK_KBPS = 10_000_000.0
MAX_BUDGET_MB = 1_000_000_000.0
MAX_BATCH_FRAMES = 1_024
MAX_MORE_POOLS = 16
MAX_NAMED_BUDGETS = 256

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


Port = Annotated[int, Field(ge=1, le=65_535)]
Threads = Annotated[int, Field(ge=1, le=256)]
Share = Annotated[float, Field(ge=0, le=1)]
Polygon: TypeAlias = Annotated[tuple[tuple[Share, Share], ...], Field(min_length=3, max_length=MAX_CORNERS)]
Rectangle: TypeAlias = Annotated[tuple[Share, Share, Share, Share], AfterValidator(_with_area)]
Mask: TypeAlias = Annotated[
    Annotated[Rectangle, Tag("rectangle")] | Annotated[Polygon, Tag("polygon")], Discriminator(_shape)
]
FirstPrefixRule: TypeAlias = Literal["bytes", "delay", "base", "whole"]
_Recording = TypeVar("_Recording", bound="RecordingSettings")


class TlsSettings(_Section):
    """TLS towards the broker; an empty section means TLS with the system's certificate authorities."""

    ca_file: Path | None = None
    """Certificate authority that signed the broker's certificate; null takes the system's."""
    cert_file: Path | None = None
    """Certificate of this client, for brokers that ask for one."""
    key_file: Path | None = None
    """Private key of ``cert_file``."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        return self


class BrokerSettings(_Section):
    """Where the MQTT 5 broker is, and who this process is to it."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Its host name or address."""
    port: Port = 1883
    """Its port; 8883 is usual with TLS."""
    username: str | None = None
    """Identity, if the broker does not take it from the certificate."""
    password: SecretStr | None = None
    """Give it as ``${NAME}`` or ``LATENTBUS_BROKER__PASSWORD``."""
    tls: TlsSettings | None = None
    """An empty section is TLS with the system's certificate authorities."""
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30
    """Silence after which broker and client call each other dead. Each ping costs the uplink some 80 bytes."""
    traceparent: bool = False
    """Mark messages of questions with a W3C ``traceparent``, an MQTT user property of 71 bytes each."""

    @field_validator("host")
    @classmethod
    def _a_host_alone(cls, host: str) -> str:
        return check_host(host)

    @model_validator(mode="after")
    def _password_needs_user(self) -> Self:
        if self.password is not None and self.username is None:
            raise ValueError("a password without a username: set broker.username")
        return self


class CameraRingSettings(_Section):
    """Which frames of a camera are kept."""

    interval_s: Annotated[float, Field(ge=0.02, le=MAX_INTERVAL_S)] | None = None
    """Encode a frame so often for the ring, asked about or not; null keeps only those that are analysed anyway."""
    before_s: Annotated[float, Field(ge=0, le=3_600)] = 0.0
    """Frames so long before an answer that is an event are kept with it."""
    after_s: Annotated[float, Field(ge=0, le=3_600)] = 0.0
    """Frames so long after it; with 0 before and after no event of the camera is kept."""
    pictures_for: Annotated[tuple[Name, ...], Field(max_length=MAX_PICTURE_CLIENTS)] = ()
    """Clients that may fetch the pictures of events; empty: none are made, and no pixels leave the device."""


class RingSettings(_Section):
    """The last frames of every camera, kept in memory as latents for questions about the past."""

    history_s: Annotated[float, Field(ge=0, le=3_600)] = 60.0
    """Age up to which a frame is kept; 0 keeps none."""
    memory_mb: Annotated[float, Field(ge=0.1, le=4_096)] = 16.0
    """Memory that the kept frames of all cameras take at most, in megabytes (1,000,000 bytes)."""
    disk_mb: Annotated[float, Field(ge=0.1, le=100_000)] = 64.0
    """Kept events in ``state_dir``; the oldest are dropped."""
    max_age_s: Annotated[float, Field(ge=60, le=2_678_400)] = 604_800.0
    """Age from which on an event is dropped."""


class CameraSettings(_Section):
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


class RecordingSettings(_Section):
    """A log of what a process sends and receives, written by the process itself."""

    file: Path
    """MCAP file; rotated files get a number before the suffix."""
    max_size_mb: Annotated[float, Field(ge=1, le=1_000_000)] = 512.0
    """Size from which on a new file is begun, in megabytes (1,000,000 bytes)."""
    max_time_s: Annotated[float, Field(ge=1, le=31_536_000)] = 3_600.0
    """Time after which a new file is begun."""
    compression: Literal["lz4", "zstd", "none"] = "lz4"
    """Of the chunks of the file."""


class EdgeRecordingSettings(RecordingSettings):
    """The log of an edge."""

    full_latents: bool = False
    """Store the whole latent of every frame that is asked about, in the log only: the uplink does not carry it."""


class ClientBudgetSettings(_Section):
    """What one client may cost a site."""

    asks_per_s: Annotated[float, Field(ge=0.001, le=10_000)] = 2.0
    """Ad-hoc questions a second, in the long run; further ones are refused."""
    burst_asks: Annotated[int, Field(ge=1, le=100_000)] = 60
    """Ad-hoc questions at once."""
    open_asks: Annotated[int, Field(ge=1, le=MAX_OPEN_ASKS)] = 64
    """Ad-hoc questions without an outcome; the site has room for 256 of all clients."""
    kbps: Annotated[float, Field(ge=0.1, le=MAX_UPLINK_KBPS)] = 8.0
    """Rate of what it causes on the uplink: acknowledgements, refusals, replies. Beyond it refusals are silent."""


class UplinkBudgetSettings(_Section):
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


class ChangeGateSettings(_Section):
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


class StoreSettings(_Section):
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


class EdgeSettings(_Section):
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
        for camera, _, question in _undefined(asked, self.questions):
            raise PydanticCustomError(CHECKED, f"camera {camera} asks {question}, not defined under questions")
        return self


class MorePoolSettings(_Section):
    """A further pool that a worker process serves, as a worker of its own."""

    codec: Path
    """Codec folder of the pool."""
    vlm: Annotated[str, Field(min_length=1)] | None = None
    """Folder or hub id of its model; null takes the worker's, which is loaded once if both pools cut frames alike."""
    vllm: VllmSettings | None = None
    """vLLM server of that model; null takes the worker's, if it is the worker's model."""
    name: Name | None = None
    """Topic name in this pool, unique on the broker; null adds the pool to the worker's name, or draws one."""
    broker: BrokerSettings | None = None
    """Connection under an identity of its own, which a secured broker asks for; null takes the process's."""


class WorkerSettings(_Section):
    """A worker of a pool, or of several."""

    name: Name | None = None
    """Topic name, unique on the broker; null draws one at start, which is what ``--scale`` needs."""
    pool: Name = "main"
    """Pool that it serves."""
    vlm: Annotated[str, Field(min_length=1)] | None = None
    """Folder or hub id of the vision-language model; null takes the bundled reference model."""
    codec: Path | None = None
    """Codec folder, made for that model; null takes the bundled one."""
    max_batch_frames: Annotated[int, Field(ge=1, le=MAX_BATCH_FRAMES)] = 16
    """Frames that one model batch holds at most."""
    max_batch_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 8192
    """Tokens that one model batch reads and writes at most: visual tokens, questions and answers."""
    batch_wait_ms: Annotated[int, Field(ge=0, le=1_000)] = 5
    """A frame that finds the model idle waits so long at most for others to share its batch, in milliseconds."""
    capacity_frames: Annotated[int, Field(ge=1, le=100_000)] = 1024
    """Open messages that wait here at most; further ones are told to come back."""
    threads: Threads | None = None
    """Threads of the model; null lets torch decide."""
    device: Annotated[str, Field(min_length=1)] = "cpu"
    """Device of the model, as torch names it."""
    precision: ModelPrecision = "auto"
    """Arithmetic of the model: ``auto`` is 32 bit on a CPU and the checkpoint's own elsewhere; ``int8`` keeps weights
    in 8 bits."""
    vllm: VllmSettings | None = None
    """vLLM server that runs the language model; null runs it in this process."""
    more_pools: Annotated[dict[Name, MorePoolSettings], Field(max_length=MAX_MORE_POOLS)] = Field(default_factory=dict)
    """Further pools that this process serves, by name."""
    metrics_port: Port | None = None
    """Port of the Prometheus endpoint; null opens none."""
    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address that the endpoint listens on; ``0.0.0.0`` opens it to the network, to whoever reaches the port."""
    recording: RecordingSettings | None = None
    """Log of what this process sends and receives; null writes none. Each further pool has a file of its own."""

    @model_validator(mode="after")
    def _pools_differ(self) -> Self:
        if self.pool in self.more_pools:
            raise ValueError(f"more_pools.{self.pool} is the pool of worker.pool: leave one out")
        names = [name for name in (self.name, *map(self.name_in, self.more_pools)) if name is not None]
        if long := [name for name in names if not re.fullmatch(NAME_PATTERN, name)]:
            raise ValueError(f"{long[0]} is too long: give that entry of more_pools a name")
        if len(set(names)) < len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{repeated} is the name in two pools: each needs one of its own")
        return self

    def name_in(self, pool: str) -> str | None:
        """Topic name in one of the further pools; None where one is drawn."""
        given = self.more_pools[pool].name
        return given if given is not None or self.name is None else f"{self.name}-{pool}"

    def of_pool(self, pool: str) -> WorkerSettings:
        """The settings of a worker of one of the further pools alone."""
        more = self.more_pools[pool]
        recording = self.recording
        if recording is not None:
            file = recording.file
            recording = recording.model_copy(update={"file": file.with_name(f"{file.stem}-{pool}{file.suffix}")})
        update: dict[str, object] = {
            "pool": pool,
            "name": self.name_in(pool),
            "codec": more.codec,
            "vlm": self.vlm if more.vlm is None else more.vlm,
            "vllm": self.vllm if more.vllm is None and more.vlm is None else more.vllm,
            "recording": recording,
            "more_pools": {},
        }
        return self.model_copy(update=update)


class LogSettings(_Section):
    """What is logged, and how it looks."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True)

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    json_lines: bool | None = Field(default=None, alias="json")
    """JSON lines; null writes them unless the output is a terminal."""


class DefaultsSettings(_Section):
    """What sections take where they leave a key out; they are filled in before the settings are read."""

    site: dict[str, Any] = Field(default_factory=dict)
    """Of every site."""
    camera: dict[str, Any] = Field(default_factory=dict)
    """Of every camera."""
    question: dict[str, Any] = Field(default_factory=dict)
    """Of every question."""
    alert: dict[str, Any] = Field(default_factory=dict)
    """Of every alert of a question."""


class LatentbusSettings(BaseSettings):
    """The whole file."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        extra="forbid",
        frozen=True,
        validate_default=False,
    )

    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    """Where the broker is."""
    edge: EdgeSettings | None = None
    """The site of an edge process."""
    worker: WorkerSettings | None = None
    """A worker of a pool."""
    gateway: GatewaySettings | None = None
    """The HTTP gateway of the fleet."""
    sites: Annotated[dict[Name, EdgeSettings], Field(max_length=MAX_SITES)] = Field(default_factory=dict)
    """Sites of a fleet by name; an edge process has its own as ``edge``."""
    pools: Annotated[dict[Name, WorkerSettings], Field(max_length=MAX_POOLS)] = Field(default_factory=dict)
    """Pools of a fleet by name: the settings of their workers."""
    questions: dict[Name, QuestionSettings] = Field(default_factory=dict)
    """Standing questions of all sites whose cameras ask them, by id."""
    profiles: Annotated[dict[Name, ProfileSettings], Field(max_length=MAX_PROFILES)] = Field(default_factory=dict)
    """Profiles of all sites; a site may change a part of one."""
    defaults: DefaultsSettings = Field(default_factory=DefaultsSettings)
    """What sections take where they leave a key out."""
    log: LogSettings = Field(default_factory=LogSettings)
    """What is logged."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is the library's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is the library's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is the library's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file: what is deployed beside a file overrides it."""
        return env_settings, init_settings


ALL = Part()
"""A whole file, whoever reads which part of it."""


def load_settings(path: Path, *, part: Part = ALL, checks: Sequence[Check] = ()) -> LatentbusSettings:
    """Read a settings file.

    Args:
        path: the YAML file.
        part: what of it is read.
        checks: what else must hold; their problems come in one list with all others.

    Returns:
        The settings, environment applied, relative paths made absolute from the file's folder.

    Raises:
        ConfigError: the file cannot be read or is wrong; every problem with its line, key and what is allowed.
    """
    settings = read_part(path, part).validate(
        LatentbusSettings,
        env_prefix=ENV_PREFIX,
        env_delimiter=ENV_DELIMITER,
        checks=(undefined_questions, undefined_channels, *((unknown_in_profiles,) if part == ALL else ()), *checks),
    )
    return _with_absolute_paths(settings, path.absolute().parent)


def settings_of_environment() -> LatentbusSettings:
    """The settings of a command that was given no file: defaults, and what the environment says.

    Raises:
        ConfigError: the environment is wrong.
    """
    return SettingsFile(Path("environment"), {}, {}).validate(
        LatentbusSettings, env_prefix=ENV_PREFIX, env_delimiter=ENV_DELIMITER, checks=(undefined_questions,)
    )


def section(values: Any, *keys: str) -> Mapping[str, Any]:
    """A section of values that may be wrong; empty where there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}


def sites_of(values: Mapping[str, Any]) -> Iterator[tuple[Location, Mapping[str, Any]]]:
    """Where the sites of a file stand, with their values, right or wrong."""
    if isinstance(values.get("edge"), Mapping):
        yield ("edge",), section(values, "edge")
    for name in section(values, "sites"):
        yield ("sites", name), section(values, "sites", name)


def undefined_questions(values: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """A check: questions that a camera is asked and that nobody has written down."""
    for place, site in sites_of(values):
        cameras = {name: section(camera).get("questions") for name, camera in section(site, "cameras").items()}
        asked = {name: questions for name, questions in cameras.items() if isinstance(questions, list)}
        defined = {*section(site, "questions"), *section(values, "questions")}
        known = ", ".join(sorted(defined)) or "none"
        for camera, index, question in _undefined(asked, defined):
            where = (*place, "cameras", camera, "questions", index)
            yield where, f"{question} is not defined under {'.'.join(map(str, place))}.questions ({known})"


def undefined_channels(values: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """A check: channels that the alert of a question tells and that the gateway of the file does not have."""
    if "gateway" not in values:
        return
    alerts = section(values, "gateway", "alerts")
    channels = {*section(alerts, "webhooks"), *section(alerts, "addresses")}
    known = ", ".join(sorted(channels)) or "none"
    for place, site in (((), values), *sites_of(values)):
        for question in section(site, "questions"):
            named = section(site, "questions", question, "alert").get("channels")
            for index, channel in enumerate(named if isinstance(named, list) else ()):
                if isinstance(channel, str) and channel not in channels:
                    where = (*place, "questions", question, "alert", "channels", index)
                    yield where, f"{channel} is no webhook or address under gateway.alerts ({known})"


def unknown_in_profiles(values: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """A check of a whole file: questions and alerts that a profile names and that are nowhere."""
    places = [((), values), *sites_of(values)]
    questions = {question for _, site in places for question in section(site, "questions")}
    alerts = {*questions, *section(values, "gateway", "alerts", "rules")}
    for place, site in places:
        for name in section(site, "profiles"):
            for key, known in (("questions", questions), ("alerts", alerts)):
                named = section(site, "profiles", name).get(key)
                for index, entry in enumerate(named if isinstance(named, list) else ()):
                    if isinstance(entry, str) and entry not in known:
                        yield (
                            (*place, "profiles", name, key, index),
                            f"no {entry} ({', '.join(sorted(known)) or 'none'})",
                        )


def _undefined(asked: Mapping[str, Sequence[Any]], defined: Collection[str]) -> Iterator[tuple[str, int, str]]:
    """Camera, place and id of each question that is not defined."""
    for camera, questions in asked.items():
        for index, question in enumerate(questions):
            if isinstance(question, str) and question not in defined:
                yield camera, index, question


def require_edge(settings: LatentbusSettings, path: Path) -> EdgeSettings:
    """The edge section.

    Raises:
        ConfigError: the file has none.
    """
    if settings.edge is None:
        raise ConfigError(str(path), "no edge section: add `edge:` with at least site and cameras, or `sites:`")
    return settings.edge


def require_worker(settings: LatentbusSettings, path: Path) -> WorkerSettings:
    """The worker section.

    Raises:
        ConfigError: the file has none.
    """
    if settings.worker is None:
        raise ConfigError(str(path), "no worker section: add `worker: {}` for the defaults, or `pools:`")
    return settings.worker


def require_gateway(settings: LatentbusSettings, path: Path) -> GatewaySettings:
    """The gateway section.

    Raises:
        ConfigError: the file has none.
    """
    if settings.gateway is None:
        raise ConfigError(str(path), "no gateway section: add `gateway: {}` for the defaults")
    return settings.gateway


def _with_absolute_paths(settings: LatentbusSettings, folder: Path) -> LatentbusSettings:
    edge, worker = settings.edge, settings.worker
    update = {
        "broker": _broker_below(settings.broker, folder),
        "edge": None if edge is None else _site_below(edge, folder),
        "worker": None if worker is None else _worker_below(worker, folder),
        "gateway": None if settings.gateway is None else settings.gateway.below(folder),
        "sites": {name: _site_below(site, folder) for name, site in settings.sites.items()},
        "pools": {name: _worker_below(pool, folder) for name, pool in settings.pools.items()},
    }
    return settings.model_copy(update=update)


def _site_below(edge: EdgeSettings, folder: Path) -> EdgeSettings:
    cameras = {
        name: camera.model_copy(update={"source": source_below(camera.source, folder)})
        for name, camera in edge.cameras.items()
    }
    files = {name: _below(getattr(edge, name), folder) for name in ("codec", "state_dir", "frame_log")}
    update = {"cameras": cameras, "recording": _recording_below(edge.recording, folder), **files}
    return edge.model_copy(update=update)


def _worker_below(worker: WorkerSettings, folder: Path) -> WorkerSettings:
    update = {
        "codec": _below(worker.codec, folder),
        "vlm": _vlm_below(worker.vlm, folder),
        "recording": _recording_below(worker.recording, folder),
        "more_pools": {name: _more_pool_below(more, folder) for name, more in worker.more_pools.items()},
    }
    return worker.model_copy(update=update)


def _below(path: Path | None, folder: Path) -> Path | None:
    return None if path is None else folder / path.expanduser()


def _broker_below(broker: BrokerSettings, folder: Path) -> BrokerSettings:
    if broker.tls is None:
        return broker
    files = {name: _below(getattr(broker.tls, name), folder) for name in ("ca_file", "cert_file", "key_file")}
    return broker.model_copy(update={"tls": broker.tls.model_copy(update=files)})


def _vlm_below(vlm: str | None, folder: Path) -> str | None:
    if vlm is not None and (vlm.startswith((".", "~")) or (folder / vlm).is_dir()):
        return str(folder / Path(vlm).expanduser())
    return vlm


def _more_pool_below(more: MorePoolSettings, folder: Path) -> MorePoolSettings:
    update = {
        "codec": folder / more.codec.expanduser(),
        "vlm": _vlm_below(more.vlm, folder),
        "broker": None if more.broker is None else _broker_below(more.broker, folder),
    }
    return more.model_copy(update=update)


def _recording_below(recording: _Recording | None, folder: Path) -> _Recording | None:
    if recording is None:
        return None
    return recording.model_copy(update={"file": folder / recording.file.expanduser()})


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
