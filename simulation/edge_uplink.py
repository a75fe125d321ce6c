"""The way out of a simulated edge process: the real order and bucket of a site, in front of a thin link."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from pipeline.protocol.bucket import UplinkBucket
from pipeline.protocol.departures import Departure, DepartureOrder, Lane
from pipeline.protocol.effects import SendKeyFrame, SendOpen, SendToWorker
from pipeline.protocol.expected_gain import chunk_message_bytes, open_message_bytes
from schemas import topics
from schemas.errors import BusError, ConnectionLostError
from schemas.messages import Chunk, KeyFrame, Message, Open, QueryOutcome, Question, Text
from schemas.types import FrameId
from schemas.wire_cost import puback_wire_bytes, publish_wire_bytes
from simulation.broker import NO_SUBSCRIBERS, BrokerModel
from simulation.clock import VirtualClock

LARGEST_WIRE_BYTES = 800
"""An open message with the whole latent and many queries, or a long question."""
_SMALL_MESSAGE_BYTES = 40
"""*Gone*, and a question without its text."""
_OUTCOME_BYTES = 160
_KEY_FRAME_FIELDS_BYTES = 20
_TO_BROKER_S = 0.01
_RETRANSMIT_S = 0.2
"""A connection that nobody has given up goes on when the network is back, as TCP tries again."""
_TICK_S = 1e-9
"""A shorter wait does not move the clock on."""


class SimulatedUplink:
    """Queue, bucket and link of one edge process; what is on its way when the process dies arrives all the same.

    Args:
        clock: virtual clock.
        broker: model of the broker.
        site: name of the process.
        rate_kbps: rate of the uplink.
        order: what decides which message leaves next.
        may_send: whether the process runs and takes its connection for one that works.
        on_answered: called with the broker's word on an open message: whether nobody subscribed.
        on_lost: called when the connection broke before it.
        on_key_lost: called with a key frame that found no way out.
        on_told: called when the broker has an outcome.
        on_sent: called with each message that leaves and its bytes on the wire.
    """

    def __init__(
        self,
        clock: VirtualClock,
        broker: BrokerModel,
        *,
        site: str,
        rate_kbps: float,
        order: DepartureOrder,
        may_send: Callable[[], bool],
        on_answered: Callable[[SendOpen, bool], None],
        on_lost: Callable[[SendOpen], None],
        on_key_lost: Callable[[SendKeyFrame], None],
        on_told: Callable[[QueryOutcome], None],
        on_sent: Callable[[Departure, Message, int], None],
    ) -> None:
        self._clock = clock
        self._broker = broker
        self._site = site
        self._bytes_per_s = rate_kbps * 1000 / 8
        self._bucket = UplinkBucket(rate_kbps)
        self._queue = order
        self._may_send = may_send
        self._on_answered = on_answered
        self._on_lost = on_lost
        self._on_key_lost = on_key_lost
        self._on_told = on_told
        self._on_sent = on_sent
        self._untold: dict[str, QueryOutcome] = {}
        self._unanswered: list[Departure] = []
        self._timer_runs = False
        self._closed = False

    # ---- reading ----------------------------------------------------------------------------------------------------

    def backlog(self) -> int:
        """Messages that wait."""
        return len(self._queue)

    def backlog_s(self) -> float:
        """How long the uplink is busy with what has left, what waits and one message more, at most."""
        waiting_s = (1 + len(self._queue)) * LARGEST_WIRE_BYTES / self._bytes_per_s
        return waiting_s + self._bucket.backlog_s(self._clock.now_s)

    def untold(self) -> list[QueryOutcome]:
        """Outcomes that the broker does not have yet."""
        return list(self._untold.values())

    @property
    def counters(self) -> Counter[str]:
        """What the order withdrew or merged, by reason."""
        return self._queue.counters

    # ---- what the process does --------------------------------------------------------------------------------------

    def open(self, effect: SendOpen) -> None:
        """Queue an open message."""
        self._put(
            Departure(
                Lane.OPEN,
                effect.camera,
                "open",
                effect.topic,
                effect.message,
                qos=effect.qos,
                frame=effect.frame,
                bid=effect.bid,
                same_as=(effect.topic, effect.frame),
                done=partial(self._answered, effect),
            )
        )

    def key_frame(self, effect: SendKeyFrame) -> None:
        """Queue a key frame."""
        self._put(
            Departure(
                Lane.FRAME_UNDER_WAY,
                effect.camera,
                "key_frame",
                effect.topic,
                lambda _now_s: effect.message(),
                qos=effect.qos,
                retain=True,
                frame=effect.frame,
                open_follows=True,
                same_as=(effect.topic, effect.frame),
                done=partial(self._key_left, effect),
            )
        )

    def to_worker(self, effect: SendToWorker) -> None:
        """Queue a chunk, *gone* or a question's text."""
        self._put(
            Departure(
                Lane.FRAME_UNDER_WAY,
                effect.camera,
                type(effect.message).__name__.lower(),
                effect.topic,
                lambda _now_s: effect.message,
                qos=effect.qos,
                frame=getattr(effect.message, "frame", None),
                bid=effect.bid,
                same_as=(effect.topic, effect.message),
            )
        )

    def report(self, outcome: QueryOutcome) -> None:
        """Queue an outcome; it is said again until the broker has it."""
        self._untold[outcome.query_id] = outcome
        self._put(
            Departure(
                Lane.REPORT,
                outcome.camera,
                "outcome",
                topics.outcome_topic(outcome.camera),
                lambda _now_s: outcome,
                qos=1,
                frame=outcome.frame,
                until_sent=True,
                done=partial(self._reported, outcome),
            )
        )

    def question(self, question: Question) -> None:
        """Queue a standing question for the broker to keep; a worker that lacks it asks for its text."""
        topic = topics.question_topic(question.site, question.question_id)
        self._put(Departure(Lane.REPORT, None, "question", topic, lambda _now_s: question, qos=1, retain=True))

    def acknowledged(self) -> None:
        """The process has acknowledged a message to the broker: a PUBACK leaves unasked."""
        self._bucket.charge(puback_wire_bytes(), self._clock.now_s)

    def pump(self) -> None:
        """Send what may leave now, and come back when more may."""
        while len(self._queue) and not self._closed and self._may_send():
            reachable = self._broker.is_up(self._site)
            wait_s = self._bucket.wait_s(self._clock.now_s) if reachable else _RETRANSMIT_S
            if wait_s > _TICK_S:
                if not self._timer_runs:
                    self._timer_runs = True
                    self._clock.after(wait_s, self._timer)
                return
            departure = self._queue.pop(self._clock.now_s)
            if departure is not None:
                self._send(departure)

    def connection_lost(self) -> None:
        """The process notices it: what the broker has not answered fails."""
        unanswered, self._unanswered = self._unanswered, []
        for departure in unanswered:
            if departure.done is not None:
                departure.done(ConnectionLostError("no PUBACK came"))

    def close(self) -> None:
        """The process is gone."""
        self._closed = True

    # ---- the link ---------------------------------------------------------------------------------------------------

    def _put(self, departure: Departure) -> None:
        if not self._queue.put(departure, self._clock.now_s):
            self.counters[f"dropped_{departure.label}"] += 1
            if departure.done is not None:
                departure.done(BusError("the queue of the uplink is full"))

    def _timer(self) -> None:
        self._timer_runs = False
        self.pump()

    def _send(self, departure: Departure) -> None:
        now_s = self._clock.now_s
        message = departure.stamp(now_s)
        if message is None:
            self.counters[f"withdrawn_{departure.label}_decided"] += 1
            return
        wire_bytes = publish_wire_bytes(departure.topic, _message_bytes(message), departure.qos)
        self._bucket.charge(wire_bytes, now_s)
        arrives_s = now_s + self._bucket.backlog_s(now_s) + _TO_BROKER_S
        self._clock.at(arrives_s, partial(self._arrive, departure, message))
        self._on_sent(departure, message, wire_bytes)

    def _arrive(self, departure: Departure, message: Message) -> None:
        if self._broker.is_up(self._site):
            reason = self._broker.publish(
                self._site, departure.topic, message, qos=departure.qos, retain=departure.retain
            )
            if departure.done is not None:
                departure.done(reason == NO_SUBSCRIBERS)
        elif departure.until_sent and not self._closed:
            # No PUBACK came: it is said again when the broker can be reached.
            self._put(departure)
            self.pump()
        elif departure.qos:
            self._unanswered.append(departure)
            if not self._may_send():
                self.connection_lost()

    def _answered(self, effect: SendOpen, result: bool | Exception) -> None:
        if self._closed:
            return
        if isinstance(result, Exception):
            self._on_lost(effect)
        else:
            self._on_answered(effect, result)

    def _key_left(self, effect: SendKeyFrame, result: bool | Exception) -> None:
        if not self._closed and isinstance(result, Exception):
            self._on_key_lost(effect)

    def _reported(self, outcome: QueryOutcome, result: bool | Exception) -> None:
        """The broker has it, or not; a process that has died meanwhile knows of nothing, on its disk neither."""
        if self._closed or isinstance(result, Exception):
            return
        self._untold.pop(outcome.query_id, None)
        self._on_told(outcome)


