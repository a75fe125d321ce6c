"""Settings of the log that a process writes of its own messages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from pipeline.config.section import Section

_Recording = TypeVar("_Recording", bound="RecordingSettings")


class RecordingSettings(Section):
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


def recording_below(recording: _Recording | None, folder: Path) -> _Recording | None:
    """The settings with a file that counts from a folder."""
    if recording is None:
        return None
    return recording.model_copy(update={"file": folder / recording.file.expanduser()})
