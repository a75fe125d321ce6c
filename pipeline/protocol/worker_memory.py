"""What a worker session remembers beside its frames, all bounded: texts, decided queries, loads of peers, edges."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from pipeline.protocol.effects import KeyData, ReplyTo
from schemas.messages import Answer, Status
from schemas.types import AnswerType, FrameId


@dataclass(frozen=True, slots=True)
class KnownQuestion:
    """A question's text and what its answer may look like.

    Attributes:
        text: the question.
        answer_type: what the answer may look like.
        reply_to: where the client of an ad-hoc question wants its answers.
        risk: accepted chance that an early answer differs from the whole latent's; None takes the pool's.
    """

    text: str
    answer_type: AnswerType
    reply_to: ReplyTo | None = None
    risk: float | None = None

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, about."""
        correlation = b"" if self.reply_to is None else self.reply_to.correlation_data or b""
        return 300 + len(self.text.encode()) + len(correlation)


@dataclass(slots=True)
class Questions:
    """Texts of questions, of standing ones by id, of ad-hoc ones by camera and query id; the oldest goes first.

    An ask never changes a standing question, nor another ask: the first text under a query id of a camera stays. What
    an edge says of its own frames holds for its own camera alone.

    Attributes:
        capacity: texts kept.
        capacity_bytes: memory that they may take, about.
        held_bytes: memory that they take.
    """

    capacity: int
    capacity_bytes: int
    held_bytes: int = 0
    _known: OrderedDict[tuple[str, str, str], KnownQuestion] = field(default_factory=OrderedDict)

    def set_standing(self, question_id: str, question: KnownQuestion) -> None:
        """An operator or an edge set a standing question."""
        self._keep(("standing", "", question_id), question)

    def forget_standing(self, question_id: str) -> None:
        """The operator withdrew a question. Frames that were taken in with it keep it."""
        self._drop(("standing", "", question_id))

    def learn_ask(self, camera: str, query_id: str, question: KnownQuestion) -> None:
        """A client asked a camera."""
        known = self._known.get(("ask", camera, query_id))
        if known is None or (known.text, known.answer_type) == (question.text, question.answer_type):
            self._keep(("ask", camera, query_id), question)

    def learn_text(self, camera: str, question_id: str, question: KnownQuestion) -> None:
        """An edge said the text of a question of its camera, on request."""
        self._keep(("text", camera, question_id), question)

    def get(self, camera: str, question_id: str, *, ad_hoc: bool) -> KnownQuestion | None:
        """A text, if it is known."""
        first = ("ask", camera, question_id) if ad_hoc else ("standing", "", question_id)
        return self._known.get(first) or self._known.get(("text", camera, question_id))

    def _keep(self, key: tuple[str, str, str], question: KnownQuestion) -> None:
        self._drop(key)
        self._known[key] = question
        self.held_bytes += question.size_bytes
        while len(self._known) > self.capacity or self.held_bytes > self.capacity_bytes:
            _, dropped = self._known.popitem(last=False)
            self.held_bytes -= dropped.size_bytes

    def _drop(self, key: tuple[str, str, str]) -> None:
        dropped = self._known.pop(key, None)
        if dropped is not None:
            self.held_bytes -= dropped.size_bytes


_KEYS_A_CAMERA = 2
"""The latest, and the one before it, which frames may name that were under way when it came."""


@dataclass(slots=True)
class KeyFrames:
    """Key frames of the pool's cameras as they came; those of the cameras that were silent longest are forgotten first.

    Attributes:
        capacity_bytes: payload kept.
        held_bytes: payload that is kept now.
    """

    capacity_bytes: int
    held_bytes: int = 0
    _known: OrderedDict[str, dict[FrameId, KeyData]] = field(default_factory=OrderedDict)

    def learn(self, camera: str, frame: FrameId, payload: bytes) -> None:
        """Keep a key frame."""
        known = self._known.pop(camera, {})
        self.held_bytes += len(payload) - sum(len(key.payload) for key in known.values())
        known = {kept: key for kept, key in known.items() if kept != frame}
        for oldest in list(known)[: max(0, len(known) + 1 - _KEYS_A_CAMERA)]:
            del known[oldest]
        self.held_bytes += sum(len(key.payload) for key in known.values())
        known[frame] = KeyData(frame.sequence, payload)
        self._known[camera] = known
        while self.held_bytes > self.capacity_bytes:
            _, dropped = self._known.popitem(last=False)
            self.held_bytes -= sum(len(key.payload) for key in dropped.values())

    def forget(self, camera: str) -> None:
        """The key frames of a camera are of no use."""
        self.held_bytes -= sum(len(key.payload) for key in self._known.pop(camera, {}).values())

    def get(self, camera: str, boot: int, sequence: int) -> KeyData | None:
        """A key frame, if it is here."""
        return self._known.get(camera, {}).get(FrameId(boot, sequence))


