"""What a worker publishes: in order, bounded, and again after a loss."""

from __future__ import annotations

import pytest

from pipeline.protocol.effects import ReplyTo, SendAnswer, SendControl, SendHandover
from pipeline.protocol.ports import Delivery, Publish
from pipeline.protocol.worker_outgoing import (
    CONNECTION_WAIT_S,
    MAX_UNDER_WAY,
    RETRIES,
    RETRY_S,
    WorkerOutgoing,
)
from schemas import topics, wire
from schemas.errors import StateError
from schemas.messages import Accept, Answer, Handover, QueryRef, Status
from schemas.types import FrameId, Outcome

LOST, DELIVERED = Delivery.CONNECTION_LOST, Delivery.DELIVERED


def answer(number: int, *, terminal: bool = True, reply_to: ReplyTo | None = None) -> SendAnswer:
    message = Answer(
        query_id="gate/@phone/who-1",
        owner="client/phone",
        camera="gate",
        frame=FrameId(1, number),
        attempt=1,
        question_id="who-1",
        worker="w-1",
        text="nobody",
        score=0.5,
        latents=3,
        payload_bytes=9,
        looks=1,
        outcome=Outcome.ANSWERED if terminal else None,
    )
    return SendAnswer(topics.answer_topic("gate"), message, 1 if terminal else 0, reply_to)


def accept(number: int) -> SendControl:
    message = Accept(worker="w-1", frame=FrameId(1, number), attempt=1, lease_ms=1000)
    return SendControl(topics.control_topic("gate"), message)


def connected(**bounds: int) -> WorkerOutgoing:
    outgoing = WorkerOutgoing(**bounds)
    outgoing.connection(True, 0.0)
    return outgoing


def numbers(publishes: list[Publish]) -> list[int]:
    return [publish.message.frame.sequence for publish in publishes]  # type: ignore[attr-defined]


def deliver(outgoing: WorkerOutgoing, publishes: list[Publish], delivery: Delivery, now_s: float) -> None:
    for publish in publishes:
        outgoing.published(publish.token, delivery, now_s)


def test_messages_leave_in_order_whatever_their_qos() -> None:
    outgoing = connected()
    for number in range(300):
        outgoing.put(answer(number) if number % 3 else accept(number), 0.0)
    sent: list[int] = []
    while publishes := outgoing.take(0.0):
        sent += numbers(publishes)
        deliver(outgoing, publishes, DELIVERED, 0.0)
    assert sent == list(range(300))
    assert outgoing.counters == {"published": 300}
    assert len(outgoing) == 0


@pytest.mark.parametrize("make", [answer, accept])
def test_what_is_under_way_is_bounded_and_each_answer_makes_room_for_one(make: object) -> None:
    outgoing = connected()
    for number in range(2 * MAX_UNDER_WAY):
        outgoing.put(make(number), 0.0)  # type: ignore[operator]
    first = outgoing.take(0.0)
    assert len(first) == MAX_UNDER_WAY
    assert outgoing.take(0.0) == []
    outgoing.published(first[0].token, DELIVERED, 0.1)
    assert numbers(outgoing.take(0.1)) == [MAX_UNDER_WAY]


def test_tokens_name_one_publish_each_and_are_answered_once() -> None:
    outgoing = connected()
    outgoing.put(answer(1), 0.0)
    (publish,) = outgoing.take(0.0)
    outgoing.published(publish.token, DELIVERED, 0.0)
    with pytest.raises(StateError, match="not under way"):
        outgoing.published(publish.token, DELIVERED, 0.0)


@pytest.mark.parametrize("bounds", [{"max_messages": 10}, {"max_bytes": 10 * len(wire.encode(answer(1).message))}])
def test_what_does_not_fit_is_dropped_and_counted(bounds: dict[str, int]) -> None:
    outgoing = connected(**bounds)
    for number in range(25):
        outgoing.put(answer(number % 10), 0.0)
    assert len(outgoing) == outgoing.sizes()[0] == 10
    assert outgoing.counters == {"dropped": 15}
    assert {problem.kind for problem in outgoing.take_problems()} == {"outgoing/full"}
    assert len(outgoing.take(0.0)) == 10
    assert outgoing.sizes() == (0, 0)


def test_a_message_that_no_wire_takes_is_dropped_and_counted() -> None:
    outgoing = connected()
    handover = Handover(
        camera="gate", hops=1, frame=FrameId(1, 1), attempt=1, site="north", fingerprint=b"tiny",
        queries=(QueryRef("q0", 1, bytes(8), None),), stop=8, payload=b"x",
    )  # fmt: skip
    oversize = handover.model_copy(update={"payload": bytes(200_000)})
    outgoing.put(SendHandover(topics.handover_topic("w-2"), oversize), 0.0)
    (problem,) = outgoing.take_problems()
    assert (problem.kind, outgoing.take(0.0), len(outgoing)) == ("outgoing/oversize", [], 0)
    assert outgoing.counters == {"oversize": 1}


