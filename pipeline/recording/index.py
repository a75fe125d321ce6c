"""What stands where in a log file: read from its summary, or found by reading all of it when there is none."""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mcap.opcode import Opcode
from mcap.records import AttachmentIndex, Channel, Header, Metadata, MetadataIndex, Schema, Statistics
from mcap.writer import MCAP0_MAGIC

from pipeline.recording.container import MESSAGE_HEAD
from pipeline.recording.format import BOOKKEEPING_TOPICS, PROFILE
from pipeline.recording.records import (
    CHUNK_HEAD,
    HEAD,
    MAX_ATTACHMENT_BYTES,
    MAX_CHUNK_BYTES,
    MAX_SUMMARY_BYTES,
    RecordHead,
    parse_attachment,
    parse_record,
    read_content,
    read_head,
    records_inside,
    unpack_chunk,
)
from schemas.counting import counted
from schemas.errors import DamagedRecordError, RecordingError

_FOOTER = struct.Struct("<BQQQI")
"""Opcode, length, start of the summary, start of its offsets, checksum."""
_CHUNK_INDEX = struct.Struct("<QQQQI")
"""First and last log time, offset and length of the chunk record, size of the message index offsets."""
_DATA_OPCODES = frozenset(
    int(opcode)
    for opcode in (
        Opcode.SCHEMA, Opcode.CHANNEL, Opcode.ATTACHMENT, Opcode.CHUNK, Opcode.MESSAGE_INDEX, Opcode.METADATA,
        Opcode.DATA_END,
    )
)  # fmt: skip
"""Records that stand between the header and the summary of a log."""
_DATA_END_BYTES = 4
_MESSAGE_INDEX = struct.Struct("<HI")
"""Channel, and size of its entries: a time and an offset each."""
_INDEX_ENTRY_BYTES = 16
_CHUNK_BEGIN_BYTES = CHUNK_HEAD.size + 16
"""Enough of a chunk to see the name of its compression and the size of what follows."""
MAX_DAMAGES = 1_000
"""Damaged places after which a scan gives up, so that a hostile file cannot make it search without end."""
_SEARCH_BYTES = 1_048_576
"""Read at a time when a chunk is searched for."""
_COMPRESSION_NAME = re.compile(rb"\x00\x00\x00\x00|\x03\x00\x00\x00lz4|\x04\x00\x00\x00zstd")
"""The name of the compression in the head of a chunk, by which a chunk is found after damage."""


class ChunkPlace(NamedTuple):
    """A chunk of the file.

    Attributes:
        head: where its record stands.
        first_ns: smallest log time in it.
        last_ns: largest log time in it.
    """

    head: RecordHead
    first_ns: int
    last_ns: int


class Damage(NamedTuple):
    """A part of the file that cannot be read.

    Attributes:
        offset: where it begins.
        size_bytes: how long it is.
        problem: why, in words.
        messages: messages that stood there, book-keeping left out; None where nothing says how many.
    """

    offset: int
    size_bytes: int
    problem: str
    messages: int | None = None

    def __str__(self) -> str:
        held = "" if self.messages is None else f" with {counted(self.messages, 'message')}"
        return f"{counted(self.size_bytes, 'byte')}{held} at byte {self.offset:,}: {self.problem}"


@dataclass(slots=True)
class LogIndex:
    """What stands where in a file.

    Attributes:
        complete: the file was closed well and has a summary.
        schemas: schema records by id.
        channels: channel records by id.
        counts: messages by channel id.
        chunks: chunks in the order of the file.
        attachments: places of the attachments.
        metadata: places of the metadata records.
        damages: parts that cannot be read; a file that is opened by its summary is not searched for them.
        announced: messages that the summary says the file has, book-keeping left out; None without a summary.
    """

    complete: bool
    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    chunks: list[ChunkPlace] = field(default_factory=list)
    attachments: list[RecordHead] = field(default_factory=list)
    metadata: list[RecordHead] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    announced: int | None = None


def check_header(file: BinaryIO, path: Path, size_bytes: int) -> int:
    """Check that a file is a Latentbus log.

    Returns:
        Where the first record after the header begins.

    Raises:
        RecordingError: it is none, or is cut before its header ends.
    """
    file.seek(0)
    if not MCAP0_MAGIC.startswith(file.read(len(MCAP0_MAGIC))):
        raise RecordingError(str(path), "no MCAP file: its first bytes are others", 0)
    start = len(MCAP0_MAGIC)
    head = read_head(file, start, size_bytes)
    if head is None:
        raise RecordingError(str(path), "ends before its header does: nothing was recorded yet", size_bytes)
    try:
        if head.opcode != Opcode.HEADER:
            raise DamagedRecordError("no header")
        header = parse_record(Header, read_content(file, head, MAX_ATTACHMENT_BYTES))
    except DamagedRecordError as error:
        raise RecordingError(str(path), f"no MCAP file: {error}", start) from None
    if header.profile != PROFILE:
        raise RecordingError(
            str(path), f"an MCAP file with the profile {header.profile[:40]!r}, no Latentbus log", start
        )
    return head.stop


