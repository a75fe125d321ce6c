"""Reads records of an MCAP file that may be cut, damaged or hostile: no length in it is believed before it is checked.

Memory is bounded by :data:`MAX_CHUNK_BYTES`, :data:`MAX_SUMMARY_BYTES` and :data:`MAX_ATTACHMENT_BYTES`, whatever the
file says.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, TypeVar

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Attachment, Chunk, McapRecord

from pipeline.recording.container import MESSAGE_HEAD
from schemas.errors import DamagedRecordError

HEAD = struct.Struct("<BQ")
"""Opcode and length of what follows."""
CHUNK_HEAD = struct.Struct("<QQQI")
"""First and last log time, uncompressed size, checksum; the name of the compression comes next."""
MAX_CHUNK_BYTES = 67_108_864
"""One chunk, stored or unpacked. Ours have 1 MiB; other tools write a few."""
MAX_SUMMARY_BYTES = 268_435_456
"""The index at the end of a file; 100 GB in chunks of 1 MiB with 50 channels each need 60 MB."""
MAX_ATTACHMENT_BYTES = 67_108_864
"""One attachment, or any other record outside a chunk."""

_Record = TypeVar("_Record", bound=McapRecord)


class RecordHead(NamedTuple):
    """Where a record stands.

    Attributes:
        opcode: its kind.
        offset: where its content begins.
        length: size of its content in bytes.
    """

    opcode: int
    offset: int
    length: int

    @property
    def stop(self) -> int:
        """Where the next record begins."""
        return self.offset + self.length


def read_head(file: BinaryIO, offset: int, stop: int) -> RecordHead | None:
    """The head of the record at an offset; None when it is not whole before ``stop``."""
    if offset + HEAD.size > stop:
        return None
    file.seek(offset)
    data = file.read(HEAD.size)
    if len(data) < HEAD.size:
        return None
    opcode, length = HEAD.unpack(data)
    if length > stop - offset - HEAD.size:
        return None
    return RecordHead(opcode, offset + HEAD.size, length)


def read_content(file: BinaryIO, head: RecordHead, limit_bytes: int) -> bytes:
    """Content of a record.

    Raises:
        DamagedRecordError: larger than the limit, or not there.
    """
    if head.length > limit_bytes:
        raise DamagedRecordError(f"a record of {head.length} bytes is over the limit of {limit_bytes}")
    file.seek(head.offset)
    data = file.read(head.length)
    if len(data) < head.length:
        raise DamagedRecordError("the file ends within a record")
    return data


def parse_record(kind: type[_Record], content: bytes, *, whole: bool = False) -> _Record:
    """The record that these bytes are.

    Args:
        kind: class of the record.
        content: its content.
        whole: all bytes must belong to it; else there may be more, which later versions of MCAP may add.

    Raises:
        DamagedRecordError: they are none.
    """
    try:
        stream = ReadDataStream(io.BytesIO(content))
        record: _Record = kind.read(stream)  # type: ignore[attr-defined]
    except (McapError, struct.error, ValueError, OverflowError, MemoryError) as error:
        raise DamagedRecordError(f"no {kind.__name__}: {error}") from None
    if whole and stream.count != len(content):
        raise DamagedRecordError(f"a {kind.__name__} with a wrong length")
    return record


def parse_attachment(content: bytes) -> Attachment:
    """The attachment that these bytes are, checked.

    Raises:
        DamagedRecordError: they are none, or have another checksum.
    """
    attachment = parse_record(Attachment, content)
    crc = int.from_bytes(content[-4:], "little")
    if crc and zlib.crc32(content[:-4]) != crc:
        raise DamagedRecordError("the checksum of an attachment is wrong")
    return attachment


def unpack_chunk(content: bytes) -> bytes:
    """Records inside a chunk, checked.

    Args:
        content: content of the chunk record.

    Raises:
        DamagedRecordError: they do not unpack, or have another checksum.
    """
    chunk = parse_record(Chunk, content)
    size_bytes = chunk.uncompressed_size
    if size_bytes > MAX_CHUNK_BYTES:
        raise DamagedRecordError(f"a chunk of {size_bytes} bytes is over the limit of {MAX_CHUNK_BYTES}")
    data = _unpacked(chunk, size_bytes)
    if len(data) != size_bytes:
        raise DamagedRecordError(f"a chunk of {len(data)} bytes instead of {size_bytes}")
    if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
        raise DamagedRecordError("the checksum of a chunk is wrong")
    return data


def records_inside(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Opcode, offset and length of the content of each record inside an unpacked chunk.

    Raises:
        DamagedRecordError: a record goes beyond the chunk.
    """
    offset, stop = 0, len(data)
    while offset < stop:
        if offset + HEAD.size > stop:
            raise DamagedRecordError("a chunk ends within a record")
        opcode, length = HEAD.unpack_from(data, offset)
        offset += HEAD.size
        if length > stop - offset or (opcode == Opcode.MESSAGE and length < MESSAGE_HEAD.size - HEAD.size):
            raise DamagedRecordError("a record inside a chunk has a wrong length")
        yield opcode, offset, length
        offset += length


def _unpacked(chunk: Chunk, size_bytes: int) -> bytes:
    # One byte more than announced is asked for, so that a chunk that unpacks to more is noticed and not unpacked.
    if chunk.compression == "":
        return chunk.data
    if chunk.compression == "lz4":
        try:
            unpacked: bytes = lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, max_length=size_bytes + 1)
        except (RuntimeError, EOFError, ValueError) as error:
            raise DamagedRecordError(f"a chunk does not unpack: {error}") from None
        return unpacked
    if chunk.compression == "zstd":
        try:
            with zstandard.ZstdDecompressor().stream_reader(chunk.data) as reader:
                return reader.read(size_bytes + 1)
        except zstandard.ZstdError as error:
            raise DamagedRecordError(f"a chunk does not unpack: {error}") from None
    raise DamagedRecordError(f"compression {chunk.compression[:20]!r} is none of ours (lz4, zstd, none)")
