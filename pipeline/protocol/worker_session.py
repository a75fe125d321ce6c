"""The worker's side of the protocol, without clock, socket or model.

Plain data goes in and comes out, see :mod:`pipeline.protocol.ports` and docs/shell-contract.md. Who does what:
:mod:`~pipeline.protocol.worker_routing` reads what is received, :mod:`~pipeline.protocol.worker_frames` decides about
frames, :mod:`~pipeline.protocol.worker_batches` keeps the model busy, :mod:`~pipeline.protocol.worker_status` says
when the worker speaks of itself, :mod:`~pipeline.protocol.worker_outgoing` is the queue of what leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import inf

from pipeline.protocol.ports import (
    Acknowledge,
    Contained,
    Delivery,
    Notice,
    PassResult,
    Problem,
    Publish,
    Received,
    RunBatch,
    Subscription,
    Unsubscribe,
    Will,
)
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_batches import Batches
from pipeline.protocol.worker_frame import WorkerFrame
from pipeline.protocol.worker_frames import WorkerFrames
from pipeline.protocol.worker_outgoing import WorkerOutgoing
from pipeline.protocol.worker_overload import OverloadNotices
from pipeline.protocol.worker_progress import AnswerMeasure
from pipeline.protocol.worker_routing import route, subscriptions
from pipeline.protocol.worker_schedule import Schedule
from pipeline.protocol.worker_status import StatusSchedule, WorkerIdentity
from pipeline.protocol.worker_throughput import ThroughputEstimate
from pipeline.protocol.worker_work import WorkCosts
from schemas import topics
from schemas.errors import RemoteError
from schemas.messages import Condition
from schemas.messages.status import MAX_CONDITIONS

WorkerOutput = Publish | Acknowledge | RunBatch | Unsubscribe | Problem | Contained | Notice


class WorkerSession:
    """One worker process, as far as the protocol is concerned.

    Args:
        settings: times and bounds.
        identity: who it is.
        stop_rule: when an answer is safe; its ladder ends at the whole latent.
        schedule: makes the rule of what goes first from the settings and the throughput.
        costs: work of a pass; by default that of one frame.
        max_batches: batches that the model takes at a time.
        max_batch_frames: frames in one of them.
        max_batch_work: work of one of them.
        gather_s: longest wait of a frame that finds the model idle for others to share its batch.

    Attributes:
        identity: who it is.
        counters: what happened, by reason; the process exports them.
        publishes: what became of its messages; the process exports them.
    """

    def __init__(
        self,
        settings: WorkerProtocolSettings,
        *,
        identity: WorkerIdentity,
        stop_rule: StopRule,
        schedule: Callable[[WorkerProtocolSettings, ThroughputEstimate], Schedule] = Schedule,
        costs: WorkCosts | None = None,
        max_batches: int = 1,
        max_batch_frames: int = 16,
        max_batch_work: float = inf,
        gather_s: float = 0.0,
    ) -> None:
        self.identity = identity
        self._frames = WorkerFrames(
            settings,
            worker=identity.name,
            pool=identity.pool,
            fingerprint=identity.fingerprint,
            stop_rule=stop_rule,
            schedule=schedule,
            costs=costs,
            max_batches=max_batches,
            contain=self._note_contained,
        )
        self.counters = self._frames.counters
        self._batches = Batches(
            self._frames,
            max_batches=max_batches,
            max_frames=max_batch_frames,
            max_work=max_batch_work,
            gather_s=gather_s,
        )
        self._outgoing = WorkerOutgoing()
        self.publishes: Counter[str] = self._outgoing.counters
        self._status = StatusSchedule(settings, identity.drawn)
        self._overload = OverloadNotices(self.counters, self._frames.outcomes())
        self._conditions: tuple[Condition, ...] = ()
        self._connected = False
        self._handled: list[int] = []
        self._outputs: list[WorkerOutput] = []
        self._draining = self._left = self._ending = self._gone = False
        self._offline_status: set[int] = set()

    # ---- what the process reads -------------------------------------------------------------------------------------

    def subscriptions(self) -> tuple[Subscription, ...]:
        """Everything it listens to; the share group is left in a drain."""
        return subscriptions(self.identity.name, self.identity.pool, draining=self._draining)

    def will(self) -> Will:
        """What the broker says when the worker vanishes."""
        return self.identity.will()

    def unfinished(self) -> int:
        """Frames that are not decided."""
        return self._frames.unfinished()

    def frames(self) -> list[WorkerFrame]:
        """Frames that are not decided, for reading only."""
        return self._frames.frames()

    def batches(self) -> int:
        """Batches at the model."""
        return len(self._batches)

    def throughput(self) -> float:
        """Measured work of the model a second, while it has any."""
        return self._frames.throughput.work_per_s

    def waiting(self) -> int:
        """Messages that wait for the broker, or for its word."""
        return len(self._outgoing)

    def outcomes(self) -> Counter[tuple[str, str]]:
        """Terminal answers by outcome and by who asks: ``standing`` or ``ad_hoc``."""
        return self._frames.outcomes()

    def take_measures(self) -> list[AnswerMeasure]:
        """How answers went, since the last call."""
        return self._frames.take_measures()

    def sizes(self) -> dict[str, int]:
        """Entries or bytes of every table that it keeps; those of unfinished frames are empty when no frame is."""
        messages, message_bytes = self._outgoing.sizes()
        return {**self._frames.sizes(), "outgoing_messages": messages, "outgoing_bytes": message_bytes}

    def drained(self) -> bool:
        """Whether a drain has come to its end: nothing is held, and everything is said but the offline status."""
        return self._left and not self._frames.unfinished() and not len(self._outgoing)

    def finished(self) -> bool:
        """Whether the offline status is said, or there is no connection to say it on: the process may end."""
        return self._gone and not self._offline_status

    def next_wake_s(self) -> float | None:
        """When :meth:`poll` is due at the latest; None while nothing can time out."""
        due = [self._frames.next_wake_s(), self._outgoing.next_s(), self._batches.due_s()]
        if self._connected and not self._gone:
            due.append(self._status.due_s(self._frames.load()))
        return min((due_s for due_s in due if due_s is not None), default=None)

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def receive(self, received: Received, now_s: float) -> None:
        """A publish came. What is wrong with it is a problem in the next outputs, never an error here."""
        if received.token is not None:
            # Admitted, turned away or bad: what must be remembered is remembered here, the broker need not.
            self._handled.append(received.token)
        try:
            route(self._frames, received, now_s)
        except RemoteError as error:
            topic = received.topic[: topics.MAX_TOPIC_BYTES]
            kind = topics.label_of(received.topic)
            problem = Problem(kind, str(error), about=error.about, error=error, context={"topic": topic})
            self._outputs.append(problem)
        except Exception as error:  # noqa: BLE001 - a bug of ours that this message has met ends here
            self._note_contained(f"receive/{topics.label_of(received.topic)}", error)

    def connection(self, connected: bool, now_s: float) -> None:
        """The connection came up with every subscription granted, or went down.

        What was said meanwhile may have fallen into the hole, so it is said again. An edge that has given the frame to
        another worker answers *revoke*, and nothing contradictory is said later.
        """
        self._connected = connected
        self._outgoing.connection(connected, now_s)
        if connected:
            self._status.birth_due = True
            self._frames.connection_made(now_s)
        else:
            self._offline_status.clear()

    def health(self, conditions: Sequence[Condition]) -> None:
        """What is wrong with this process: its reports of load say so. The retained status, which edges read, does not.

        Args:
            conditions: the worst first; those beyond what a report holds are left out.
        """
        self._conditions = tuple(conditions[:MAX_CONDITIONS])

    def published(self, token: int, delivery: Delivery, now_s: float) -> None:
        """What became of a publish.

        Raises:
            StateError: it was answered already, or never given.
        """
        self._offline_status.discard(token)
        self._outgoing.published(token, delivery, now_s)

    def batch_done(self, token: int, results: Sequence[PassResult], now_s: float) -> None:
        """What became of a batch.

        Args:
            token: of the batch.
            results: one a pass, in order; a pass without one has failed.
            now_s: the worker's monotonic time.

        Raises:
            StateError: it was answered already, or never given.
        """
        self._batches.done(token, results, now_s)

    def unsubscribed(self, topic_filter: str, now_s: float) -> None:  # noqa: ARG002 - inputs have the time
        """A filter is left, and everything that came before was received."""
        self._left |= topic_filter == topics.share_filter(self.identity.pool)

    def drain(self, now_s: float) -> None:
        """Leave the share group, admit nothing more; hand over what no edge has heard of from here, finish the rest."""
        if not self._draining:
            self._draining = self._status.birth_due = True
            self._frames.drain(now_s)
            self._outputs.append(Unsubscribe(topics.share_filter(self.identity.pool)))

    def abandon(self, reason: str, now_s: float) -> None:  # noqa: ARG002 - inputs have the time
        """The time to drain is over: say goodbye with what is left undone. Leases run out, edges open it elsewhere."""
        if not self._ending:
            self._ending = True
            left = {"frames": self._frames.unfinished(), "messages": len(self._outgoing), "reason": reason}
            self._outputs.append(Notice("warning", "stops before everything is done", left))

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def poll(self, now_s: float) -> list[WorkerOutput]:
        """What the shell has to do now, in order. Call it after every input, and when :meth:`next_wake_s` says."""
        if self._handled:
            tokens, self._handled = tuple(self._handled), []
            self._outputs.append(Acknowledge(tokens))
        due_s = self._frames.next_wake_s()
        if due_s is not None and due_s <= now_s:
            self._frames.tick(now_s)
        self._send(now_s)
        while (batch := self._batches.start(now_s)) is not None:
            self._send(now_s)  # what was said before the model begins
            self._outputs.append(batch)
        self._speak_of_itself(now_s)
        self._send(now_s)
        outputs, self._outputs = self._outputs, []
        return outputs

    def _send(self, now_s: float) -> None:
        for effect in self._frames.take_effects():
            self._outgoing.put(effect, now_s)
        self._outputs += self._outgoing.take(now_s)
        self._outputs += self._outgoing.take_problems()

    def _speak_of_itself(self, now_s: float) -> None:
        """Birth, load and offline status. Nothing that says "online" may follow the offline status."""
        if self._gone:
            return
        if self._ending or self.drained():
            self._gone = True
            if self._connected:
                self._offline_status = set(self._say_goodbye())
        elif self._connected and self._status.due_s(load := self._frames.load()) <= now_s:
            notice = self._overload.check(self._frames.unfinished(), now_s)
            if notice is not None:
                self._outputs.append(notice)
            status, identity = self.identity.status(load), self.identity
            if self._status.told(load, now_s):
                self._outgoing.put_status(identity.topic, status, qos=1, retain=True, expiry_s=identity.expiry_s)
            report = status.model_copy(update={"conditions": self._conditions})
            self._outgoing.put_status(identity.load_topic, report)

    def _say_goodbye(self) -> Iterator[int]:
        """Tell that this worker goes. Under a drawn name nobody comes back, so nothing of it stays on the broker."""
        identity = self.identity
        offline_status = identity.status(online=False)
        yield self._outgoing.put_status(identity.topic, offline_status, qos=1, retain=not identity.drawn)
        if identity.drawn:
            yield self._outgoing.put_status(identity.topic, offline_status, qos=1, retain=True, delete=True)

    def _note_contained(self, where: str, error: Exception) -> None:
        self._outputs.append(Contained(where, error))