def _message_bytes(message: Message) -> int:
    """Size of a message, within a few bytes; to encode each would take the simulator more time than all the rest."""
    match message:
        case Open():
            return open_message_bytes(message.queries, len(message.payload))
        case Chunk():
            return chunk_message_bytes(message.camera, len(message.payload))
        case KeyFrame():
            return _KEY_FRAME_FIELDS_BYTES + len(message.payload)
        case QueryOutcome():
            return _OUTCOME_BYTES
        case Question() | Text():
            return _OUTCOME_BYTES + len(message.text)
        case _:
            return _SMALL_MESSAGE_BYTES


class LatentBooks:
    """Which latents a site has sent, over all of its processes.

    Args:
        on_problem: called when latents of one attempt go to two workers.
    """

    def __init__(self, on_problem: Callable[[str, str], None]) -> None:
        self._sent: set[tuple[str, FrameId, int]] = set()
        self._owners: dict[tuple[str, FrameId, int], str] = {}
        self._on_problem = on_problem

    def sent(self, topic: str, message: Message) -> int:
        """A message leaves; how many of its latents were sent before."""
        names = topic.split("/")
        match message:
            case Open():
                latents = [(names[4], message.frame, latent) for latent in range(message.stop)]
            case Chunk():
                latents = [(names[4], message.frame, latent) for latent in range(message.start, message.stop)]
                attempt = (message.camera, message.frame, message.attempt)
                owner = self._owners.setdefault(attempt, names[3])
                if owner != names[3]:
                    self._on_problem("one attempt, two owners", f"{attempt} to {owner} and by {topic}")
            case _:
                return 0
        again = sum(latent in self._sent for latent in latents)
        self._sent.update(latents)
        return again
