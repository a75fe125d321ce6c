"""A log understood: which frames, queries, answers and bytes its messages amount to.

Pure. Messages come in the order of the log and are read once; what is kept grows with the queries and frames, and
with the coded latents, which a replay needs. A log holds whatever was on the broker, so a message that is none of ours
or does not decode is counted and never raises.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from analysis.traces import AskTrace, FrameKey, FrameTrace, KeyTrace, QueryTrace
from analysis.translation import UNKNOWN, LogDecoder
from pipeline.protocol.reducer import OutcomeReducer
from pipeline.recording.format import LATENT_ROOT
from pipeline.recording.message import LoggedMessage, wire_bytes
from pipeline.recording.stored_latent import decode_stored_latent
from schemas.errors import WireError
from schemas.identity import QuestionContent, is_ad_hoc, owner_of
from schemas.messages import (
    Accept,
    Answer,
    Ask,
    Busy,
    Chunk,
    FollowUp,
    Handover,
    KeyFrame,
    Message,
    NeedText,
    Open,
    QueryOutcome,
    Question,
    Refine,
    Reject,
    Revoke,
    Status,
    Text,
)
from schemas.topics import Family, Topic
from schemas.types import FrameId


@dataclass(slots=True)
class Traffic:
    """A log understood.

    Attributes:
        queries: by their key, in the order of the log.
        frames: by camera and frame id, in the order of the log.
        key_frames: by camera and frame id, in the order of the log. One whose frame is not in ``frames`` was retained
            from before the log: it cost no uplink then.
        questions: latest text of each standing question, by owner and question id. Version 1 of the wire named no site:
            its questions are those of site ``unknown`` and count for every site.
        asks: ad-hoc questions by the key of their query, the first of each.
        statuses: births, wills and goodbyes by (kind, id), with their times.
        fingerprints: messages that name a codec fingerprint (hexadecimal), by fingerprint.
        uplink_bytes: bytes on the wire from the edge, all headers counted as on TLS, by camera.
        downlink_bytes: the same to the edge, by camera.
        messages: messages by topic family, ``$local/latent`` for stored latents.
        undecodable: messages that are none of ours or do not decode, as ``family/reason``.
        repeats: messages that a log holds more than once: redeliveries and copies.
        conflicts: terminals that contradict the one that counts.
        start_ns: time of the first message, None of an empty log.
        stop_ns: time of the last message.
    """

    queries: dict[str, QueryTrace] = field(default_factory=dict)
    frames: dict[FrameKey, FrameTrace] = field(default_factory=dict)
    key_frames: dict[FrameKey, KeyTrace] = field(default_factory=dict)
    questions: dict[tuple[str, str], Question] = field(default_factory=dict)
    asks: dict[str, AskTrace] = field(default_factory=dict)
    statuses: dict[tuple[str, str], list[tuple[int, Status]]] = field(default_factory=dict)
    fingerprints: Counter[str] = field(default_factory=Counter)
    uplink_bytes: Counter[str] = field(default_factory=Counter)
    downlink_bytes: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    undecodable: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    conflicts: int = 0
    start_ns: int | None = None
    stop_ns: int | None = None

    @property
    def sites(self) -> dict[str, tuple[str, ...]]:
        """Cameras of each edge process, by site, as it said last."""
        found: dict[str, tuple[str, ...]] = {}
        for (kind, name), statuses in self.statuses.items():
            for _, status in statuses:
                if kind == "edge" and status.cameras:
                    found[name] = status.cameras
        return found

    def question_key(self, owner: str, question_id: str) -> tuple[str, str]:
        """Key in :attr:`questions` of a standing question, which need not be there."""
        anywhere = (_ANY_SITE, question_id)
        own = (owner, question_id)
        return anywhere if own not in self.questions and anywhere in self.questions else own

    def question(self, owner: str, question_id: str) -> Question | None:
        """Latest text of a standing question; None where the log never says it."""
        return self.questions.get(self.question_key(owner, question_id))


def read_traffic(messages: Iterable[LoggedMessage]) -> Traffic:
    """Understand a log.

    Args:
        messages: in the order of the log.

    Returns:
        What they amount to. A query whose question was said only later in the log has its text all the same.
    """
    reader = _Reader()
    for message in messages:
        reader.take(message)
    return reader.finish()


class _Reader:
    """One pass over a log."""

    def __init__(self) -> None:
        self._traffic = Traffic()
        # The log ends; a reader that forgot early queries would decide them twice.
        self._reducer = OutcomeReducer(capacity=sys.maxsize)
        self._decoder = LogDecoder()
        self._contents: dict[bytes, QuestionContent] = {}
        self._texts: dict[tuple[str, str], QuestionContent] = {}
        self._answers: set[Answer] = set()

    def take(self, logged: LoggedMessage) -> None:
        """Take the next message in."""
        traffic = self._traffic
        if traffic.start_ns is None:
            traffic.start_ns = logged.time_ns
        traffic.stop_ns = logged.time_ns
        if logged.topic.startswith(LATENT_ROOT):
            self._stored_latent(logged)
            return
        try:
            topic, message = self._decoder.decode(logged)
        except WireError as error:
            traffic.undecodable[f"{_family_of(logged.topic)}/{error.reason}"] += 1
            return
        traffic.messages[topic.family] += 1
        if message is not None:
            self._message(logged, topic, message)

    def finish(self) -> Traffic:
        """Fill in what the log said only after the query, and hand the result over."""
        traffic = self._traffic
        for query in traffic.queries.values():
            asked = traffic.asks.get(query.query_id)
            question = None if query.ad_hoc else traffic.question(query.owner, query.question_id)
            latest: QuestionContent | None = self._texts.get((query.owner, query.question_id))
            if asked is not None:
                query.deadline_ms, latest = asked.ask.deadline_ms, asked.ask.content(asked.client)
            elif question is not None:
                query.deadline_ms, latest = question.deadline_ms, question.content()
            # The digest pins the text that was asked; without it the latest one stands for it.
            content = latest if query.digest is None else self._pinned(query.digest) or latest
            if content is not None:
                query.learn(content)
        for key, key_frame in traffic.key_frames.items():
            if key in traffic.frames:
                self._sent(key_frame.wire_bytes, traffic.frames[key], len(key_frame.message.payload))
        traffic.conflicts = self._reducer.conflicts
        return traffic

    def _pinned(self, digest: bytes) -> QuestionContent | None:
        return self._contents.get(digest) or self._decoder.pinned.get(digest)

    def _stored_latent(self, logged: LoggedMessage) -> None:
        try:
            stored = decode_stored_latent(logged.topic, logged.payload)
        except WireError as error:
            self._traffic.undecodable[f"latent/{error.reason}"] += 1
            return
        self._traffic.messages["$local/latent"] += 1
        frame = self._frame(stored.camera, stored.frame)
        frame.stored_latent, frame.stored_ns = stored, logged.time_ns

    def _message(self, logged: LoggedMessage, topic: Topic, message: Message) -> None:
        traffic, now_ns = self._traffic, logged.time_ns
        match message:
            case Open():
                self._open(logged, topic.name("camera"), topic.name("pool"), message)
            case Chunk():
                frame = self._frame(message.camera, message.frame)
                frame.chunks.append((now_ns, topic.name("worker"), message))
                self._sent(wire_bytes(logged), frame, len(message.payload))
            case FollowUp():
                self._follow_up(logged, topic.name("camera"), message)
            case KeyFrame():
                self._key_frame(logged, topic.name("camera"), message)
            case Revoke():
                self._sent(wire_bytes(logged), self._frame(message.camera, message.frame))
            case Text():
                self._texts.setdefault((message.owner, message.question_id), message.content())
                self._said(message.content())
                traffic.uplink_bytes[message.camera] += wire_bytes(logged)
            case Handover():
                self._frame(message.camera, message.frame).handovers.append((now_ns, topic.name("worker"), message))
            case Accept() | Refine() | Busy() | Reject() | NeedText():
                camera = topic.name("camera")
                traffic.downlink_bytes[camera] += wire_bytes(logged)
                self._frame(camera, message.frame).controls.append((now_ns, message))
            case Answer() | QueryOutcome():
                self._verdict(logged, topic, message)
            case Question():
                traffic.questions[owner_of("site", message.site), message.question_id] = message
                self._said(message.content())
            case Ask():
                self._ask(logged, topic.name("camera"), topic.name("client"), message)
            case Status() if topic.family is Family.STATUS:
                traffic.statuses.setdefault((message.kind, message.id), []).append((now_ns, message))
                if message.fingerprint:
                    traffic.fingerprints[message.fingerprint] += 1

    def _open(self, logged: LoggedMessage, camera: str, pool: str, message: Open) -> None:
        traffic = self._traffic
        frame = self._frame(camera, message.frame)
        if any(seen.attempt == message.attempt for _, seen in frame.opens):
            # An attempt leaves once; a second copy is a redelivery or the same publish in a second log.
            traffic.repeats += 1
            return
        frame.pool = pool
        frame.opens.append((logged.time_ns, message))
        traffic.fingerprints[message.fingerprint.hex()] += 1
        self._sent(wire_bytes(logged), frame, len(message.payload))
        for query_id, ref in zip(message.query_ids(camera), message.queries, strict=True):
            owner = owner_of("site", message.site) if ref.client is None else owner_of("client", ref.client)
            query = self._query(query_id, owner, frame, ref.question_id, logged.time_ns)
            if query.remaining_ms is None:
                query.remaining_ms, query.digest = ref.remaining_ms, ref.digest

    def _follow_up(self, logged: LoggedMessage, camera: str, message: FollowUp) -> None:
        frame = self._frame(camera, message.frame)
        self._sent(wire_bytes(logged), frame)
        for query_id, ref in zip(message.query_ids(camera), message.queries, strict=True):
            if ref.client is not None:  # of another one, its answer says the owner
                # The time that is left counts from here and not from the open, so it is not taken.
                query = self._query(query_id, owner_of("client", ref.client), frame, ref.question_id, logged.time_ns)
                query.digest = query.digest or ref.digest

    def _key_frame(self, logged: LoggedMessage, camera: str, message: KeyFrame) -> None:
        traffic = self._traffic
        key = (camera, message.frame)
        if key in traffic.key_frames:
            # Retained: a recorder that subscribes again, or a second one, is given it again.
            traffic.repeats += 1
            return
        traffic.key_frames[key] = KeyTrace(logged.time_ns, message, wire_bytes(logged))
        traffic.fingerprints[message.fingerprint.hex()] += 1

    def _ask(self, logged: LoggedMessage, camera: str, client: str, ask: Ask) -> None:
        traffic = self._traffic
        traffic.downlink_bytes[camera] += wire_bytes(logged)
        asked = AskTrace(logged.time_ns, camera, client, ask, logged.properties)
        if asked.query_id in traffic.asks:
            traffic.repeats += 1
            return
        traffic.asks[asked.query_id] = asked
        self._said(ask.content(client))

    def _said(self, content: QuestionContent) -> None:
        self._contents[content.digest] = content

    def _verdict(self, logged: LoggedMessage, topic: Topic, message: Answer | QueryOutcome) -> None:
        traffic = self._traffic
        if topic.family is Family.ANSWER:
            traffic.downlink_bytes[message.camera] += wire_bytes(logged)
        frame = self._frame(message.camera, message.frame)
        if isinstance(message, QueryOutcome):
            self._sent(wire_bytes(logged), frame)
        query = self._query(message.query_id, message.owner, frame, message.question_id, logged.time_ns)
        if isinstance(message, Answer):
            # A client's own copy on its reply topic says the same again.
            if message in self._answers:
                traffic.repeats += 1
                return
            self._answers.add(message)
            query.answers.append((logged.time_ns, message))
        decided = self._reducer.observe(message, logged.time_ns / 1e9)
        if decided is None:
            return
        query.outcome, query.answer_text, query.reason = decided.outcome, decided.text, message.reason
        query.decided_ns = logged.time_ns
        if isinstance(message, Answer):
            query.score, query.latents, query.worker = message.score, message.latents, message.worker

    def _sent(self, size_bytes: int, frame: FrameTrace, latent_bytes: int = 0) -> None:
        frame.wire_bytes += size_bytes
        frame.latent_bytes += latent_bytes
        self._traffic.uplink_bytes[frame.camera] += size_bytes

    def _frame(self, camera: str, frame: FrameId) -> FrameTrace:
        key = (camera, frame)
        found = self._traffic.frames.get(key)
        if found is None:
            found = self._traffic.frames[key] = FrameTrace(camera, frame, key_frames=self._traffic.key_frames)
        return found

    def _query(self, query_id: str, owner: str, frame: FrameTrace, question_id: str, now_ns: int) -> QueryTrace:
        found = self._traffic.queries.get(query_id)
        if found is None:
            asked = self._traffic.asks.get(query_id) if is_ad_hoc(owner) else None
            asked_ns = asked.asked_ns if asked else now_ns
            found = QueryTrace(query_id, owner, frame.camera, frame.frame, question_id, asked_ns)
            self._traffic.queries[query_id] = found
            frame.query_ids.append(query_id)
        elif found.outcome is None and (found.camera, found.frame) != (frame.camera, frame.frame):
            # An edge that was started again asks an ad-hoc question of another frame.
            found.camera, found.frame = frame.camera, frame.frame
            frame.query_ids.append(query_id)
        return found


def _family_of(topic: str) -> str:
    """First level below the root where it is one of ours, else ``foreign``: a label of few values."""
    match = _OURS.match(topic)
    name = match[1] if match else ""
    return name if name in _FAMILY_NAMES else "foreign"


_OURS = re.compile(r"lb/v[0-9]{1,6}/([^/]*)")
_FAMILY_NAMES = frozenset(family.value for family in Family)
_ANY_SITE = owner_of("site", UNKNOWN)
