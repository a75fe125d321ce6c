"""The log that an edge or a worker keeps of itself. It never holds the process up, and never stops it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import yaml

from pipeline.bus.base import Bus, MqttProperties
from pipeline.codec.spec import SPEC_FILE, STOP_FILE
from pipeline.config.logs import get_logger
from pipeline.config.recording_settings import RecordingSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.node.metrics import Metrics
from pipeline.recording.bus_tap import TappedBus
from pipeline.recording.format import LOG_METADATA, Compression
from pipeline.recording.recorder import Recorder, RecorderOptions
from pipeline.recording.series import SeriesOptions
from pipeline.recording.stored_latent import StoredLatent, encode_stored_latent, latent_topic
from schemas.errors import ConfigError, RecordingError

RETRY_S: Final = 10.0
"""Time until a new file is tried, after one could not be written."""
BYTES_PER_MB: Final = 1_000_000
CONFIG_ATTACHMENTS: Final = "config/"
"""Attachments below it are settings of processes."""
JSON_MEDIA_TYPE: Final = "application/json"
YAML_MEDIA_TYPE: Final = "application/yaml"

_PASSING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""Problems of a disk that may pass, and that nobody at a site can solve by another setting."""

_log = get_logger(__name__)


class NodeLog:
    """Records what a process sends and receives, from entry to exit of its context.

    A file that can never be written is a wrong setting and an error at the start. A disk that is full, then or later,
    costs messages of the log, which are counted, and nothing else; writing goes on in a new file when there is room.

    Args:
        settings: the recording section.
        where: its place in the settings, for errors.
        name: who records, ``edge/north`` for example.
        attachments: media type and bytes of what explains the log, by name.
    """

    def __init__(
        self, settings: RecordingSettings, *, where: str, name: str, attachments: Mapping[str, tuple[str, bytes]]
    ) -> None:
        self._settings = settings
        self._where = where
        self._options = RecorderOptions(
            series=SeriesOptions(
                compression=Compression(settings.compression),
                max_file_bytes=round(settings.max_size_mb * BYTES_PER_MB),
                max_file_s=settings.max_time_s,
                metadata={LOG_METADATA: {"recorded_by": name}},
                attachments=attachments,
                append=True,
            ),
            retry_s=RETRY_S,
        )
        self._owned = AsyncExitStack()
        self._recorder: Recorder | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._missed = 0

    async def __aenter__(self) -> Self:
        """Begin the log.

        Raises:
            ConfigError: the file cannot be written there, full disk or not.
        """
        try:
            await self._begin()
        except RecordingError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in _PASSING:
                raise ConfigError(self._where, str(error)) from error
            _log.error("the log cannot be begun", path=error.path, problem=error.problem, retry_s=RETRY_S)
            self._beginning = asyncio.create_task(self._begin_later(), name="recording")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write what waits, and close the file."""
        if self._beginning is not None:
            self._beginning.cancel()
            await asyncio.wait({self._beginning})
        await self._owned.aclose()
        counts = self.counts()
        if counts["dropped"]:
            _log.warning("the log is not complete", **counts)

    def tap(self, bus: Bus) -> Bus:
        """The same bus, with this log listening."""
        return TappedBus(bus, self)

    def offer(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: MqttProperties | None = None,
        received_s: float | None = None,
    ) -> bool:
        """See :class:`~pipeline.recording.bus_tap.Tap`."""
        if self._recorder is None:
            self._missed += 1
            return False
        return self._recorder.offer(
            topic, payload, qos=qos, retain=retain, properties=properties, received_s=received_s
        )

    def store_latent(self, stored: StoredLatent) -> None:
        """Keep the whole latent of a frame; nothing is sent."""
        self.offer(latent_topic(stored.camera), encode_stored_latent(stored))

    def counts(self) -> dict[str, float]:
        """Messages by what became of them, for metrics."""
        if self._recorder is None:
            return {"written": 0, "dropped": self._missed}
        statistics = self._recorder.statistics()
        return {"written": statistics.written_messages, "dropped": statistics.dropped_messages + self._missed}

    def watch(self, metrics: Metrics) -> None:
        """Export the counts."""
        metrics.watch_counters("recording_messages", "Messages of the process' own log", "result", self.counts)

    async def _begin(self) -> None:
        path = self._settings.file
        try:
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            raise RecordingError(str(path), f"cannot be written: {error.strerror or error}") from error
        self._recorder = await self._owned.enter_async_context(Recorder(path, self._options))

    async def _begin_later(self) -> None:
        while self._recorder is None:
            await asyncio.sleep(RETRY_S)
            try:
                await self._begin()
            except RecordingError:
                continue
            _log.info("the log is begun", path=str(self._settings.file), missed_messages=self._missed)


def node_log(
    recording: RecordingSettings,
    settings: LatentbusSettings,
    *,
    kind: str,
    name: str,
    codec_dir: Path,
    metrics: Metrics,
) -> NodeLog:
    """The log of a process, with what it takes to understand it later attached.

    Args:
        recording: the recording section.
        settings: all settings of the process; credentials in sources removed.
        kind: ``edge`` or ``worker``, which is also its section of the settings.
        name: site or worker.
        codec_dir: codec folder of the process.
        metrics: where it counts.
    """
    who = f"{kind}/{name}"
    # The broker's section says nothing about the traffic, and holds secrets.
    text = yaml.safe_dump(settings.model_dump(mode="json", by_alias=True, exclude={"broker"}), sort_keys=False)
    attachments = {config_attachment(who): (YAML_MEDIA_TYPE, text.encode())}
    for file in (SPEC_FILE, STOP_FILE):
        path = codec_dir / file
        if path.is_file():
            attachments[file] = (JSON_MEDIA_TYPE, path.read_bytes())
    log = NodeLog(recording, where=f"{kind}.recording.file", name=who, attachments=attachments)
    log.watch(metrics)
    return log


def config_attachment(name: str) -> str:
    """Name of the attachment that holds the settings of a process."""
    return f"{CONFIG_ATTACHMENTS}{name}.yaml"
