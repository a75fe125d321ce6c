"""What a site publishes, as departures of its uplink."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge_nodes.uplink import CHARGE_TLS, Uplink
from pipeline.protocol.departures import Departure, Lane
from pipeline.protocol.effects import ReplyTo, SendKeyFrame, SendOpen, SendToWorker
from schemas import topics, wire
from schemas.errors import ConnectionLostError
from schemas.messages import Answer, Message, QueryOutcome, Question, Receipt, Status
from schemas.wire_cost import publish_property_bytes, publish_wire_bytes


def outcome_wire_bytes(outcome: QueryOutcome) -> int:
    """What it costs the uplink to tell everyone how a query ended."""
    topic = topics.outcome_topic(outcome.camera)
    return publish_wire_bytes(topic, len(wire.encode(outcome)), 1, tls=CHARGE_TLS)


def reply_wire_bytes(message: Answer | QueryOutcome | Receipt, reply_to: ReplyTo) -> int:
    """What it costs the uplink to tell a client something on its reply topic."""
    property_bytes = publish_property_bytes(correlation_data=reply_to.correlation_data)
    size_bytes = len(wire.encode(message))
    return publish_wire_bytes(reply_to.topic, size_bytes, 1, tls=CHARGE_TLS, property_bytes=property_bytes)


class Outbox:
    """One method for each kind of message.

    Args:
        uplink: the way out.
    """

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink

    def open(
        self,
        effect: SendOpen,
        *,
        left: Callable[[], None],
        answered: Callable[[SendOpen, bool], None],
        lost: Callable[[SendOpen], None],
    ) -> None:
        """Open a frame.

        Args:
            effect: what the session wants.
            left: called when it leaves, which starts its lease.
            answered: called with the broker's word: whether nobody subscribed.
            lost: called when the connection broke before it.
        """

        def stamp(now_s: float) -> Message | None:
            message = effect.message(now_s)
            left()
            return message

        def done(result: bool | Exception) -> None:
            if isinstance(result, ConnectionLostError):
                lost(effect)
            elif not isinstance(result, Exception):
                answered(effect, result)

        self._uplink.send(
            Departure(
                lane=Lane.OPEN,
                camera=effect.camera,
                label="open",
                topic=effect.topic,
                stamp=stamp,
                qos=effect.qos,
                frame=effect.frame,
                done=done,
                bid=effect.bid,
                same_as=(effect.topic, effect.frame),
            )
        )

    def key_frame(
        self, effect: SendKeyFrame, *, left: Callable[[], None], lost: Callable[[SendKeyFrame], None]
    ) -> None:
        """Publish a key frame, before the open message of its frame.

        Args:
            effect: what the session wants.
            left: called when it leaves; the session has more to say then.
            lost: called when it found no way out.
        """

        def stamp(_now_s: float) -> Message:
            message = effect.message()
            left()
            return message

        def done(result: bool | Exception) -> None:
            if isinstance(result, Exception):
                lost(effect)

        self._uplink.send(
            Departure(
                lane=Lane.FRAME_UNDER_WAY,
                camera=effect.camera,
                label="key_frame",
                topic=effect.topic,
                stamp=stamp,
                qos=effect.qos,
                retain=True,
                frame=effect.frame,
                open_follows=True,
                done=done,
                same_as=(effect.topic, effect.frame),
            )
        )

    def to_worker(self, effect: SendToWorker) -> None:
        """Send a chunk, *gone* or a question's text to a worker's inbox."""
        self._uplink.send(
            Departure(
                lane=Lane.FRAME_UNDER_WAY,
                camera=effect.camera,
                label=type(effect.message).__name__.lower(),
                topic=effect.topic,
                stamp=_always(effect.message),
                qos=effect.qos,
                frame=getattr(effect.message, "frame", None),
                bid=effect.bid,
                same_as=(effect.topic, effect.message),
            )
        )

    def report(self, outcome: QueryOutcome, told: Callable[[], None] | None = None) -> None:
        """Tell everyone how a query ended.

        Args:
            outcome: what only the edge knows.
            told: called when the broker has it.
        """

        def done(result: bool | Exception) -> None:
            if told is not None and not isinstance(result, Exception):
                told()

        self._uplink.send(
            Departure(
                lane=Lane.REPORT,
                camera=outcome.camera,
                label="outcome",
                topic=topics.outcome_topic(outcome.camera),
                stamp=_always(outcome),
                qos=1,
                frame=outcome.frame,
                until_sent=True,
                done=done,
            )
        )

    def reply(self, message: Answer | QueryOutcome, reply_to: ReplyTo) -> None:
        """Tell the client of an ad-hoc question how it ended."""
        self._uplink.send(
            Departure(
                lane=Lane.REPORT,
                camera=message.camera,
                label="reply",
                topic=reply_to.topic,
                stamp=_always(message),
                qos=1,
                frame=message.frame,
                correlation_data=reply_to.correlation_data,
                until_sent=True,
            )
        )

    def receipt(self, receipt: Receipt, reply_to: ReplyTo) -> None:
        """Tell a client what became of its message."""
        self._uplink.send(
            Departure(
                lane=Lane.REPORT,
                camera=None,
                label="receipt",
                topic=reply_to.topic,
                stamp=_always(receipt),
                qos=1,
                correlation_data=reply_to.correlation_data,
                until_sent=True,
            )
        )

    def status(self, status: Callable[[], Status]) -> None:
        """Publish the retained status, as it is when it leaves."""

        def stamp(_now_s: float) -> Message:
            return status()

        message = status()
        self._uplink.send(
            Departure(
                lane=Lane.FRAME_UNDER_WAY,
                camera=None,
                label="status",
                topic=topics.status_topic(message.kind, message.id),
                stamp=stamp,
                qos=1,
                retain=True,
                until_sent=True,
            )
        )

    async def question(self, question: Question, *, clears: bool = False) -> bool:
        """Publish a retained question, or delete it there.

        Args:
            question: the question.
            clears: delete it.

        Returns:
            True once the broker has it; False when it will not have it from this edge.
        """
        decided: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def done(result: bool | Exception) -> None:
            if not decided.done():
                decided.set_result(not isinstance(result, Exception))

        self._uplink.send(
            Departure(
                lane=Lane.REPORT,
                camera=None,
                label="question",
                topic=topics.question_topic(question.site, question.question_id),
                stamp=_always(question),
                qos=1,
                retain=True,
                clears=clears,
                until_sent=True,
                done=done,
            )
        )
        return await decided


def _always(message: Message) -> Callable[[float], Message | None]:
    return lambda _now_s: message