def test_a_lost_connection_costs_qos_0_the_message_and_qos_1_a_repeat() -> None:
    outgoing = connected()
    outgoing.put(accept(0), 0.0)
    outgoing.put(answer(1), 0.0)
    sent = outgoing.take(0.0)
    outgoing.connection(False, 1.0)
    deliver(outgoing, sent, LOST, 1.0)
    outgoing.put(accept(2), 1.1)
    outgoing.put(answer(3), 1.2)
    assert outgoing.take(1.2) == []
    outgoing.connection(True, 2.0)
    outgoing.put(answer(4), 2.0)
    again = outgoing.take(2.0)
    assert numbers(again) == [1, 3, 4], "what was lost comes first"
    assert not {publish.token for publish in again} & {publish.token for publish in sent}
    deliver(outgoing, again, DELIVERED, 2.0)
    assert outgoing.counters == {"failed": 2, "repeated": 1, "published": 3}


def test_repeats_keep_the_order_in_which_they_were_said() -> None:
    outgoing = connected()
    for number in range(4):
        outgoing.put(answer(number), 0.0)
    sent = outgoing.take(0.0)
    outgoing.connection(False, 1.0)
    deliver(outgoing, [sent[index] for index in (2, 0, 3, 1)], LOST, 1.0)
    outgoing.connection(True, 2.0)
    assert numbers(outgoing.take(2.0)) == [0, 1, 2, 3]


def test_a_loss_on_a_connection_that_seems_to_be_up_is_repeated_after_a_while() -> None:
    outgoing = connected()
    outgoing.put(answer(1), 0.0)
    deliver(outgoing, outgoing.take(0.0), LOST, 1.0)
    assert outgoing.take(1.0) == [], "perhaps the first sign of a broken connection"
    assert outgoing.next_s() == 1.0 + RETRY_S
    assert numbers(outgoing.take(1.0 + RETRY_S)) == [1]


def test_repeats_are_bounded_and_refusals_are_final() -> None:
    outgoing = connected()
    outgoing.put(answer(0), 0.0)
    for _ in range(1 + RETRIES):
        sent = outgoing.take(0.0)
        assert numbers(sent) == [0]
        outgoing.connection(False, 0.0)
        deliver(outgoing, sent, LOST, 0.0)
        outgoing.connection(True, 0.0)
    assert outgoing.take(0.0) == []
    (problem,) = outgoing.take_problems()
    assert problem.kind == "outgoing/failed"
    outgoing.put(answer(1), 0.0)
    deliver(outgoing, outgoing.take(0.0), Delivery.REFUSED, 0.0)
    assert outgoing.take(100.0) == []
    assert outgoing.counters == {"failed": 2, "repeated": RETRIES}
    assert len(outgoing) == 0


def test_without_a_connection_nothing_waits_for_ever() -> None:
    outgoing = connected()
    outgoing.put(answer(0), 0.0)
    sent = outgoing.take(0.0)
    outgoing.connection(False, 1.0)
    deliver(outgoing, sent, LOST, 1.0)
    outgoing.put(answer(1), 5.0)
    assert outgoing.next_s() == 1.0 + CONNECTION_WAIT_S
    assert outgoing.take(1.0 + CONNECTION_WAIT_S) == []
    assert (len(outgoing), outgoing.next_s()) == (1, 5.0 + CONNECTION_WAIT_S)
    outgoing.take(5.0 + CONNECTION_WAIT_S)
    assert (len(outgoing), outgoing.next_s(), outgoing.sizes()) == (0, None, (0, 0))
    assert outgoing.counters == {"repeated": 1, "failed": 2}


def test_a_status_goes_before_what_waits_and_is_never_said_again() -> None:
    outgoing = connected()
    status = Status(kind="worker", id="w-1", boot=1, online=True)
    for number in range(MAX_UNDER_WAY + 1):
        outgoing.put(answer(number), 0.0)
    outgoing.take(0.0)
    outgoing.put_status(topics.status_topic("worker", "w-1"), status, qos=1, retain=True)
    (birth,) = outgoing.take(0.0)
    assert (birth.message, birth.retain, birth.qos) == (status, True, 1)
    outgoing.published(birth.token, LOST, 0.0)
    outgoing.put_status(topics.status_topic("worker", "w-1"), status, qos=1, retain=True)
    outgoing.connection(False, 1.0)
    outgoing.connection(True, 2.0)
    assert outgoing.take(2.0) == [], "all places are taken, and the status was one of the connection before"