@dataclass(slots=True)
class DecidedQueries:
    """Terminal answers by camera and query id: each is computed once, and repeated to an edge that missed it.

    The camera belongs to the key, since two clients may ask two cameras under one query id.
    """

    capacity: int
    _answers: OrderedDict[tuple[str, str], Answer] = field(default_factory=OrderedDict)

    def add(self, answer: Answer) -> None:
        """Keep a terminal answer."""
        self._answers[answer.camera, answer.query_id] = answer
        if len(self._answers) > self.capacity:
            self._answers.popitem(last=False)

    def get(self, camera: str, query_id: str) -> Answer | None:
        """The terminal answer of a query, if it was decided here and is remembered."""
        return self._answers.get((camera, query_id))


_KNOWN_EDGES = 4096
_CAMERAS_OVER = 16_384


@dataclass(slots=True)
class Edges:
    """Which edge processes are over, from their births and last wills.

    A boot id belongs to one process. Its frames are orphans once its last will was read, until it is back; or once
    another boot of its site was born.

    Attributes:
        stale_wills: wills of an earlier boot than the one that is known; they say nothing.
    """

    stale_wills: int = 0
    _known: OrderedDict[str, Status] = field(default_factory=OrderedDict)
    _over: OrderedDict[tuple[int, str], bool] = field(default_factory=OrderedDict)

    def learn(self, status: Status) -> None:
        """Take a birth or a last will in."""
        known = self._known.get(status.id)
        if status.online:
            if known is not None and known.boot != status.boot:
                self._end(known, followed=True)
            for camera in ("", *status.cameras):
                self._over.pop((status.boot, camera), None)
            self._known[status.id] = status
            self._known.move_to_end(status.id)
            if len(self._known) > _KNOWN_EDGES:
                self._known.popitem(last=False)
        elif known is None or known.boot == status.boot:
            # A will names no cameras: it travels with each connection.
            self._end(known or status, followed=False)
        else:
            self.stale_wills += 1

    def lost(self, camera: str, frame: FrameId, *, ad_hoc: bool) -> bool:
        """Whether no edge will say what became of a query.

        Args:
            camera: camera of its frame.
            frame: the frame.
            ad_hoc: asked by a client: the process that followed has it from the disk of the one before.
        """
        followed = self._over.get((frame.boot, camera), self._over.get((frame.boot, "")))
        return followed is not None and not (followed and ad_hoc)

    def _end(self, status: Status, *, followed: bool) -> None:
        for camera in status.cameras or ("",):
            self._over[status.boot, camera] = followed
            self._over.move_to_end((status.boot, camera))
        while len(self._over) > _CAMERAS_OVER:
            self._over.popitem(last=False)


_KNOWN_PEERS = 1024
LOAD_MAX_AGE_S = 10.0
"""A load that is older says nothing: a broker that was killed publishes no will of a worker that died with it."""


@dataclass(slots=True)
class _Load:
    status: Status
    heard_s: float
    sent: int = 0


@dataclass(slots=True)
class Peers:
    """Loads of the other workers of the pool."""

    own: str
    pool: str
    fingerprint: str
    _loads: OrderedDict[str, _Load] = field(default_factory=OrderedDict)

    def learn_status(self, status: Status) -> None:
        """Take a last will in; one of an earlier boot is ignored. A birth says nothing about load."""
        known = self._loads.get(status.id)
        if status.kind == "worker" and not status.online and known is not None and known.status.boot == status.boot:
            del self._loads[status.id]

    def connection_made(self) -> None:
        """Forget the loads: after a restart of the broker a peer may not be back yet, and a hand-over would be lost."""
        self._loads.clear()

    def learn_load(self, status: Status, now_s: float) -> None:
        """Take a load in."""
        if status.id == self.own or status.pool != self.pool or status.fingerprint != self.fingerprint:
            return
        self._loads[status.id] = _Load(status, now_s)
        self._loads.move_to_end(status.id)
        if len(self._loads) > _KNOWN_PEERS:
            self._loads.popitem(last=False)

    def less_loaded(self, parked: int, now_s: float) -> str | None:
        """The worker with the fewest parked frames, if that is less than half of ours and it has room.

        What was handed over since a worker's last word counts as parked there: a burst does not all go to one.
        """
        best: tuple[int, str] | None = None
        for name, load in self._loads.items():
            held = load.status.parked + load.sent
            fits = held < load.status.capacity and held * 2 < parked and now_s - load.heard_s <= LOAD_MAX_AGE_S
            if fits and (best is None or (held, name) < best):
                best = (held, name)
        return None if best is None else best[1]

    def note_sent(self, peer: str) -> None:
        """A frame was handed over to a worker."""
        self._loads[peer].sent += 1