def index_from_summary(file: BinaryIO, size_bytes: int) -> LogIndex | None:
    """The index at the end of a file; None when the file was not closed well, or the index is damaged."""
    foot_bytes = _FOOTER.size + len(MCAP0_MAGIC)
    if size_bytes < foot_bytes:
        return None
    file.seek(size_bytes - foot_bytes)
    foot = file.read(foot_bytes)
    opcode, length, start, _, crc = _FOOTER.unpack_from(foot)
    if foot[_FOOTER.size :] != MCAP0_MAGIC or opcode != Opcode.FOOTER or length != _FOOTER.size - HEAD.size:
        return None
    stop = size_bytes - foot_bytes
    if not 0 < start < stop or stop - start > MAX_SUMMARY_BYTES:
        return None
    file.seek(start)
    summary = file.read(stop - start)
    if crc and zlib.crc32(foot[: _FOOTER.size - 4], zlib.crc32(summary)) != crc:
        return None
    try:
        return _parse_summary(summary, size_bytes)
    except (DamagedRecordError, struct.error):
        return None


def index_from_scan(file: BinaryIO, start: int, size_bytes: int, summary: LogIndex | None = None) -> LogIndex:
    """Read a whole file and note every part that is whole and right.

    Args:
        file: the file.
        start: where the first record after the header begins.
        size_bytes: size of the file.
        summary: the index at the end of the file, if there is one: it says what a channel is when the chunk that did
            is damaged.
    """
    index = LogIndex(complete=summary is not None)
    if summary is not None:
        index.schemas.update(summary.schemas)
        index.channels.update(summary.channels)
        index.announced = _spoken(summary.counts, summary)
    # Messages by channel of each damaged chunk whose index is whole, by the number of the damage.
    lost: dict[int, Counter[int]] = {}
    after_damage = False
    offset = start
    while offset < size_bytes:
        if len(index.damages) >= MAX_DAMAGES:
            index.damages.append(Damage(offset, size_bytes - offset, f"not read after {MAX_DAMAGES} damaged places"))
            break
        head = _plausible_head(file, offset, size_bytes)
        if head is None:
            found = _find_chunk(file, offset + 1, size_bytes)
            problem = "the file ends within a record" if found is None else "no whole record begins here"
            offset = _note_damage(index, offset, size_bytes if found is None else found, problem)
            after_damage = False
        elif head.opcode == Opcode.DATA_END:
            break  # what follows repeats what was read
        elif head.opcode == Opcode.MESSAGE_INDEX:
            if after_damage:
                channel_id, size = _MESSAGE_INDEX.unpack(
                    read_content(file, head, MAX_CHUNK_BYTES)[: _MESSAGE_INDEX.size]
                )
                lost.setdefault(len(index.damages) - 1, Counter())[channel_id] += size // _INDEX_ENTRY_BYTES
            offset = head.stop
        else:
            try:
                _note_record(file, head, index)
                offset = head.stop
                after_damage = False
            except DamagedRecordError as error:
                stop = head.stop
                after_damage = head.opcode == Opcode.CHUNK
                if stop < size_bytes and _plausible_head(file, stop, size_bytes) is None:
                    # Its length is wrong as well: the next chunk may begin before this record seems to end.
                    stop = _find_chunk(file, offset + 1, size_bytes) or size_bytes
                    after_damage = False
                offset = _note_damage(index, offset, stop, str(error))
                if head.opcode != Opcode.CHUNK and stop == head.stop:
                    index.damages[-1] = index.damages[-1]._replace(messages=0)
    for place, counts in lost.items():
        index.damages[place] = index.damages[place]._replace(messages=_spoken(counts, index))
    return index


def _spoken(counts: Counter[int], index: LogIndex) -> int:
    """Messages among these counts by channel, book-keeping left out."""
    silent = {number for number, channel in index.channels.items() if channel.topic in BOOKKEEPING_TOPICS}
    return sum(count for number, count in counts.items() if number not in silent)


def _note_damage(index: LogIndex, start: int, stop: int, problem: str) -> int:
    index.damages.append(Damage(start, stop - start, problem))
    return stop


def _plausible_head(file: BinaryIO, offset: int, size_bytes: int) -> RecordHead | None:
    """The head of a record of the data section; None when there is none, or the lengths in it contradict each other.

    Records that nothing else would check are checked here: a wrong length of one that is passed over would take the
    chunks behind it along.
    """
    head = read_head(file, offset, size_bytes)
    if head is None or head.opcode not in _DATA_OPCODES:
        return None
    begin = file.read(min(head.length, _CHUNK_BEGIN_BYTES))
    if head.opcode == Opcode.DATA_END:
        return head if head.length == _DATA_END_BYTES else None
    if head.opcode == Opcode.MESSAGE_INDEX:
        fits = len(begin) >= 6 and head.length == 6 + int.from_bytes(begin[2:6], "little")
        return head if fits else None
    if head.opcode == Opcode.CHUNK:
        name = _COMPRESSION_NAME.match(begin, CHUNK_HEAD.size)
        if name is None:
            return None
        size = begin[name.end() : name.end() + 8]
        return head if head.length == name.end() + 8 + int.from_bytes(size, "little") else None
    return head


