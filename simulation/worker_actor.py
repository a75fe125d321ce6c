"""A simulated worker process: the real worker session at a model of the broker, with a model that takes its time."""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial

from pipeline.protocol.effects import Look
from pipeline.protocol.ports import (
    Acknowledge,
    Contained,
    Delivery,
    LookFailure,
    LookResult,
    Problem,
    Publish,
    Received,
    RunBatch,
    Unsubscribe,
)
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_pace import WorkerPace
from pipeline.protocol.worker_schedule import Schedule
from pipeline.protocol.worker_session import WorkerOutput, WorkerSession
from pipeline.protocol.worker_status import WorkerIdentity
from pipeline.protocol.worker_work import WorkCosts
from schemas import topics, wire
from schemas.errors import BitstreamError
from schemas.messages import Accept, Ask, KeyFrame, Message, Open, Question, RejectReason
from simulation.broker import BrokerModel, Deleted
from simulation.clock import VirtualClock
from simulation.content import FINGERPRINT, RULE, LookModel, damaged
from simulation.publishes import Publishes
from simulation.stalls import StallWatch
from simulation.worker_books import WorkerBooks

_parse = lru_cache(4096)(topics.parse)
_SLOW_SHARE = 0.5
"""Batches that a slow worker takes long for: a machine that others use as well is slow now and then, not evenly."""
_HICCUP = 50.0
_LONGEST_BATCH_S = 30.0
_GOODBYE_S = 0.1
"""Time for the last words of a process that is stopped before it is done."""


