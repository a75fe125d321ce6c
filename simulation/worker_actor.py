"""A simulated worker process: the real worker session, with a model that takes its time."""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

from pipeline.protocol.effects import Look, ReplyTo, SendAnswer, SendHandover, WorkerEffect
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_pace import WorkerPace
from pipeline.protocol.worker_schedule import Schedule
from pipeline.protocol.worker_session import WorkerSession
from pipeline.protocol.worker_work import WorkCosts
from schemas import topics
from schemas.errors import BitstreamError, RemoteError
from schemas.messages import (
    Accept,
    Ask,
    Chunk,
    Gone,
    Handover,
    KeyFrame,
    Message,
    Open,
    Question,
    RejectReason,
    Status,
    Text,
)
from simulation.broker import BrokerModel
from simulation.clock import VirtualClock
from simulation.content import FINGERPRINT, RULE, LookModel, damaged
from simulation.stalls import StallWatch
from simulation.worker_books import WorkerBooks

_SLOW_SHARE = 0.5
"""Batches that a slow worker takes long for: a machine that others use as well is slow now and then, not evenly."""
_HICCUP = 50.0
_LONGEST_BATCH_S = 30.0


class WorkerActor:
    """One worker process at a time under a name; a restart makes a new session with a new boot id.

    Args:
        clock: virtual clock.
        broker: model of the broker.
        draw: random numbers of this worker's speed.
        name: its name.
        pool: its pool.
        settings: of the protocol machine.
        model: what answers looks.
        batch_s: time of a batch beside its frames.
        frame_s: time of a frame in a batch.
        questions: standing questions that it knows from the start.
        fingerprint: codec that it decodes.
        stop_rule: when an answer is safe.
        on_problem: called when a look reads what it must not.
        max_batch: frames in a batch.
        status_every_s: time between reports of its load.
        schedule: makes the rule of what goes first.
        hiccups: share of the batches that take far too long.
        on_stall: called when a worker renews a lease although its model is stalled.
        costs: work of a look; by default that of one frame.
        max_work: work in a batch.
        books: makes the book of a process, where it is judged.

    Attributes:
        slowness: how many times as long as usual some batches take.
        slow_until_s: end of the last such batch.
        damages_keys: key frames that come are damaged before it keeps them.
    """

    def __init__(
        self,
        clock: VirtualClock,
        broker: BrokerModel,
        draw: random.Random,
        *,
        name: str,
        pool: str,
        settings: WorkerProtocolSettings,
        model: LookModel,
        batch_s: float,
        frame_s: float,
        questions: Sequence[Question],
        on_problem: Callable[[str], None],
        fingerprint: bytes = FINGERPRINT,
        stop_rule: StopRule = RULE,
        max_batch: int = 16,
        status_every_s: float = 2.0,
        schedule: Callable[[WorkerProtocolSettings, WorkerPace], Schedule] = Schedule,
        hiccups: float = 0.0,
        on_stall: Callable[[str], None] | None = None,
        costs: WorkCosts | None = None,
        max_work: float = math.inf,
        books: Callable[[], WorkerBooks] | None = None,
    ) -> None:
        self.name = name
        self.alive = False
        self.frozen = False
        self.draining = False
        self.boot = 0
        self.slowness = 1.0
        self.slow_until_s = 0.0
        self.damages_keys = False
        self.errors: Counter[str] = Counter()
        self.settings = settings
        self.busy_s = 0.0
        self.session: WorkerSession
        self._clock = clock
        self._broker = broker
        self._draw = draw
        self._pool = pool
        self._model = model
        self._batch_s = batch_s
        self._frame_s = frame_s
        self._questions = questions
        self._on_problem = on_problem
        self._fingerprint = fingerprint
        self._stop_rule = stop_rule
        self._max_batch = max_batch
        self._status_every_s = status_every_s
        self._schedule = schedule
        self._hiccups = hiccups
        self._on_stall = on_stall
        self._costs = costs or WorkCosts.by_frames()
        self._max_work = max_work
        self._new_books = books
        self._books: WorkerBooks | None = None
        self._looking = False
        self._stalls: StallWatch
        self._linked = False
        self._keys: dict[str, KeyFrame] = {}
        self._wake_at_s: float | None = None
        self._socket: deque[tuple[str, Message, int | None]] = deque()
        self._outbox: deque[WorkerEffect] = deque()
        self._publishing = 0

    # ---- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The process starts and joins the pool."""
        self.alive, self.frozen, self.draining = True, False, False
        self.boot += 1
        self._looking = False
        self._stalls = StallWatch(self.settings.max_lease_s, self._costs.usual, self._on_stall)
        self._wake_at_s = None
        self._keys.clear()
        self._socket.clear()
        self._outbox.clear()
        self._publishing = 0
        self.session = WorkerSession(
            self.settings,
            worker=self.name,
            pool=self._pool,
            fingerprint=self._fingerprint,
            stop_rule=self._stop_rule,
            schedule=self._schedule,
            costs=self._costs,
        )
        self._books = None if self._new_books is None else self._new_books()
        for question in self._questions:
            self.session.receive_question(question)
        self._join()
        self._clock.after(self._status_every_s, partial(self._report, self.boot))

    def crash(self, *, noticed_s: float = 0.0) -> None:
        """SIGKILL: everything in memory is gone; the broker notices at once, or later after a loss of power."""
        self.alive = self._linked = False
        self._broker.close(self.name, noticed_s=noticed_s)

    def drain(self) -> None:
        """SIGTERM: leave the share group, hand over or finish what is here."""
        self.draining = True
        self._broker.leave_group(self.name)
        self.session.drain(self._clock.now_s)
        self._after()

    def drained(self) -> bool:
        """Whether a drain has come to its end: nothing is held and everything is said."""
        return not (self.session.unfinished() or self._outbox or self._publishing)

    def stop(self) -> None:
        """The end of a drain: a goodbye, and the connection is closed."""
        if self.linked():
            topic = topics.status_topic("worker", self.name)
            self._broker.publish(self.name, topic, self._status(online=False), qos=1, retain=True)
            self._broker.disconnect(self.name)
        self.alive = self._linked = False

    def linked(self) -> bool:
        """Whether the process runs and reaches the broker."""
        return self.alive and not self.frozen and self._linked and self._broker.is_up(self.name)

    def check_books(self) -> None:
        """Judge what the process should have said by now."""
        if self._books is not None and self.alive and not self.frozen:
            self._books.check_time(self._clock.now_s)

    def freeze(self) -> None:
        """SIGSTOP: the socket stays open, nothing is read."""
        self.frozen = True

    def wake(self) -> None:
        """SIGCONT: what has piled up is handled, late."""
        if not self.alive or not self.frozen:
            return
        self.frozen = False
        now_s = self._clock.now_s
        self.session.tick(now_s)
        self._after()
        while self._socket:
            self._handle(*self._socket.popleft())
            self._after()  # what comes next may find the model at work on what came first
        if not self._broker.is_up(self.name):
            self.connection(False)
        self._after()

    def damage_keys(self) -> None:
        """What it keeps of key frames is damaged, and what comes from now on as well."""
        self.damages_keys = True
        for camera, message in list(self._keys.items()):
            self._receive_key_frame(camera, message)

    def connection(self, connected: bool) -> None:
        """The process notices that its connection came or went; it reconnects by itself."""
        if self.alive and not self.frozen and not connected:
            self._linked = False
            self._clock.after(0.5 + self._draw.random(), self._reconnect)

    def _reconnect(self) -> None:
        if not self.alive or self.frozen or self._linked or not self._join():
            return
        self.session.connection_made(self._clock.now_s)
        outbox, self._outbox = self._outbox, deque()
        for effect in outbox:
            self._publish(effect)
        self._after()

    def _join(self) -> bool:
        self._linked = self._broker.reachable(self.name)
        if not self._linked:
            self._clock.after(0.5, self._reconnect)
            return False
        will = self._status(online=False)
        self._broker.connect_worker(self.name, self, self._pool, self._status(online=True), will)
        if self.draining:
            self._broker.leave_group(self.name)
        return True

    def _status(self, *, online: bool) -> Status:
        held, capacity = self.session.load()
        return Status(
            kind="worker",
            id=self.name,
            boot=self.boot,
            online=online,
            pool=self._pool,
            fingerprint=self._fingerprint.hex(),
            parked=held,
            capacity=capacity,
        )

    def _report(self, boot: int) -> None:
        if boot != self.boot or not self.alive:
            return
        if not self.frozen and self._broker.is_up(self.name):
            topic = topics.load_topic(self._pool, self.name)
            self._broker.publish(self.name, topic, self._status(online=True), qos=0)
        self._clock.after(self._status_every_s, partial(self._report, boot))

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def receive(self, topic: str, message: Message, token: int | None) -> None:
        """A message reaches the socket."""
        if not self.alive:
            return
        if self.frozen:
            self._socket.append((topic, message, token))
            return
        self._handle(topic, message, token)
        self._after()

    def _handle(self, topic: str, message: Message, token: int | None) -> None:
        now_s = self._clock.now_s
        with nullcontext() if self._books is None else self._books.hears(self.session, topic, message, now_s):
            self._take_in(topic, message, now_s)
        if token is not None:
            self._broker.acknowledge(self.name, token)

    def _take_in(self, topic: str, message: Message, now_s: float) -> None:
        camera = topic.rsplit("/", 1)[1]
        try:
            match message:
                case Open():
                    self._stalls.given(camera, message.frame, message.attempt)
                    self.session.receive_open(camera, message, now_s)
                case Chunk():
                    self.session.receive_chunk(camera, message, now_s)
                case KeyFrame():
                    self._receive_key_frame(camera, message)
                case Gone():
                    self.session.receive_gone(camera, message)
                case Text():
                    self.session.receive_text(message)
                case Question():
                    self.session.receive_question(message)
                case Ask():
                    _, _, _, camera, client = topic.split("/")
                    reply_to = ReplyTo(topics.reply_topic(client, camera, message.query_id))
                    self.session.receive_ask(camera, client, message, reply_to)
                case Handover():
                    self.session.receive_handover(message, now_s)
                case Status() if "/load/" in topic:
                    self.session.receive_load(message, now_s)
                case Status(kind="edge"):
                    self.session.receive_edge_status(message, now_s)
                case Status():
                    self.session.receive_status(message)
        except RemoteError as error:
            self.errors[type(error).__name__] += 1

    def _receive_key_frame(self, camera: str, message: KeyFrame) -> None:
        payload = damaged(message.payload) if self.damages_keys else message.payload
        self.session.receive_key_frame(camera, message.model_copy(update={"payload": payload}))
        self._keys[camera] = message

    # ---- effects ----------------------------------------------------------------------------------------------------

    def _after(self) -> None:
        self._say()
        if not self._looking:
            looks = self.session.take_looks(self._max_batch, self._clock.now_s, self._max_work)
            if looks:
                self._begin(looks)
            self._say()
        due_s = self.session.next_wake_s()
        if due_s is not None and (self._wake_at_s is None or due_s < self._wake_at_s):
            self._wake_at_s = due_s
            self._clock.at(due_s, partial(self._wake, self.boot))

    def _say(self) -> None:
        for effect in self.session.take_effects():
            if self._books is not None:
                self._books.said(effect, self._clock.now_s)
            self._publish(effect)

    def _begin(self, looks: list[Look]) -> None:
        self._looking = True
        if self._books is not None:
            self._books.looked(looks, self._clock.now_s, self._stalls.expected_s)
        work = sum(look.work for look in looks)
        self._stalls.begins(work, self._clock.now_s)
        took_s = self._batch_time_s(work)
        self.busy_s += took_s
        self._clock.after(took_s, partial(self._looked, self.boot, looks, took_s))

    def _batch_time_s(self, work: int) -> float:
        usual_s = self._batch_s + self._frame_s * work / self._costs.usual
        slow = self.slowness > 1.0
        share = _SLOW_SHARE if slow else self._hiccups
        if not share or self._draw.random() >= share:
            return usual_s
        took_s = max(usual_s, min(_LONGEST_BATCH_S, usual_s * (self.slowness if slow else _HICCUP)))
        self.slow_until_s = self._clock.now_s + took_s
        return took_s

    def _looked(self, boot: int, looks: list[Look], took_s: float) -> None:
        if boot != self.boot or not self.alive:
            return
        if self.frozen:
            self._clock.after(0.25, partial(self._looked, boot, looks, took_s))
            return
        self._clock.handled += 1
        self._looking = False
        self._stalls.ends(sum(look.work for look in looks), took_s)
        for look in looks:
            try:
                answers = self._model.answer(look)
            except BitstreamError as error:
                self.session.fail_look(look, RejectReason.BITSTREAM, str(error))
                continue
            except ValueError as error:
                self._on_problem(str(error))
                self.session.fail_look(look, RejectReason.BITSTREAM, str(error))
                continue
            self.session.finish_look(look, answers, self._clock.now_s)
        self.session.note_batch(took_s, sum(look.work for look in looks))
        self._after()

    def _wake(self, boot: int) -> None:
        if boot != self.boot or not self.alive:
            return
        self._wake_at_s = None
        if self.frozen:
            return
        self._clock.handled += 1
        self.session.tick(self._clock.now_s)
        self._after()

    def _publish(self, effect: WorkerEffect) -> None:
        if isinstance(effect.message, Accept):
            self._stalls.says(effect.topic.rsplit("/", 1)[1], effect.message, self._clock.now_s)
        self._publishing += 1
        self._clock.after(0.005, partial(self._arrive, self.boot, effect))

    def _arrive(self, boot: int, effect: WorkerEffect) -> None:
        if boot == self.boot:
            self._publishing -= 1
        if self._broker.is_up(self.name):
            self._broker.publish(self.name, effect.topic, effect.message, qos=effect.qos)
        elif effect.qos and boot == self.boot and self.alive and isinstance(effect, SendAnswer | SendHandover):
            # No PUBACK came: a terminal is said again after the reconnect.
            self._outbox.append(effect)
