"""Writes an MCAP file, chunk by chunk.

The records are those of the ``mcap`` package; what this module adds to its writer is that chunks can be put together
from chunks that were read, which makes re-chunking and recovery as fast as the compression is.
"""

from __future__ import annotations

import struct
import sys
import time
import zlib
from array import array
from collections import Counter
from typing import BinaryIO

import lz4.frame
import zstandard
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Attachment,
    AttachmentIndex,
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)
from mcap.writer import LIBRARY_IDENTIFIER, MCAP0_MAGIC

from pipeline.recording.format import Compression

MESSAGE_HEAD = struct.Struct("<BQHIQQ")
"""Opcode, length of what follows, channel, sequence, log time, publish time; the payload comes next."""
MESSAGE_FIELDS_BYTES = MESSAGE_HEAD.size - 9
CHUNK_BYTES = 1_048_576
"""Uncompressed size at which a chunk ends: what one seek has to read, and what the index of a large file grows by."""
CHUNK_SPAN_NS = 1_000_000_000
"""Log time at which a chunk ends, whatever its size: one damaged byte costs its chunk, a second of traffic at most."""
MAX_CHANNELS = 65_535
"""Channel ids have 16 bits, and 0 is none."""


class ContainerWriter:
    """Writes an MCAP file to a stream that stands at its beginning.

    Args:
        stream: where the bytes go; never read, never moved.
        compression: compression of the chunks.
        profile: profile in the file's header.

    Attributes:
        size_bytes: bytes written to the stream.
        pending_bytes: bytes in the chunk that is being filled, uncompressed.
        messages: messages added.
        unpacked_bytes: bytes of the chunks that were ended, uncompressed.
        chunks: chunks ended.
        channels: channels defined.
    """

    def __init__(self, stream: BinaryIO, *, compression: Compression, profile: str) -> None:
        self._stream = stream
        self._compression = compression
        self._schemas: dict[int, Schema] = {}
        self.channels: dict[int, Channel] = {}
        self._counts: Counter[int] = Counter()
        self._chunk = bytearray()
        self._definitions = bytearray()
        self._chunk_times: tuple[int, int] | None = None
        self._chunk_entries: dict[int, array[int]] = {}
        self._first_ns: int | None = None
        self._last_ns = 0
        self._chunk_indexes: list[ChunkIndex] = []
        self._attachment_indexes: list[AttachmentIndex] = []
        self._metadata_indexes: list[MetadataIndex] = []
        self.messages = 0
        self.unpacked_bytes = 0
        self.size_bytes = 0
        self._put(MCAP0_MAGIC)
        self._put(_encoded(Header(profile, LIBRARY_IDENTIFIER)))

    @property
    def pending_bytes(self) -> int:
        """Bytes of the chunk that is being filled."""
        return len(self._chunk)

    @property
    def chunks(self) -> int:
        """Chunks that were ended."""
        return len(self._chunk_indexes)

    def define_schema(self, schema: Schema) -> None:
        """Add a schema to the chunk that is being filled; one that is known already is left out."""
        if schema.id not in self._schemas:
            self._schemas[schema.id] = schema
            self._define(schema)

    def define_channel(self, channel: Channel) -> None:
        """Add a channel to the chunk that is being filled; one that is known already is left out."""
        if channel.id not in self.channels:
            self.channels[channel.id] = channel
            self._define(channel)

    def add(self, channel_id: int, sequence: int, time_ns: int, payload: bytes) -> None:
        """Add a message to the chunk that is being filled."""
        self._note(channel_id, time_ns, len(self._chunk))
        size_bytes = MESSAGE_FIELDS_BYTES + len(payload)
        self._chunk += MESSAGE_HEAD.pack(Opcode.MESSAGE, size_bytes, channel_id, sequence, time_ns, time_ns)
        self._chunk += payload

    def add_encoded(self, channel_id: int, time_ns: int, record: memoryview) -> None:
        """Add a message that was read as a whole record."""
        self._note(channel_id, time_ns, len(self._chunk))
        self._chunk += record

    def has_room(self, time_ns: int) -> bool:
        """Whether a message of this time still belongs into the chunk that is being filled."""
        times = self._chunk_times
        return times is None or (len(self._chunk) < CHUNK_BYTES and abs(time_ns - times[0]) < CHUNK_SPAN_NS)

    def end_chunk(self) -> None:
        """Write the chunk that is being filled, unless it holds no message yet."""
        if self._chunk_times is None:
            return
        self._put(self._definitions)
        self._definitions.clear()
        first_ns, last_ns = self._chunk_times
        data = bytes(self._chunk)
        stored = _compressed(data, self._compression)
        chunk = Chunk(
            compression="" if self._compression is Compression.NONE else self._compression.value,
            data=stored,
            message_start_time=first_ns,
            message_end_time=last_ns,
            uncompressed_crc=zlib.crc32(data),
            uncompressed_size=len(data),
        )
        record = _encoded(chunk)
        index_start = self.size_bytes + len(record)
        offsets: dict[int, int] = {}
        indexes = bytearray()
        for channel_id, entries in self._chunk_entries.items():
            offsets[channel_id] = index_start + len(indexes)
            indexes += _message_index(channel_id, entries)
        self._chunk_indexes.append(
            ChunkIndex(
                message_start_time=first_ns,
                message_end_time=last_ns,
                chunk_start_offset=self.size_bytes,
                chunk_length=len(record),
                message_index_offsets=offsets,
                message_index_length=len(indexes),
                compression=chunk.compression,
                compressed_size=len(stored),
                uncompressed_size=len(data),
            )
        )
        self._put(record)
        self._put(indexes)
        self.unpacked_bytes += len(data)
        self._chunk.clear()
        self._chunk_entries.clear()
        self._chunk_times = None

    def attach(self, name: str, media_type: str, data: bytes, time_ns: int | None = None) -> None:
        """Write an attachment."""
        at_ns = time.time_ns() if time_ns is None else time_ns
        record = _encoded(
            Attachment(create_time=at_ns, log_time=at_ns, name=name, media_type=media_type, data=data),
        )
        self._attachment_indexes.append(
            AttachmentIndex(
                offset=self.size_bytes,
                length=len(record),
                log_time=at_ns,
                create_time=at_ns,
                data_size=len(data),
                name=name,
                media_type=media_type,
            )
        )
        self._put(record)

    def metadata(self, name: str, values: dict[str, str]) -> None:
        """Write a metadata record."""
        record = _encoded(Metadata(name=name, metadata=values))
        self._metadata_indexes.append(MetadataIndex(offset=self.size_bytes, length=len(record), name=name))
        self._put(record)

    def finish(self) -> None:
        """End the last chunk and write the summary, by which a reader opens the file at once."""
        self.end_chunk()
        self._put(_encoded(DataEnd(0)))
        groups: list[tuple[Opcode, list[McapRecord]]] = [
            (Opcode.SCHEMA, [*self._schemas.values()]),
            (Opcode.CHANNEL, [*self.channels.values()]),
            (Opcode.STATISTICS, [self._statistics()]),
            (Opcode.CHUNK_INDEX, [*self._chunk_indexes]),
            (Opcode.ATTACHMENT_INDEX, [*self._attachment_indexes]),
            (Opcode.METADATA_INDEX, [*self._metadata_indexes]),
        ]
        summary = RecordBuilder()
        offsets: list[SummaryOffset] = []
        for opcode, records in groups:
            start = summary.count
            for record in records:
                record.write(summary)
            if records:
                offsets.append(SummaryOffset(opcode, self.size_bytes + start, summary.count - start))
        summary_start = self.size_bytes
        offset_start = summary_start + summary.count
        for offset in offsets:
            offset.write(summary)
        data: bytes = summary.end()  # type: ignore[no-untyped-call]
        # The checksum goes up to itself (MCAP specification, "Footer").
        head = struct.pack("<BQQQ", Opcode.FOOTER, 20, summary_start, offset_start)
        crc = zlib.crc32(head, zlib.crc32(data))
        self._put(data)
        self._put(_encoded(Footer(summary_start=summary_start, summary_offset_start=offset_start, summary_crc=crc)))
        self._put(MCAP0_MAGIC)
        self._stream.flush()

    def _define(self, record: McapRecord) -> None:
        # In the chunk as the format wants it, and before it as well: if that chunk is ever damaged, the others can
        # still be read.
        encoded = _encoded(record)
        self._chunk += encoded
        self._definitions += encoded

    def _note(self, channel_id: int, time_ns: int, offset: int) -> None:
        entries = self._chunk_entries.get(channel_id)
        if entries is None:
            entries = self._chunk_entries[channel_id] = array("Q")
        entries.append(time_ns)
        entries.append(offset)
        times = self._chunk_times
        if times is None:
            self._chunk_times = (time_ns, time_ns)
        elif time_ns > times[1]:
            self._chunk_times = (times[0], time_ns)
        elif time_ns < times[0]:
            self._chunk_times = (time_ns, times[1])
        self._counts[channel_id] += 1
        self.messages += 1
        if self._first_ns is None or time_ns < self._first_ns:
            self._first_ns = time_ns
        if time_ns > self._last_ns:
            self._last_ns = time_ns

    def _statistics(self) -> Statistics:
        return Statistics(
            attachment_count=len(self._attachment_indexes),
            channel_count=len(self.channels),
            channel_message_counts=dict(self._counts),
            chunk_count=len(self._chunk_indexes),
            message_count=self.messages,
            message_end_time=self._last_ns,
            message_start_time=self._first_ns or 0,
            metadata_count=len(self._metadata_indexes),
            schema_count=len(self._schemas),
        )

    def _put(self, data: bytes | bytearray) -> None:
        self._stream.write(data)
        self.size_bytes += len(data)


def _encoded(record: McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    data: bytes = builder.end()  # type: ignore[no-untyped-call]
    return data


def _message_index(channel_id: int, entries: array[int]) -> bytes:
    """A message index record: pairs of time and offset in the chunk."""
    if sys.byteorder == "big":
        entries.byteswap()
    data = entries.tobytes()
    return struct.pack("<BQHI", Opcode.MESSAGE_INDEX, 6 + len(data), channel_id, len(data)) + data


def _compressed(data: bytes, compression: Compression) -> bytes:
    if compression is Compression.LZ4:
        compressed: bytes = lz4.frame.compress(data)
        return compressed
    if compression is Compression.ZSTD:
        return zstandard.ZstdCompressor().compress(data)
    return data


__all__ = ["CHUNK_BYTES", "CHUNK_SPAN_NS", "MAX_CHANNELS", "MESSAGE_HEAD", "ContainerWriter"]
