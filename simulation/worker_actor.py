"""A simulated worker process: the real worker session at a model of the broker, with a model that takes its time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

from pipeline.protocol.effects import InferencePass
from pipeline.protocol.ports import (
    Acknowledge,
    Contained,
    PassFailure,
    PassResult,
    Problem,
    Publish,
    Received,
    RunBatch,
    Unsubscribe,
)
from pipeline.protocol.worker_session import WorkerOutput, WorkerSession
from pipeline.protocol.worker_status import WorkerIdentity
from schemas import topics
from schemas.errors import BitstreamError
from schemas.messages import Accept, KeyFrame, Message, Open, RejectReason
from simulation.broker import BrokerModel, Deleted
from simulation.clock import VirtualClock
from simulation.content import PassModel, damaged
from simulation.process import RECONNECT_S, SimulatedProcess, parse_topic
from simulation.specs import WorkerCallbacks, WorkerSpec
from simulation.stalls import StallWatch
from simulation.worker_ledger import WorkerLedger

_TO_BROKER_S = 0.005
_SLOW_SHARE = 0.5
"""Batches that a slow worker takes long for: a machine that others use as well is slow now and then, not evenly."""
_HICCUP = 50.0
_LONGEST_BATCH_S = 30.0
_GOODBYE_S = 0.1
"""Time for the last words of a process that is stopped before it is done."""


class WorkerActor(SimulatedProcess[WorkerOutput]):
    """One worker process at a time under a name; a restart makes a new session with a new boot id.

    Args:
        clock: virtual clock.
        broker: model of the broker.
        draw: random numbers of this worker's speed.
        spec: what it is.
        model: what answers passes.
        callbacks: who is told what it does wrong.
        ledger: makes the ledger of a process, where it is judged.

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
        spec: WorkerSpec,
        model: PassModel,
        callbacks: WorkerCallbacks,
        ledger: Callable[[], WorkerLedger] | None = None,
    ) -> None:
        super().__init__(clock, broker, spec.name)
        self.slowness = 1.0
        self.slow_until_s = 0.0
        self.damages_keys = False
        self.errors: Counter[str] = Counter()
        self.settings = spec.settings
        self.busy_s = 0.0
        self.session: WorkerSession
        self._draw = draw
        self._spec = spec
        self._model = model
        self._callbacks = callbacks
        self._new_ledger = ledger
        self._ledger: WorkerLedger | None = None
        self._stalls: StallWatch
        self._keys: dict[str, KeyFrame] = {}

    @property
    def boot(self) -> int:
        """Of the running process."""
        return self.starts

    # ---- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The process starts and joins the pool."""
        self._started()
        spec = self._spec
        self._stalls = StallWatch(spec.settings.max_lease_s, spec.costs.usual, self._callbacks.on_stall)
        self._keys.clear()
        self.session = WorkerSession(
            spec.settings,
            identity=WorkerIdentity(spec.name, spec.pool, self.boot, spec.fingerprint),
            stop_rule=spec.stop_rule,
            schedule=spec.schedule,
            costs=spec.costs,
            max_batch_frames=spec.max_batch_frames,
            max_batch_work=spec.max_batch_work,
        )
        self._ledger = None if self._new_ledger is None else self._new_ledger()
        for question in spec.questions:
            self.tell(topics.question_topic(question.site, question.question_id), question)
        self._connect()
        self._after()

    def tell(self, topic: str, message: Message, *, response_topic: str | None = None) -> None:
        """Let the session receive a message, whatever the broker knows of it."""
        decoded = (parse_topic(topic), None if isinstance(message, Deleted) else message)
        received = Received(topic, response_topic=response_topic, decoded=decoded)
        self.session.receive(received, self._clock.now_s)

    def crash(self, *, noticed_s: float = 0.0) -> None:
        """SIGKILL: everything in memory is gone; the broker notices at once, or later after a loss of power."""
        self._ended()
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
            self._ended()

    def check_ledger(self) -> None:
        """Judge what the process should have said by now."""
        if self._ledger is not None and self.alive and not self.frozen:
            self._ledger.check_time(self._clock.now_s)

    def damage_keys(self) -> None:
        """What it keeps of key frames is damaged, and what comes from now on as well."""
        self.damages_keys = True
        for camera, message in list(self._keys.items()):
            self.tell(topics.key_topic(self._spec.pool, camera), self._as_kept(message))
        self._after()

    def _disconnected(self) -> None:
        if self._ledger is not None:
            self._ledger.disconnected()

    def _reconnect_s(self) -> float:
        return RECONNECT_S + self._draw.random()

    def _join(self, will: tuple[str, Message]) -> None:
        self._broker.connect_worker(self.name, self, self.session.subscriptions(), will)

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def _as_read(self, topic: topics.Topic, message: Message) -> Message:
        if isinstance(message, KeyFrame):
            self._keys[topic.name("camera")] = message
            return self._as_kept(message)
        return message

    def _hear(self, received: Received, topic: topics.Topic, message: Message) -> None:
        now_s = self._clock.now_s
        if isinstance(message, Open):
            self._stalls.given(topic.name("camera"), message.frame, message.attempt)
        ledger = self._ledger
        with nullcontext() if ledger is None else ledger.hears(self.session, received.topic, message, now_s):
            self.session.receive(received, now_s)

    def _as_kept(self, message: KeyFrame) -> KeyFrame:
        return message.model_copy(update={"payload": damaged(message.payload)}) if self.damages_keys else message

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def _carry_out(self, output: WorkerOutput) -> None:
        match output:
            case Publish():
                self._publish(output)
            case Acknowledge():
                self._acknowledge(output.tokens)
            case RunBatch():
                self._begin(output)
            case Unsubscribe():
                self._broker.leave_group(self.name)
                self.session.unsubscribed(output.filter, self._clock.now_s)
                self._after()
            case Problem():
                self.errors[type(output.error).__name__ if output.error else output.kind] += 1
            case Contained():
                raise output.error

    def _begin(self, batch: RunBatch) -> None:
        now_s = self._clock.now_s
        if self._ledger is not None:
            self._ledger.passes_taken(batch.passes, now_s, self._stalls.expected_s)
        work = sum(inference_pass.work for inference_pass in batch.passes)
        self._stalls.begins(work, now_s)
        took_s = self._batch_time_s(work)
        self.busy_s += took_s
        self._clock.after(took_s, partial(self._batch_done, self.boot, batch, now_s))

    def _batch_time_s(self, work: int) -> float:
        usual_s = self._spec.batch_s + self._spec.frame_s * work / self._spec.costs.usual
        slow = self.slowness > 1.0
        share = _SLOW_SHARE if slow else self._spec.hiccups
        if not share or self._draw.random() >= share:
            return usual_s
        took_s = max(usual_s, min(_LONGEST_BATCH_S, usual_s * (self.slowness if slow else _HICCUP)))
        self.slow_until_s = self._clock.now_s + took_s
        return took_s

    def _batch_done(self, boot: int, batch: RunBatch, began_s: float) -> None:
        if boot != self.boot or not self.alive:
            return
        if self.frozen:
            self._clock.after(0.25, partial(self._batch_done, boot, batch, began_s))
            return
        self._clock.handled += 1
        now_s = self._clock.now_s
        self._stalls.ends(sum(inference_pass.work for inference_pass in batch.passes), now_s - began_s)
        self.session.batch_done(batch.token, [self._result(inference_pass) for inference_pass in batch.passes], now_s)
        self._after()

    def _result(self, inference_pass: InferencePass) -> PassResult:
        try:
            return self._model.answer(inference_pass)
        except BitstreamError as error:
            return PassFailure(RejectReason.BITSTREAM, str(error))
        except ValueError as error:
            self._callbacks.on_problem(str(error))
            return PassFailure(RejectReason.BITSTREAM, str(error))

    def _publish(self, publish: Publish) -> None:
        now_s = self._clock.now_s
        if self._ledger is not None and not self._wire.is_repeat(publish):
            self._ledger.said(publish, now_s)
        if isinstance(publish.message, Accept):
            self._stalls.says(publish.topic.rsplit("/", 1)[1], publish.message, now_s)
        self._wire.put(publish, _TO_BROKER_S)
