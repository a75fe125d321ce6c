"""What happened, in lines that a person can read, and which of them are about one query."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.identity import ad_hoc_query_id
from schemas.messages import (
    Accept,
    Answer,
    Ask,
    Busy,
    Chunk,
    Handover,
    KeyFrame,
    Message,
    NeedText,
    Open,
    QueryOutcome,
    QueryRef,
    Question,
    Refine,
    Reject,
    RejectReason,
    Revoke,
    Status,
    Text,
)
from schemas.types import FrameId

_MAX_ENTRIES = 50_000
_FAULT = "fault:"
_BEFORE_S = 2.0
"""Faults so long before the first word about a query may still have to do with it."""
_HEAD = 4


@dataclass(frozen=True, slots=True)
class _Entry:
    time_s: float
    text: str
    about: frozenset[str]


@dataclass(slots=True)
class Trace:
    """Entries of one episode, in time order."""

    _entries: list[_Entry] = field(default_factory=list)

    def note(self, time_s: float, text: str, *about: str) -> None:
        """Keep a line.

        Args:
            time_s: virtual time.
            text: the line.
            about: queries, frames (see :func:`frame_key`) and processes that it is about.
        """
        if len(self._entries) < _MAX_ENTRIES:
            self._entries.append(_Entry(time_s, text, frozenset(about)))

    def message(self, time_s: float, topic: str, message: Message, fate: str = "") -> None:
        """Keep a message that was published, or what became of one."""
        text = describe(topic, message)
        if text:
            self.note(time_s, f"    {text}: {fate}" if fate else text, *_about(topic, message))

    def about(self, subject: str, lines: int = 30) -> list[str]:
        """The story of a query, a frame or a process: what was said about it, and the faults meanwhile.

        Args:
            subject: what the story is about; empty for everything.
            lines: at most so many; what is left out is counted.
        """
        first = [entry for entry in self._entries if subject in entry.about]
        # A query's story is that of its frames.
        wanted = {subject} | {key for entry in first for key in entry.about if key.startswith(_FRAME)}
        told = [entry for entry in self._entries if not subject or entry.about & wanted]
        start_s = told[0].time_s - _BEFORE_S if told else 0.0
        story = [
            f"{entry.time_s:9.3f}  {entry.text}"
            for entry in self._entries
            if not subject or entry.about & wanted or (entry.text.startswith(_FAULT) and entry.time_s >= start_s)
        ]
        if len(story) <= lines:
            return story
        head = _HEAD if subject else 0
        tail = lines - head - 1
        return [*story[:head], f"           ... {len(story) - head - tail} more lines ...", *story[-tail:]]


_FRAME = "frame "


def frame_key(camera: str, frame: FrameId) -> str:
    """How entries name a frame."""
    return f"{_FRAME}{camera}/{frame}"


def describe(topic: str, message: Message) -> str:
    """A message in a few words; empty for those that say nothing about a query."""
    level = topic.split("/")[3] if topic.count("/") >= 3 else ""
    match message:
        case Open():
            asked = ", ".join(f"{_asked(ref)} {ref.remaining_ms / 1000:.1f} s" for ref in message.queries)
            frame = f"{topic.rsplit('/', 1)[1]}/{message.frame}"
            latents = f"latents 0..{message.stop}{_given(message)}"
            text = f"edge opens {frame}, attempt {message.attempt}, {latents}, {asked}"
        case KeyFrame():
            text = f"edge: key frame {topic.rsplit('/', 1)[1]}/{message.frame}"
        case Handover():
            text = f"hand-over to {level}, hop {message.hops}, attempt {message.attempt}{_given(message)}"
        case Chunk():
            latents = f"latents {message.start}..{message.stop}{_given(message)}"
            text = f"edge to {level}: {latents}, attempt {message.attempt}"
        case Revoke():
            text = f"edge to {level}: revoke, attempt {message.attempt}"
        case Text():
            text = f"edge to {level}: text of {message.question_id}"
        case Accept():
            text = f"{message.worker}: accept, lease {message.lease_ms / 1000:.1f} s, attempt {message.attempt}"
        case Refine():
            text = f"{message.worker}: refine {message.start}..{message.stop}, attempt {message.attempt}"
        case Busy():
            text = f"{message.worker}: busy, again in {message.retry_after_ms / 1000:.1f} s, attempt {message.attempt}"
        case Reject():
            reason = RejectReason(message.reason).name.lower().replace("_", " ")
            text = f"{message.worker}: reject, {reason}, attempt {message.attempt}"
        case NeedText():
            digests = ", ".join(digest.hex() for digest in message.digests)
            text = f"{message.worker}: need text of {digests}, attempt {message.attempt}"
        case Answer():
            outcome = message.outcome or "provisional"
            why = f" ({message.reason})" if message.reason else ""
            text = f"{message.worker}: {message.query_id} {outcome} from {message.latents} latents{why}"
        case QueryOutcome():
            text = f"edge: {message.query_id} {message.outcome} ({message.reason})"
        case Ask():
            text = f"{topic.rsplit('/', 1)[1]} asks {message.query_id} of {level}"
        case Question():
            where = "" if message.cameras is None else f" of {', '.join(message.cameras) or 'no camera'}"
            text = f"{message.set_by} of {message.site} set {message.question_id}{where}: {message.text[:40]}"
        case Status() if "/status/" in topic:
            text = f"{message.kind} {message.id} is {'online' if message.online else 'offline'}, boot {message.boot}"
        case _:
            text = ""
    return text


def _asked(ref: QueryRef) -> str:
    return ref.question_id if ref.client is None else f"@{ref.client}/{ref.question_id}"


def _given(message: Open | Handover | Chunk) -> str:
    return "" if message.key is None else f" given key frame {message.key}"


def _about(topic: str, message: Message) -> list[str]:
    about: list[str] = []
    frame = getattr(message, "frame", None)
    if frame is not None:
        camera = getattr(message, "camera", None) or topic.rsplit("/", 1)[1]
        about.append(frame_key(camera, frame))
    if isinstance(message, Answer | QueryOutcome):
        about.append(message.query_id)
    if isinstance(message, Ask):
        _, _, _, camera, client = topic.split("/")
        about.append(ad_hoc_query_id(camera, client, message.query_id))
    if isinstance(message, Status):
        about.append(message.id)
    if isinstance(message, Text):
        about.append(message.question_id)
    return about
