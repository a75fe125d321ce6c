"""What is in a log, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from analysis.traces import QueryTrace
from analysis.traffic import Traffic, read_traffic
from pipeline.recording.format import LOG_METADATA
from pipeline.recording.message import Gap, LoggedMessage
from pipeline.recording.reader import LogReader, LogSet

Watch = Callable[[Iterable[LoggedMessage]], Iterable[LoggedMessage]]
_OPEN = "open"
"""Stands for the outcome of a query that the log does not see to its end."""
_AD_HOC = "(ad hoc)"
"""Stands for the questions of clients."""


@dataclass(frozen=True, slots=True)
class CameraFigures:
    """What a log says about one camera.

    Attributes:
        frames: frames that were opened or stored.
        queries: questions asked of them.
        outcomes: outcomes by name, ``open`` for those that the log does not see to their end.
        uplink_bytes: bytes on the wire to the broker, all headers counted.
        uplink_kbps: the same as a rate over the whole log.
        latent_bytes: coded latents among them.
        stored_latents: whole latents in the log.
        key_frames: frames that others may be coded given, also those that were retained from before the log.
    """

    frames: int
    queries: int
    outcomes: dict[str, int]
    uplink_bytes: int
    uplink_kbps: float
    latent_bytes: int
    stored_latents: int
    key_frames: int


@dataclass(frozen=True, slots=True)
class QuestionFigures:
    """What a log says about one question; ad-hoc questions are one.

    Attributes:
        text: the question, None where the log never says it.
        answer_type: what the answer may look like, None where the log never says it.
        queries: how often it was asked.
        outcomes: outcomes by name.
        answers: the most frequent answers.
        median_latency_ms: median time to the outcome, None without one.
    """

    text: str | None
    answer_type: str | None
    queries: int
    outcomes: dict[str, int]
    answers: dict[str, int]
    median_latency_ms: float | None


@dataclass(frozen=True, slots=True)
class FileFigures:
    """What is known about one file.

    Attributes:
        path: the file.
        size_bytes: its size.
        complete: it was closed well.
        damages: places that cannot be read, how many messages they held if something says so, and why.
        messages: messages in it.
        chunks: chunks in it.
        written_by: version of the software.
        redaction: what was taken out, empty for nothing.
        filters: topic filters of the recorder, as JSON.
        attachments: sizes of the attachments, by name.
    """

    path: str
    size_bytes: int
    complete: bool
    damages: list[str]
    messages: int
    chunks: int
    written_by: str
    redaction: str
    filters: str
    attachments: dict[str, int]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is in a log.

    Attributes:
        files: one entry a file, in the order of their times.
        start: time of the first message, ISO 8601; None of an empty log.
        stop: time of the last message.
        duration_s: time between them, in seconds.
        messages: messages.
        payload_bytes: their payloads.
        messages_per_s: mean rate.
        busiest_messages_per_s: most messages within one second of the clock.
        topics: messages by topic.
        families: messages by topic family.
        cameras: by name.
        questions: by question id, ``{site}/{question id}`` where several sites have a question of that id.
        outcomes: outcomes of all queries, by name.
        dropped: messages that the recorder had to drop, as the gaps say.
        gaps: places where messages are missing.
        fingerprints: codec fingerprints that were named, with how often.
        processes: fingerprint of each process that said one, empty for none, by ``kind/id``.
        undecodable: messages that are none of ours or do not decode, by kind.
        metadata: metadata records.
    """

    files: list[FileFigures]
    start: str | None
    stop: str | None
    duration_s: float
    messages: int
    payload_bytes: int
    messages_per_s: float
    busiest_messages_per_s: int
    topics: dict[str, int]
    families: dict[str, int]
    cameras: dict[str, CameraFigures]
    questions: dict[str, QuestionFigures]
    outcomes: dict[str, int]
    dropped: int
    gaps: list[Gap]
    fingerprints: dict[str, int]
    processes: dict[str, str]
    undecodable: dict[str, int]
    metadata: dict[str, dict[str, str]]

    @property
    def complete(self) -> bool:
        """Every file was closed well."""
        return all(file.complete for file in self.files)


def inspect_logs(logs: LogSet, watch: Watch = iter) -> Inspection:
    """Read logs to their end and count.

    Args:
        logs: the logs.
        watch: sees the messages on their way, for progress.

    Raises:
        RecordingError: a chunk of a log that was closed well is damaged.
    """
    tally = _Tally()
    traffic = read_traffic(tally.counted(watch(logs.messages())))
    duration_s = max(tally.stop_ns - tally.start_ns, 0) / 1e9
    gaps = logs.gaps()
    return Inspection(
        files=[_file(reader) for reader in logs.readers],
        start=_iso(tally.start_ns),
        stop=_iso(tally.stop_ns),
        duration_s=round(duration_s, 3),
        messages=tally.messages,
        payload_bytes=tally.payload_bytes,
        messages_per_s=round(tally.messages / duration_s, 3) if duration_s else 0.0,
        busiest_messages_per_s=tally.busiest,
        topics=logs.topics(),
        families=_by_name(traffic.messages),
        cameras=_cameras(traffic, duration_s),
        questions=_questions(traffic),
        outcomes=_outcomes(traffic.queries.values()),
        dropped=sum(gap.count for gap in gaps),
        gaps=gaps,
        fingerprints=_by_name(traffic.fingerprints),
        processes={
            f"{kind}/{name}": statuses[-1][1].fingerprint for (kind, name), statuses in sorted(traffic.statuses.items())
        },
        undecodable=_by_name(traffic.undecodable),
        metadata=logs.metadata(),
    )