def _note_record(file: BinaryIO, head: RecordHead, index: LogIndex) -> None:
    if head.opcode == Opcode.CHUNK:
        _note_chunk(file, head, index)
    elif head.opcode == Opcode.METADATA:
        parse_record(Metadata, read_content(file, head, MAX_ATTACHMENT_BYTES), whole=True)
        index.metadata.append(head)
    elif head.opcode == Opcode.ATTACHMENT:
        parse_attachment(read_content(file, head, MAX_ATTACHMENT_BYTES))
        index.attachments.append(head)
    elif head.opcode == Opcode.SCHEMA:
        schema = parse_record(Schema, read_content(file, head, MAX_ATTACHMENT_BYTES), whole=True)
        index.schemas.setdefault(schema.id, schema)
    elif head.opcode == Opcode.CHANNEL:
        # Outside a chunk nothing checks it; one inside a chunk counts more.
        channel = parse_record(Channel, read_content(file, head, MAX_ATTACHMENT_BYTES), whole=True)
        index.channels.setdefault(channel.id, channel)


def _note_chunk(file: BinaryIO, head: RecordHead, index: LogIndex) -> None:
    content = read_content(file, head, MAX_CHUNK_BYTES)
    data = unpack_chunk(content)
    counts: Counter[int] = Counter()
    for opcode, offset, length in records_inside(data):
        if opcode == Opcode.MESSAGE:
            counts[MESSAGE_HEAD.unpack_from(data, offset - HEAD.size)[2]] += 1
        elif opcode == Opcode.SCHEMA:
            schema = parse_record(Schema, data[offset : offset + length])
            index.schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            channel = parse_record(Channel, data[offset : offset + length])
            index.channels[channel.id] = channel
    first_ns, last_ns, _, _ = CHUNK_HEAD.unpack_from(content)
    index.chunks.append(ChunkPlace(head, first_ns, last_ns))
    index.counts.update(counts)


def _find_chunk(file: BinaryIO, start: int, size_bytes: int) -> int | None:
    """Where the next chunk begins, after damage; None if none does. Its checksum is looked at when it is read."""
    name_at = HEAD.size + CHUNK_HEAD.size
    position = start
    while position < size_bytes:
        file.seek(position)
        # The name of a chunk that begins in this window may stand behind it.
        window = file.read(_SEARCH_BYTES + name_at + 8)
        for match in _COMPRESSION_NAME.finditer(window, name_at):
            at = match.start() - name_at
            if window[at] == Opcode.CHUNK and _plausible_head(file, position + at, size_bytes) is not None:
                return position + at
        position += _SEARCH_BYTES
    return None


def _parse_summary(summary: bytes, size_bytes: int) -> LogIndex:
    index = LogIndex(complete=True)
    view = memoryview(summary)
    for opcode, start, size in records_inside(summary):
        content = view[start : start + size]
        if opcode == Opcode.CHUNK_INDEX:
            # The offsets of its message indexes are skipped: with many channels they are most of the summary.
            first_ns, last_ns, offset, length, _ = _CHUNK_INDEX.unpack_from(content)
            if length < HEAD.size or offset + length > size_bytes:
                raise DamagedRecordError("a chunk lies beyond the file")
            head = RecordHead(Opcode.CHUNK, offset + HEAD.size, length - HEAD.size)
            index.chunks.append(ChunkPlace(head, first_ns, last_ns))
        elif opcode == Opcode.SCHEMA:
            schema = parse_record(Schema, bytes(content))
            index.schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            channel = parse_record(Channel, bytes(content))
            index.channels[channel.id] = channel
        elif opcode == Opcode.STATISTICS:
            index.counts.update(parse_record(Statistics, bytes(content)).channel_message_counts)
        elif opcode == Opcode.METADATA_INDEX:
            index.metadata.append(_place(parse_record(MetadataIndex, bytes(content)), Opcode.METADATA))
        elif opcode == Opcode.ATTACHMENT_INDEX:
            index.attachments.append(_place(parse_record(AttachmentIndex, bytes(content)), Opcode.ATTACHMENT))
    index.chunks.sort(key=lambda place: place.head.offset)
    return index


def _place(entry: AttachmentIndex | MetadataIndex, opcode: Opcode) -> RecordHead:
    return RecordHead(opcode, entry.offset + HEAD.size, entry.length - HEAD.size)
