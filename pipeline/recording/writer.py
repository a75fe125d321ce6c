"""Writes one log file."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from mcap.records import Channel, Schema

from pipeline.recording.container import CHUNK_BYTES, MAX_CHANNELS, ContainerWriter
from pipeline.recording.format import (
    FORMAT_VERSION,
    GAP_TOPIC,
    LOG_METADATA,
    PROFILE,
    PROPERTIES_TOPIC,
    SEQUENCE_MODULUS,
    Compression,
    channel_format,
    encode_gap,
    encode_properties,
    software_version,
)
from pipeline.recording.message import Gap, LoggedMessage
from schemas.errors import RecordingError, StateError

FEW_CHUNKS = 64
"""A file of so many chunks opens at once, whatever their size."""
RESERVED_CHANNELS = 2
"""Kept for the two topics of the book-keeping, so that a full file can still say what it lacks."""


class LogWriter:
    """Writes messages to a new log file, in the order of their times.

    What was written is in memory until a chunk is full or :meth:`flush` is called; then it survives the end of this
    process. The end of the machine it survives after :meth:`close`. Not thread-safe.

    Args:
        path: the file, which must not exist.
        compression: compression of the chunks.
        metadata: metadata records to begin with, by name; what the file's format needs is added to ``latentbus``.

    Attributes:
        path: the file.
        messages: messages written.
        size_bytes: size of the file, with what is still in memory.
        small_chunks: its chunks are many and small, so that it opens slowly.

    Raises:
        RecordingError: the file exists, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        compression: Compression = Compression.LZ4,
        metadata: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.path = path
        self.messages = 0
        self._channels: dict[tuple[str, int, bool], int] = {}
        self._schemas: dict[str, int] = {}
        self._closed = False
        with self._errors():
            # "x": a recording is never overwritten.
            self._file = path.open("xb", buffering=CHUNK_BYTES)
            try:
                self._container = ContainerWriter(self._file, compression=compression, profile=PROFILE)
                records = {LOG_METADATA: {}, **(metadata or {})}
                for name, values in records.items():
                    own = _log_metadata() if name == LOG_METADATA else {}
                    self._container.metadata(name, {**own, **values})
                self._file.flush()
            except BaseException:
                self._file.close()
                raise

    @property
    def size_bytes(self) -> int:
        """Size of the file, with what is still in memory."""
        return self._container.size_bytes + self._container.pending_bytes

    @property
    def small_chunks(self) -> bool:
        """Its chunks are many and small, so that it opens slowly."""
        chunks = self._container.chunks
        return chunks > FEW_CHUNKS and self._container.unpacked_bytes < chunks * CHUNK_BYTES / 4

    def has_room(self, message: LoggedMessage) -> bool:
        """Whether the file has a channel for a message; a file has 65,535 of them."""
        known = (message.topic, message.qos, message.retain) in self._channels
        return known or len(self._channels) < MAX_CHANNELS - RESERVED_CHANNELS

    def write(self, message: LoggedMessage) -> None:
        """Write a message; its sequence number is taken as it is.

        Raises:
            RecordingError: the file cannot be written, or has no channel left for a new topic.
        """
        if self._closed:
            raise StateError(f"{self.path} is closed")
        key = (message.topic, message.qos, message.retain)
        sequence = message.sequence % SEQUENCE_MODULUS
        container = self._container
        try:
            # Only here, so that properties and their message stand in one chunk.
            if not container.has_room(message.time_ns):
                container.end_chunk()
            channel_id = self._channels.get(key) or self._channel(*key)
            if message.properties is not None:
                companion = self._channels.get(_COMPANION) or self._channel(*_COMPANION)
                container.add(companion, sequence, message.time_ns, encode_properties(message.properties))
            container.add(channel_id, sequence, message.time_ns, message.payload)
            self.messages += 1
        except OSError as error:
            raise self._cannot_write(error) from error

    def write_gap(self, gap: Gap) -> None:
        """Write that messages are missing here.

        Raises:
            RecordingError: the file cannot be written.
        """
        with self._errors():
            if not self._container.has_room(gap.time_ns):
                self._container.end_chunk()
            channel_id = self._channels.get(_GAP) or self._channel(*_GAP)
            self._container.add(channel_id, gap.first_sequence % SEQUENCE_MODULUS, gap.time_ns, encode_gap(gap))

    def flush(self) -> None:
        """Make what was written survive the end of this process.

        Raises:
            RecordingError: the file cannot be written.
        """
        with self._errors():
            self._container.end_chunk()
            self._file.flush()

    def attach(self, name: str, media_type: str, data: bytes) -> None:
        """Write an attachment, a configuration file for example.

        Raises:
            RecordingError: the file cannot be written.
        """
        with self._errors():
            self._container.attach(name, media_type, data)

    def metadata(self, name: str, values: Mapping[str, str]) -> None:
        """Write a metadata record; of two values under one name and key the later one counts.

        Raises:
            RecordingError: the file cannot be written.
        """
        with self._errors():
            self._container.metadata(name, dict(values))

    def close(self) -> None:
        """Write the summary and put the file on the disk. Harmless twice.

        Raises:
            RecordingError: the file cannot be written; what was flushed can be recovered.
        """
        if self._closed:
            return
        try:
            with self._errors():
                self._container.finish()
                os.fsync(self._file.fileno())
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is, without a summary. Harmless twice."""
        self._closed = True
        with contextlib.suppress(OSError):  # it tries again to write what did not go out before
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _channel(self, topic: str, qos: int, retain: bool) -> int:
        if (topic, qos, retain) not in (_COMPANION, _GAP) and len(self._channels) >= MAX_CHANNELS - RESERVED_CHANNELS:
            raise RecordingError(
                str(self.path), f"no channel left for {topic!r}: a file has {MAX_CHANNELS}, one a topic, QoS and flag"
            )
        encoding, schema = channel_format(topic)
        schema_id = 0
        if schema is not None:
            schema_id = self._schemas.setdefault(schema.name, len(self._schemas) + 1)
            self._container.define_schema(
                Schema(id=schema_id, data=schema.data, encoding=schema.encoding, name=schema.name)
            )
        channel_id = self._channels[topic, qos, retain] = len(self._channels) + 1
        self._container.define_channel(
            Channel(
                id=channel_id,
                topic=topic,
                message_encoding=encoding,
                metadata={"qos": str(qos), "retain": str(retain).lower()},
                schema_id=schema_id,
            )
        )
        return channel_id

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        if self._closed:
            raise StateError(f"{self.path} is closed")
        try:
            yield
        except FileExistsError:
            raise RecordingError(str(self.path), "exists already: choose another name, or move it away") from None
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> RecordingError:
        return RecordingError(str(self.path), f"cannot be written: {error.strerror or error}")


_COMPANION = (PROPERTIES_TOPIC, 0, False)
_GAP = (GAP_TOPIC, 0, False)


def _log_metadata() -> dict[str, str]:
    now_ns = time.time_ns()
    return {
        "format_version": str(FORMAT_VERSION),
        "software_version": software_version(),
        "start": datetime.fromtimestamp(now_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
        "start_ns": str(now_ns),
    }
