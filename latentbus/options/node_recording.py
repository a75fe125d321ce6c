"""``--record`` of the edge and worker commands: the recording section of the settings, from the command line."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.recording_settings import EdgeRecordingSettings, RecordingSettings
from pipeline.config.worker_settings import WorkerSettings
from schemas.errors import ConfigError


def recorded_edge(edge: EdgeSettings, file: Path | None, *, full_latents: bool) -> EdgeSettings:
    """The edge's settings with its options applied.

    Args:
        edge: settings from the file.
        file: where to record; None leaves it to the settings.
        full_latents: store whole latents.

    Raises:
        ConfigError: whole latents shall be kept, and nothing is recorded.
    """
    recording = edge.recording
    if file is not None:
        path = file.absolute()
        recording = (
            EdgeRecordingSettings(file=path) if recording is None else recording.model_copy(update={"file": path})
        )
    if full_latents:
        if recording is None:
            raise ConfigError("--full-latents", "nothing is recorded: add --record FILE, or edge.recording.file")
        recording = recording.model_copy(update={"full_latents": True})
    return edge.model_copy(update={"recording": recording})


def recorded_worker(worker: WorkerSettings, file: Path | None) -> WorkerSettings:
    """The worker's settings with ``--record`` applied; None leaves it to the settings."""
    if file is None:
        return worker
    path = file.absolute()
    recording = worker.recording
    recording = RecordingSettings(file=path) if recording is None else recording.model_copy(update={"file": path})
    return worker.model_copy(update={"recording": recording})
