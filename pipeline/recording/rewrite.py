"""Copies what is whole in a log into a new file, with chunks of a good size.

A recorder that flushes often writes small chunks, and each is an entry in the index: a large file opens slowly and
compresses badly. Chunks are put together here without looking at the messages in them, other than where they begin.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mcap.opcode import Opcode

from pipeline.recording.container import MESSAGE_HEAD, ContainerWriter
from pipeline.recording.format import BOOKKEEPING_TOPICS, PROFILE, PROPERTIES_TOPIC, SEQUENCE_MODULUS, Compression
from pipeline.recording.reader import LogReader
from pipeline.recording.records import HEAD, records_inside
from schemas.errors import RecordingError

PART_SUFFIX = ".part"
"""Added to the name of a file while it is written anew; one that a crash left behind can be deleted."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds.

    Attributes:
        messages: messages, book-keeping left out.
        chunks: chunks in the new file.
        orphans: messages left out because nothing says which topic they are of.
        missing: sequence numbers between the first and the last message that no message has, those in damaged chunks
            and those that the recorder dropped.
    """

    messages: int
    chunks: int
    orphans: int
    missing: int


def rechunk(path: Path, compression: Compression) -> Copied:
    """Write a closed log anew with chunks of a good size, in its place.

    The file is replaced in one step when the new one is on the disk, so that a crash loses nothing.

    Raises:
        RecordingError: it cannot be read or written; the file is as it was.
    """
    part = path.with_name(path.name + PART_SUFFIX)
    try:
        with LogReader(path) as reader, part.open("wb") as stream:
            copied = copy_log(reader, stream, compression)
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise RecordingError(str(part), f"cannot be written: {error.strerror or error}") from error
        raise
    return copied


def copy_log(reader: LogReader, stream: BinaryIO, compression: Compression) -> Copied:
    """Copy everything that a reader can read, and put it on the disk.

    Raises:
        RecordingError: a chunk of a log that was closed well is damaged.
        OSError: the stream cannot be written.
    """
    container = ContainerWriter(stream, compression=compression, profile=PROFILE)
    for metadata in reader.metadata_records():
        container.metadata(metadata.name, metadata.metadata)
    for attachment in reader.attachment_records():
        container.attach(attachment.name, attachment.media_type, attachment.data, attachment.log_time)
    for schema in reader.index.schemas.values():
        container.define_schema(schema)
    channels = reader.index.channels
    for channel in channels.values():
        container.define_channel(channel)
    companions = {number for number, channel in channels.items() if channel.topic == PROPERTIES_TOPIC}
    silent = {number for number, channel in channels.items() if channel.topic in BOOKKEEPING_TOPICS}
    messages = orphans = missing = 0
    expected: int | None = None
    introduced: int | None = None  # the message whose properties were copied last
    for data in reader.unpacked_chunks():
        view = memoryview(data)
        for opcode, offset, length in records_inside(data):
            if opcode != Opcode.MESSAGE:
                continue
            start = offset - HEAD.size
            _, _, number, sequence, time_ns, _ = MESSAGE_HEAD.unpack_from(data, start)
            if number not in channels:
                orphans += 1
                continue
            if number not in silent:
                messages += 1
                if expected is not None:
                    jump = (sequence - expected) % SEQUENCE_MODULUS
                    missing += jump if jump < SEQUENCE_MODULUS // 2 else 0
                expected = sequence + 1
            # Properties and their message stay in one chunk.
            if sequence != introduced and not container.has_room(time_ns):
                container.end_chunk()
            container.add_encoded(number, time_ns, view[start : offset + length])
            introduced = sequence if number in companions else None
    container.finish()
    os.fsync(stream.fileno())
    return Copied(messages, container.chunks, orphans, missing)
