"""Reads log files: one, or several as if they were one."""

from __future__ import annotations

import heapq
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from mcap.opcode import Opcode
from mcap.records import Attachment, Channel, Metadata

from pipeline.recording.container import MESSAGE_FIELDS_BYTES, MESSAGE_HEAD
from pipeline.recording.format import (
    BOOKKEEPING_TOPICS,
    FORMAT_VERSION,
    GAP_TOPIC,
    LOG_METADATA,
    PROPERTIES_TOPIC,
    decode_gap,
    decode_properties,
)
from pipeline.recording.index import ChunkPlace, Damage, LogIndex, check_header, index_from_scan, index_from_summary
from pipeline.recording.message import Gap, LoggedMessage, MqttProperties
from pipeline.recording.records import (
    HEAD,
    MAX_ATTACHMENT_BYTES,
    MAX_CHUNK_BYTES,
    RecordHead,
    parse_attachment,
    parse_record,
    read_content,
    records_inside,
    unpack_chunk,
)
from schemas.errors import DamagedRecordError, RecordingError

TopicFilter = Callable[[str], bool]


class _ChannelUse(NamedTuple):
    """What a channel says about its messages."""

    topic: str
    qos: int
    retain: bool


class LogReader:
    """Reads one log file.

    A file that was closed well is opened by its summary. Any other is read through once; what is whole in it is given
    out, and the rest is listed in :attr:`damages`.

    Args:
        path: the file.
        scan: read all of it also when it was closed well, and check every part.

    Attributes:
        path: the file.
        size_bytes: size of the file when it was opened.
        complete: the file was closed well.
        damages: parts that could not be read; found by a scan only.
        shift_ns: added to all times of its messages and gaps, for a clock that was wrong.

    Raises:
        RecordingError: the file cannot be read, is no log, or is one of a newer version.
    """

    def __init__(self, path: Path, *, scan: bool = False) -> None:
        self.path = path
        self.shift_ns = 0
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise RecordingError(str(path), f"cannot be read: {error.strerror}") from error
        try:
            self.size_bytes = self._file.seek(0, 2)
            start = check_header(self._file, path, self.size_bytes)
            summary = index_from_summary(self._file, self.size_bytes)
            if scan or summary is None:
                self._index = index_from_scan(self._file, start, self.size_bytes, summary)
            else:
                self._index = summary
            self._channels = {number: _use(channel) for number, channel in self._index.channels.items()}
            self._check_version()
        except OSError as error:
            self._file.close()
            raise RecordingError(str(path), f"cannot be read: {error.strerror}") from error
        except BaseException:
            self._file.close()
            raise

    @property
    def complete(self) -> bool:
        """The file was closed well."""
        return self._index.complete

    @property
    def damages(self) -> list[Damage]:
        """Parts that could not be read."""
        return self._index.damages

    @property
    def index(self) -> LogIndex:
        """What stands where in the file."""
        return self._index

    @property
    def start_ns(self) -> int:
        """Time of the first message; 0 without one."""
        return min((chunk.first_ns + self.shift_ns for chunk in self._index.chunks), default=0)

    @property
    def stop_ns(self) -> int:
        """Time of the last message; 0 without one."""
        return max((chunk.last_ns + self.shift_ns for chunk in self._index.chunks), default=0)

    @property
    def message_count(self) -> int:
        """Messages in the file."""
        return sum(self.topics().values())

    def topics(self) -> dict[str, int]:
        """Messages by topic."""
        found: Counter[str] = Counter()
        for number, count in self._index.counts.items():
            use = self._channels.get(number)
            if use is not None and use.topic not in BOOKKEEPING_TOPICS:
                found[use.topic] += count
        return dict(sorted(found.items()))

    def messages(
        self, *, start_ns: int | None = None, stop_ns: int | None = None, topics: TopicFilter | None = None
    ) -> Iterator[LoggedMessage]:
        """Messages in the order of the log, with their MQTT 5 properties.

        Args:
            start_ns: leave out what came before.
            stop_ns: leave out what came at that time or later.
            topics: says of a topic whether its messages are wanted; all are unless given.

        Raises:
            RecordingError: a chunk is damaged.
        """
        wanted = {
            number: use
            for number, use in self._channels.items()
            if use.topic not in BOOKKEEPING_TOPICS and (topics is None or topics(use.topic))
        }
        companions = {number for number, use in self._channels.items() if use.topic == PROPERTIES_TOPIC}
        first_ns = 0 if start_ns is None else start_ns - self.shift_ns
        end_ns = 2**64 if stop_ns is None else stop_ns - self.shift_ns
        for chunk in self._index.chunks:
            if chunk.last_ns >= first_ns and chunk.first_ns < end_ns:
                yield from self._messages_of(chunk, wanted, companions, first_ns, end_ns)

    def gaps(self) -> list[Gap]:
        """Places where messages are missing.

        Raises:
            RecordingError: a chunk is damaged.
        """
        numbers = {number for number, use in self._channels.items() if use.topic == GAP_TOPIC}
        if not any(self._index.counts[number] for number in numbers):
            return []
        found: list[Gap] = []
        for data in self.unpacked_chunks():
            for opcode, offset, length in records_inside(data):
                if opcode != Opcode.MESSAGE:
                    continue
                _, _, number, _, time_ns, _ = MESSAGE_HEAD.unpack_from(data, offset - HEAD.size)
                if number in numbers:
                    try:
                        found.append(
                            decode_gap(time_ns + self.shift_ns, data[offset + MESSAGE_FIELDS_BYTES : offset + length])
                        )
                    except ValueError as error:
                        raise RecordingError(str(self.path), str(error)) from None
        return found

    def metadata(self) -> dict[str, dict[str, str]]:
        """Metadata records by name; later ones add to earlier ones of the same name.

        Raises:
            RecordingError: a record is damaged.
        """
        found: dict[str, dict[str, str]] = {}
        for record in self.metadata_records():
            found.setdefault(record.name, {}).update(record.metadata)
        return found

    def metadata_records(self) -> Iterator[Metadata]:
        """Metadata records as they stand in the file.

        Raises:
            RecordingError: a record is damaged.
        """
        for head in self._index.metadata:
            try:
                yield parse_record(Metadata, read_content(self._file, head, MAX_ATTACHMENT_BYTES))
            except DamagedRecordError as error:
                raise self._damaged(head, str(error)) from None

    def attachments(self) -> dict[str, bytes]:
        """Attachments by name; of two with one name the later one counts.

        Raises:
            RecordingError: a record is damaged.
        """
        return {record.name: record.data for record in self.attachment_records()}

    def attachment_records(self) -> Iterator[Attachment]:
        """Attachments as they stand in the file.

        Raises:
            RecordingError: a record is damaged.
        """
        for head in self._index.attachments:
            try:
                yield parse_attachment(read_content(self._file, head, MAX_ATTACHMENT_BYTES))
            except DamagedRecordError as error:
                raise self._damaged(head, str(error)) from None

    def unpacked_chunks(self) -> Iterator[bytes]:
        """Records inside each chunk, in the order of the file.

        Raises:
            RecordingError: a chunk is damaged.
        """
        for chunk in self._index.chunks:
            yield self._unpacked(chunk.head)

    def close(self) -> None:
        """Close the file. Harmless twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _messages_of(
        self, chunk: ChunkPlace, wanted: dict[int, _ChannelUse], companions: set[int], first_ns: int, end_ns: int
    ) -> Iterator[LoggedMessage]:
        data = self._unpacked(chunk.head)
        pending: tuple[int, MqttProperties] | None = None
        for opcode, offset, length in records_inside(data):
            if opcode != Opcode.MESSAGE:
                continue
            _, _, number, sequence, time_ns, _ = MESSAGE_HEAD.unpack_from(data, offset - HEAD.size)
            if not first_ns <= time_ns < end_ns:
                continue
            payload = data[offset + MESSAGE_FIELDS_BYTES : offset + length]
            use = wanted.get(number)
            if use is not None:
                properties = None
                if pending is not None:
                    properties = pending[1] if pending[0] == sequence else None
                    pending = None
                yield LoggedMessage(
                    time_ns + self.shift_ns, use.topic, payload, use.qos, use.retain, properties, sequence
                )
            elif number in companions:
                try:
                    pending = (sequence, decode_properties(payload))
                except ValueError as error:
                    raise self._damaged(chunk.head, str(error)) from None

    def _unpacked(self, head: RecordHead) -> bytes:
        try:
            return unpack_chunk(read_content(self._file, head, MAX_CHUNK_BYTES))
        except DamagedRecordError as error:
            raise self._damaged(head, str(error)) from None
        except OSError as error:
            raise RecordingError(str(self.path), f"cannot be read: {error.strerror}") from error

    def _damaged(self, head: RecordHead, problem: str) -> RecordingError:
        return RecordingError(
            str(self.path), f"{problem}; save what is whole with: latentbus recover {self.path} -o FILE",
            head.offset - HEAD.size,
        )  # fmt: skip

    def _check_version(self) -> None:
        text = self.metadata().get(LOG_METADATA, {}).get("format_version", str(FORMAT_VERSION))
        if not text.isdecimal() or int(text) > FORMAT_VERSION:
            raise RecordingError(
                str(self.path),
                f"a log of format version {text[:20]}, and this Latentbus reads up to {FORMAT_VERSION}: update it",
            )


class LogSet:
    """Several logs as one, merged by time: the files of a rotation, or the logs of several sites.

    Args:
        readers: the logs; closed with the set.
    """

    def __init__(self, readers: Sequence[LogReader]) -> None:
        self.readers = _in_order(readers)

    def shift(self, shifts_ns: Mapping[LogReader, int]) -> None:
        """Add something to the times of some of the files, which may change their order."""
        for reader, shift_ns in shifts_ns.items():
            reader.shift_ns = shift_ns
        self.readers = _in_order(self.readers)

    @property
    def complete(self) -> bool:
        """Every file was closed well."""
        return all(reader.complete for reader in self.readers)

    @property
    def start_ns(self) -> int:
        """Time of the first message; 0 without one."""
        return min((reader.start_ns for reader in self.readers if reader.message_count), default=0)

    @property
    def stop_ns(self) -> int:
        """Time of the last message; 0 without one."""
        return max((reader.stop_ns for reader in self.readers), default=0)

    @property
    def message_count(self) -> int:
        """Messages in all files."""
        return sum(reader.message_count for reader in self.readers)

    def topics(self) -> dict[str, int]:
        """Messages by topic."""
        found: Counter[str] = Counter()
        for reader in self.readers:
            found.update(reader.topics())
        return dict(sorted(found.items()))

    def messages(
        self, *, start_ns: int | None = None, stop_ns: int | None = None, topics: TopicFilter | None = None
    ) -> Iterator[LoggedMessage]:
        """Messages in the order of their times; see :meth:`LogReader.messages`."""
        streams = [reader.messages(start_ns=start_ns, stop_ns=stop_ns, topics=topics) for reader in self.readers]
        return heapq.merge(*streams, key=operator.attrgetter("time_ns"))

    def gaps(self) -> list[Gap]:
        """Places where messages are missing, in the order of their times."""
        return sorted((gap for reader in self.readers for gap in reader.gaps()), key=lambda gap: gap.time_ns)

    def metadata(self) -> dict[str, dict[str, str]]:
        """Metadata records by name; those of later files add to those of earlier ones."""
        found: dict[str, dict[str, str]] = {}
        for reader in self.readers:
            for name, values in reader.metadata().items():
                found.setdefault(name, {}).update(values)
        return found

    def attachments(self) -> dict[str, bytes]:
        """Attachments by name; of two with one name the later one counts."""
        return {name: data for reader in self.readers for name, data in reader.attachments().items()}

    def close(self) -> None:
        """Close every file. Harmless twice."""
        for reader in self.readers:
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_logs(paths: Sequence[Path], *, scan: bool = False) -> LogSet:
    """Open several logs as one.

    Args:
        paths: log files; a folder stands for every ``.mcap`` file in it.
        scan: read all of them also when they were closed well, and leave out what is damaged.

    Raises:
        RecordingError: one of them cannot be read, is no log, or is one of a newer version; a folder has none.
    """
    with ExitStack() as stack:
        readers = [stack.enter_context(LogReader(file, scan=scan)) for path in paths for file in _files(path)]
        stack.pop_all()
        return LogSet(readers)


def _in_order(readers: Sequence[LogReader]) -> list[LogReader]:
    return sorted(readers, key=lambda reader: (reader.start_ns, str(reader.path)))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.mcap"))
    if not found:
        raise RecordingError(str(path), "no .mcap file in this folder: name a log or a folder of logs")
    return found


def _use(channel: Channel) -> _ChannelUse:
    qos = channel.metadata.get("qos", "0")
    return _ChannelUse(
        channel.topic, int(qos) if qos in ("0", "1", "2") else 0, channel.metadata.get("retain") == "true"
    )