class _Tally:
    """Counts messages as they pass."""

    def __init__(self) -> None:
        self.messages = 0
        self.payload_bytes = 0
        self.start_ns = 0
        self.stop_ns = 0
        self.busiest = 0
        self._second = 0
        self._in_second = 0

    def counted(self, messages: Iterable[LoggedMessage]) -> Iterator[LoggedMessage]:
        """The same messages."""
        for message in messages:
            self.start_ns = self.start_ns or message.time_ns
            self.stop_ns = message.time_ns
            self.messages += 1
            self.payload_bytes += len(message.payload)
            second = message.time_ns // 1_000_000_000
            self._in_second = self._in_second + 1 if second == self._second else 1
            self._second = second
            self.busiest = max(self.busiest, self._in_second)
            yield message


def _file(reader: LogReader) -> FileFigures:
    about = reader.metadata().get(LOG_METADATA, {})
    return FileFigures(
        path=str(reader.path),
        size_bytes=reader.size_bytes,
        complete=reader.complete,
        damages=[str(damage) for damage in reader.damages],
        messages=reader.message_count,
        chunks=len(reader.index.chunks),
        written_by=about.get("software_version", ""),
        redaction=about.get("redaction", ""),
        filters=about.get("filters", ""),
        attachments={record.name: len(record.data) for record in reader.attachment_records()},
    )


def _cameras(traffic: Traffic, duration_s: float) -> dict[str, CameraFigures]:
    queries: dict[str, list[QueryTrace]] = {}
    for query in traffic.queries.values():
        queries.setdefault(query.camera, []).append(query)
    frames: Counter[str] = Counter()
    latent_bytes: Counter[str] = Counter()
    stored_latents: Counter[str] = Counter()
    for frame in traffic.frames.values():
        frames[frame.camera] += 1
        latent_bytes[frame.camera] += frame.latent_bytes
        stored_latents[frame.camera] += frame.stored_latent is not None
    key_frames = Counter(camera for camera, _ in traffic.key_frames)
    names = sorted({*frames, *queries, *key_frames, *traffic.uplink_bytes})
    return {
        name: CameraFigures(
            frames=frames[name],
            queries=len(queries.get(name, ())),
            outcomes=_outcomes(queries.get(name, ())),
            uplink_bytes=traffic.uplink_bytes[name],
            uplink_kbps=round(traffic.uplink_bytes[name] * 8 / 1000 / duration_s, 3) if duration_s else 0.0,
            latent_bytes=latent_bytes[name],
            stored_latents=stored_latents[name],
            key_frames=key_frames[name],
        )
        for name in names
    }


def _questions(traffic: Traffic) -> dict[str, QuestionFigures]:
    groups: dict[tuple[str, str], list[QueryTrace]] = {key: [] for key in traffic.questions}
    for query in traffic.queries.values():
        key = ("", _AD_HOC) if query.ad_hoc else traffic.question_key(query.owner, query.question_id)
        groups.setdefault(key, []).append(query)
    shared = Counter(question_id for _, question_id in groups)
    found: dict[str, QuestionFigures] = {}
    for (owner, question_id), queries in sorted(groups.items(), key=lambda group: group[0][::-1]):
        name = question_id if shared[question_id] == 1 else f"{owner.removeprefix('site/')}/{question_id}"
        standing = traffic.questions.get((owner, question_id))
        latencies = sorted(query.latency_ms for query in queries if query.latency_ms is not None)
        answers = Counter(query.answer_text for query in queries if query.answer_text)
        found[name] = QuestionFigures(
            text=standing.text if standing else None,
            answer_type=standing.answer_type.value if standing else None,
            queries=len(queries),
            outcomes=_outcomes(queries),
            answers=dict(answers.most_common(5)),
            median_latency_ms=round(latencies[len(latencies) // 2], 1) if latencies else None,
        )
    return found


def _outcomes(queries: Iterable[QueryTrace]) -> dict[str, int]:
    return _by_name(Counter(_OPEN if query.outcome is None else query.outcome.value for query in queries))


def _by_name(counts: Counter[str]) -> dict[str, int]:
    return {str(name): count for name, count in sorted(counts.items())}


def _iso(time_ns: int) -> str | None:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds") if time_ns else None