@dataclass(frozen=True, slots=True)
class _Delivered:
    """A message that reached the socket of a process."""

    topic: str
    message: Message
    token: int | None
    retained: bool


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
        self._schedule = schedule
        self._hiccups = hiccups
        self._on_stall = on_stall
        self._costs = costs or WorkCosts.by_frames()
        self._max_work = max_work
        self._new_books = books
        self._books: WorkerBooks | None = None
        self._stalls: StallWatch
        self._linked = False
        self._keys: dict[str, KeyFrame] = {}
        self._wake_at_s: float | None = None
        self._socket: deque[_Delivered] = deque()
        self._publishes = self._new_publishes()
        self._answers: list[tuple[int, Delivery]] = []

    # ---- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The process starts and joins the pool."""
        self.alive, self.frozen, self.draining = True, False, False
        self.boot += 1
        self._stalls = StallWatch(self.settings.max_lease_s, self._costs.usual, self._on_stall)
        self._wake_at_s = None
        self._keys.clear()
        self._socket.clear()
        self._publishes = self._new_publishes()
        self._answers.clear()
        self.session = WorkerSession(
            self.settings,
            identity=WorkerIdentity(self.name, self._pool, self.boot, self._fingerprint),
            stop_rule=self._stop_rule,
            schedule=self._schedule,
            costs=self._costs,
            max_batch_frames=self._max_batch,
            max_batch_work=self._max_work,
        )
        self._books = None if self._new_books is None else self._new_books()
        for question in self._questions:
            self.tell(topics.question_topic(question.site, question.question_id), question)
        self._join()
        self._after()

    def tell(self, topic: str, message: Message, *, response_topic: str | None = None) -> None:
        """Let the session receive a message, whatever the broker knows of it."""
        decoded = (_parse(topic), None if isinstance(message, Deleted) else message)
        received = Received(topic, response_topic=response_topic, decoded=decoded)
        self.session.receive(received, self._clock.now_s)

    def crash(self, *, noticed_s: float = 0.0) -> None:
        """SIGKILL: everything in memory is gone; the broker notices at once, or later after a loss of power."""
        self.alive = self._linked = False
        self._publishes.end()
        self._broker.close(self.name, noticed_s=noticed_s)

    def drain(self) -> None:
        """SIGTERM: leave the share group, hand over or finish what is here."""
        self.draining = True
        self.session.drain(self._clock.now_s)
        self._after()

    def drained(self) -> bool:
        """Whether a drain has come to its end: nothing is held and everything is said."""
        return self.session.finished()

    def stop(self) -> None:
        """The end of a drain: the connection is closed, after a goodbye."""
        if self.session.finished():
            self._end(self.boot)
        else:
            self.session.abandon("no time left to drain", self._clock.now_s)
            self._after()
            self._clock.after(_GOODBYE_S, partial(self._end, self.boot))

    def _end(self, boot: int) -> None:
        if boot == self.boot and self.alive:
            if self.linked():
                self._broker.disconnect(self.name)
            self._publishes.end()
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
        self._after()
        answers, self._answers = self._answers, []
        for token, delivery in answers:
            self.session.published(token, delivery, self._clock.now_s)
        while self._socket:
            self._handle(self._socket.popleft())
            self._after()  # what comes next may find the model at work on what came first
        if not self._broker.is_up(self.name):
            self.connection(False)
        self._after()

    def damage_keys(self) -> None:
        """What it keeps of key frames is damaged, and what comes from now on as well."""
        self.damages_keys = True
        for camera, message in list(self._keys.items()):
            self.tell(topics.key_topic(self._pool, camera), self._as_kept(message))
        self._after()

    def connection(self, connected: bool) -> None:
        """The process notices that its connection came or went; it reconnects by itself."""
        if self.alive and not self.frozen and not connected:
            self._linked = False
            self.session.connection(False, self._clock.now_s)
            if self._books is not None:
                self._books.disconnected()
            self._publishes.connection_lost()
            self._after()
            self._clock.after(0.5 + self._draw.random(), self._reconnect)

    def _reconnect(self) -> None:
        if self.alive and not self.frozen and not self._linked and self._join():
            self._after()

    def _join(self) -> bool:
        self._linked = self._broker.reachable(self.name)
        if not self._linked:
            self._clock.after(0.5, self._reconnect)
            return False
        will = self.session.will()
        message = wire.decode(topics.Family.STATUS, will.payload)
        self._broker.connect_worker(self.name, self, self.session.subscriptions(), (will.topic, message))
        self.session.connection(True, self._clock.now_s)
        return True

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def receive(self, topic: str, message: Message, token: int | None, retained: bool = False) -> None:
        """A message reaches the socket, if the process has not closed it."""
        if not self.alive or not self._linked:
            return
        delivered = _Delivered(topic, message, token, retained)
        if self.frozen:
            self._socket.append(delivered)
            return
        self._handle(delivered)
        self._after()

    def _handle(self, delivered: _Delivered) -> None:
        topic, message, now_s = delivered.topic, delivered.message, self._clock.now_s
        response_topic = None
        parsed = _parse(topic)
        if isinstance(message, KeyFrame):
            self._keys[parsed.name("camera")] = message
            message = self._as_kept(message)
        elif isinstance(message, Open):
            self._stalls.given(parsed.name("camera"), message.frame, message.attempt)
        elif isinstance(message, Ask):
            camera, client = parsed.names
            response_topic = topics.reply_topic(client, camera, message.query_id)
        received = Received(
            topic,
            retained=delivered.retained,
            response_topic=response_topic,
            token=delivered.token,
            decoded=(parsed, None if isinstance(message, Deleted) else message),
        )
        with nullcontext() if self._books is None else self._books.hears(self.session, topic, message, now_s):
            self.session.receive(received, now_s)

    def _as_kept(self, message: KeyFrame) -> KeyFrame:
        return message.model_copy(update={"payload": damaged(message.payload)}) if self.damages_keys else message

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def _after(self) -> None:
        for output in self.session.poll(self._clock.now_s):
            self._carry_out(output)
        due_s = self.session.next_wake_s()
        if due_s is not None and (self._wake_at_s is None or due_s < self._wake_at_s):
            self._wake_at_s = due_s
            self._clock.at(due_s, partial(self._wake, self.boot, due_s))

    def _carry_out(self, output: WorkerOutput) -> None:
        now_s = self._clock.now_s
        match output:
            case Publish():
                self._publish(output)
            case Acknowledge():
                for token in output.tokens:
                    self._broker.acknowledge(self.name, token)
            case RunBatch():
                self._begin(output)
            case Unsubscribe():
                self._broker.leave_group(self.name)
                self.session.unsubscribed(output.filter, now_s)
                self._after()
            case Problem():
                self.errors[type(output.error).__name__ if output.error else output.kind] += 1
            case Contained():
                raise output.error

    def _begin(self, batch: RunBatch) -> None:
        now_s = self._clock.now_s
        if self._books is not None:
            self._books.looked(batch.looks, now_s, self._stalls.expected_s)
        work = sum(look.work for look in batch.looks)
        self._stalls.begins(work, now_s)
        took_s = self._batch_time_s(work)
        self.busy_s += took_s
        self._clock.after(took_s, partial(self._looked, self.boot, batch, now_s))

    def _batch_time_s(self, work: int) -> float:
        usual_s = self._batch_s + self._frame_s * work / self._costs.usual
        slow = self.slowness > 1.0
        share = _SLOW_SHARE if slow else self._hiccups
        if not share or self._draw.random() >= share:
            return usual_s
        took_s = max(usual_s, min(_LONGEST_BATCH_S, usual_s * (self.slowness if slow else _HICCUP)))
        self.slow_until_s = self._clock.now_s + took_s
        return took_s

    def _looked(self, boot: int, batch: RunBatch, began_s: float) -> None:
        if boot != self.boot or not self.alive:
            return
        if self.frozen:
            self._clock.after(0.25, partial(self._looked, boot, batch, began_s))
            return
        self._clock.handled += 1
        now_s = self._clock.now_s
        self._stalls.ends(sum(look.work for look in batch.looks), now_s - began_s)
        self.session.batch_done(batch.token, [self._result(look) for look in batch.looks], now_s)
        self._after()

    def _result(self, look: Look) -> LookResult:
        try:
            return self._model.answer(look)
        except BitstreamError as error:
            return LookFailure(RejectReason.BITSTREAM, str(error))
        except ValueError as error:
            self._on_problem(str(error))
            return LookFailure(RejectReason.BITSTREAM, str(error))

    def _wake(self, boot: int, at_s: float) -> None:
        if boot != self.boot or not self.alive or at_s != self._wake_at_s:
            return
        self._wake_at_s = None
        if self.frozen:
            return
        due_s = self.session.next_wake_s()
        self._clock.handled += due_s is not None and due_s <= self._clock.now_s
        self._after()

    def _publish(self, publish: Publish) -> None:
        now_s = self._clock.now_s
        if self._books is not None and not self._publishes.is_repeat(publish):
            self._books.said(publish, now_s)
        if isinstance(publish.message, Accept):
            self._stalls.says(publish.topic.rsplit("/", 1)[1], publish.message, now_s)
        self._publishes.put(publish)

    def _new_publishes(self) -> Publishes:
        return Publishes(self._clock, self._broker, self.name, self._answered)

    def _answered(self, token: int, delivery: Delivery) -> None:
        if self.frozen:
            self._answers.append((token, delivery))
            return
        self.session.published(token, delivery, self._clock.now_s)
        if delivery.arrived:
            self._after()
