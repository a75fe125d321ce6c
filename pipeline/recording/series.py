"""Writes a log that goes on in further files: by size, by time, and when a file has no channel left.

``run.mcap`` is followed by ``run.1.mcap``, ``run.2.mcap`` and so on. Sequence numbers run on through all of them, so
that a reader of the whole series sees what is missing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.logs import get_logger
from pipeline.recording.format import FINGERPRINT_METADATA, LOG_METADATA, Compression
from pipeline.recording.message import Gap, LoggedMessage
from pipeline.recording.rewrite import rechunk
from pipeline.recording.writer import LogWriter
from schemas import topics, wire
from schemas.errors import RecordingError, WireError
from schemas.messages import Status
from schemas.topics import Family

MAX_FINGERPRINTS = 4_096
"""Processes whose fingerprint is noted; one worker pool has far fewer."""
_STATUS_ROOT = topics.family_filter(Family.STATUS).removesuffix("+/+")

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SeriesOptions:
    """How a series of files is written.

    Attributes:
        compression: compression of the chunks.
        max_file_bytes: size at which a new file is begun; None for no limit.
        max_file_s: age at which a new file is begun, in seconds; None for no limit.
        metadata: metadata records of each file, by name.
        attachments: media type and bytes of each attachment, by name; in each file, so that each stands alone.
        append: go on after the files that are there; else the first file must not exist.
    """

    compression: Compression = Compression.LZ4
    max_file_bytes: int | None = None
    max_file_s: float | None = None
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    attachments: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    append: bool = False


class LogSeries:
    """Writes messages to a series of files. Not thread-safe; finished files are re-chunked in a thread of its own.

    Args:
        path: the first file.
        options: see :class:`SeriesOptions`.

    Attributes:
        files: files that were begun.

    Raises:
        RecordingError: the first file exists, or cannot be written.
    """

    def __init__(self, path: Path, options: SeriesOptions) -> None:
        self._path = path
        self._options = options
        self._number = 0
        self._fingerprints: dict[str, str] = {}
        self._rechunker = ThreadPoolExecutor(1, "rechunk")
        self.files = 0
        self._begin(first=True)

    @property
    def path(self) -> Path:
        """The file that is being written."""
        return self._writer.path

    @property
    def file_bytes(self) -> int:
        """Its size."""
        return self._writer.size_bytes

    def write(self, message: LoggedMessage) -> None:
        """Write a message.

        Raises:
            RecordingError: the file cannot be written.
        """
        if not self._writer.has_room(message):
            self._next()
        self._writer.write(message)
        if message.topic.startswith(_STATUS_ROOT):
            self._note_status(message)

    def write_gap(self, gap: Gap) -> None:
        """Write that messages are missing here.

        Raises:
            RecordingError: the file cannot be written.
        """
        self._writer.write_gap(gap)

    def flush(self) -> None:
        """Make what was written survive the end of this process, and begin a new file if it is time.

        Raises:
            RecordingError: a file cannot be written.
        """
        self._writer.flush()
        if not self._writer.messages:
            return
        limits = self._options
        full = limits.max_file_bytes is not None and self._writer.size_bytes >= limits.max_file_bytes
        old = limits.max_file_s is not None and time.monotonic() - self._begun_s >= limits.max_file_s
        if full or old:
            self._next()

    def begin_anew(self) -> None:
        """Begin a new file after the present one could not be written.

        Raises:
            RecordingError: this one cannot be written either.
        """
        self._writer.abandon()
        self._begin()

    def close(self) -> None:
        """Close the file and wait until finished files are re-chunked. Harmless twice.

        Raises:
            RecordingError: the file cannot be written; what was flushed can be recovered.
        """
        try:
            self._finish()
        finally:
            self._rechunker.shutdown()

    def abandon(self) -> None:
        """Leave the file as it is, without a summary. Harmless twice."""
        self._writer.abandon()
        self._rechunker.shutdown()

    def _next(self) -> None:
        self._finish()
        self._begin()

    def _begin(self, first: bool = False) -> None:
        while True:
            path = self._path_of(self._number)
            self._number += 1
            try:
                self._writer = LogWriter(path, compression=self._options.compression, metadata=self._metadata())
                break
            except RecordingError:
                if not path.exists() or (first and not self._options.append):
                    raise
        self.files += 1
        self._begun_s = time.monotonic()
        for name, (media_type, data) in self._options.attachments.items():
            self._writer.attach(name, media_type, data)

    def _finish(self) -> None:
        writer = self._writer
        if self._fingerprints:
            with contextlib.suppress(RecordingError):  # closing says it better
                writer.metadata(FINGERPRINT_METADATA, self._fingerprints)
        writer.close()
        if writer.small_chunks:
            self._rechunker.submit(self._rechunk, writer.path)

    def _rechunk(self, path: Path) -> None:
        try:
            rechunk(path, self._options.compression)
        except RecordingError as error:
            _log.warning("the log stays in small chunks", path=str(path), problem=str(error))

    def _path_of(self, number: int) -> Path:
        return self._path if number == 0 else self._path.with_suffix(f".{number}{self._path.suffix}")

    def _metadata(self) -> dict[str, dict[str, str]]:
        given = {name: dict(values) for name, values in self._options.metadata.items()}
        given.setdefault(LOG_METADATA, {})["file_number"] = str(self.files)
        return given

    def _note_status(self, message: LoggedMessage) -> None:
        try:
            _, status = wire.decode_publish(message.topic, message.payload)
        except WireError:
            return
        if not isinstance(status, Status) or not status.fingerprint:
            return
        name = f"{status.kind}/{status.id}"
        if name in self._fingerprints or len(self._fingerprints) < MAX_FINGERPRINTS:
            self._fingerprints[name] = status.fingerprint
