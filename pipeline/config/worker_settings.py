"""Settings of a worker of a pool, or of several."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.config.broker_settings import BrokerSettings, Port, broker_below, path_below
from pipeline.config.edge_settings import Threads
from pipeline.config.recording_settings import RecordingSettings, recording_below
from pipeline.config.section import Section
from pipeline.config.serving_settings import ModelPrecision, VllmSettings
from schemas.types import NAME_PATTERN, Name

MAX_BATCH_FRAMES = 1_024
MAX_MORE_POOLS = 16


class MorePoolSettings(Section):
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


class WorkerSettings(Section):
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


def worker_below(worker: WorkerSettings, folder: Path) -> WorkerSettings:
    """The settings with paths that count from a folder."""
    update = {
        "codec": path_below(worker.codec, folder),
        "vlm": _vlm_below(worker.vlm, folder),
        "recording": recording_below(worker.recording, folder),
        "more_pools": {name: _more_pool_below(more, folder) for name, more in worker.more_pools.items()},
    }
    return worker.model_copy(update=update)


def _vlm_below(vlm: str | None, folder: Path) -> str | None:
    if vlm is not None and (vlm.startswith((".", "~")) or (folder / vlm).is_dir()):
        return str(folder / Path(vlm).expanduser())
    return vlm


def _more_pool_below(more: MorePoolSettings, folder: Path) -> MorePoolSettings:
    update = {
        "codec": folder / more.codec.expanduser(),
        "vlm": _vlm_below(more.vlm, folder),
        "broker": None if more.broker is None else broker_below(more.broker, folder),
    }
    return more.model_copy(update=update)
