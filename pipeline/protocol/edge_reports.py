"""What an edge says beside its frames: outcomes, replies, receipts, status, standing questions."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.protocol.departures import Departure, TrafficClass
from pipeline.protocol.edge_messages import Done, always
from pipeline.protocol.effects import ReplyTo
from pipeline.protocol.uplink import CHARGE_TLS
from schemas import topics, wire
from schemas.messages import Answer, Message, QueryOutcome, Question, Receipt, SiteConfig, Status
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


class EdgeReports:
    """One method for each kind of message; nobody else repeats them, so each is said until the broker has it."""

    def __init__(self) -> None:
        self._departures: list[Departure] = []

    def take_departures(self) -> list[Departure]:
        """What wants to leave, since the last call, in order."""
        departures, self._departures = self._departures, []
        return departures

    def outcome(
        self, outcome: QueryOutcome, *, done: Done | None = None, withdrawn: Callable[[], bool] | None = None
    ) -> None:
        """Tell everyone how a query ended.

        Args:
            outcome: what only the edge knows.
            done: told what became of it.
            withdrawn: asked when it leaves; if so, it is dropped.
        """
        self._departures.append(
            Departure(
                TrafficClass.REPORT,
                outcome.camera,
                "outcome",
                topics.outcome_topic(outcome.camera),
                _unless(withdrawn, outcome),
                qos=1,
                frame=outcome.frame,
                until_sent=True,
                done=done,
            )
        )

    def reply(
        self, message: Answer | QueryOutcome, reply_to: ReplyTo, *, withdrawn: Callable[[], bool] | None = None
    ) -> None:
        """Tell the client of an ad-hoc question how it ended; see :meth:`outcome`."""
        self._departures.append(
            Departure(
                TrafficClass.REPORT,
                message.camera,
                "reply",
                reply_to.topic,
                _unless(withdrawn, message),
                qos=1,
                frame=message.frame,
                correlation_data=reply_to.correlation_data,
                until_sent=True,
            )
        )

    def receipt(self, receipt: Receipt, reply_to: ReplyTo) -> None:
        """Tell a client what became of its message."""
        self._departures.append(
            Departure(
                TrafficClass.REPORT,
                None,
                "receipt",
                reply_to.topic,
                always(receipt),
                qos=1,
                correlation_data=reply_to.correlation_data,
                until_sent=True,
            )
        )

    def status(self, site: str, status: Callable[[float], Status]) -> None:
        """Publish the retained status, as it is when it leaves."""
        self._departures.append(
            Departure(
                TrafficClass.FRAME_UNDER_WAY,
                None,
                "status",
                topics.status_topic("edge", site),
                status,
                qos=1,
                retain=True,
                until_sent=True,
                same_as=("status", site),  # on a link that flaps one for each connection would wait
                last_word=True,
            )
        )

    def config(self, site: str, config: SiteConfig | None) -> None:
        """Publish what holds of what operators say about the site, retained; None deletes it there."""
        self._departures.append(
            Departure(
                TrafficClass.REPORT,
                None,
                "config",
                topics.config_topic(site),
                always(config or SiteConfig(site=site)),
                qos=1,
                retain=True,
                clears=config is None,
                until_sent=True,
            )
        )

    def question(self, question: Question, done: Done, *, clears: bool = False) -> None:
        """Publish a retained question, or delete it there.

        Args:
            question: the question.
            done: told whether the broker has it.
            clears: delete it.
        """
        self._departures.append(
            Departure(
                TrafficClass.REPORT,
                None,
                "question",
                topics.question_topic(question.site, question.question_id),
                always(question),
                qos=1,
                retain=True,
                clears=clears,
                until_sent=True,
                done=done,
            )
        )


def _unless(withdrawn: Callable[[], bool] | None, message: Message) -> Callable[[float], Message | None]:
    return always(message) if withdrawn is None else lambda _now_s: None if withdrawn() else message
