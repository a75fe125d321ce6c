from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cloud_workers.publish_queue import MAX_UNACKNOWLEDGED, RETRIES, Outgoing, PublishQueue
from pipeline.bus.base import (
    BusStatistics,
    ConnectionChange,
    Inbound,
    PublishResult,
    Qos,
    Subscription,
)
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.protocol.effects import ReplyTo, SendAnswer
from schemas import topics
from schemas.errors import ConnectionLostError, NotAuthorizedError
from schemas.messages import Answer
from schemas.types import FrameId


class FakeBus:
    """Records publishes; each one meets the next of the scripted fates, then succeeds."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, int, str | None, bytes | None]] = []
        self.fates: list[Exception] = []
        self.open = asyncio.Event()
        self.open.set()
        self.under_way = 0
        self.most_under_way = 0
        self.full = asyncio.Event()
        self.waited_for_connection = 0

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: Qos = 0,
        retain: bool = False,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
        expiry_s: int | None = None,
        content_type: str | None = None,
        timeout_s: float = 10.0,
    ) -> PublishResult:
        self.sent.append((topic, payload, qos, content_type, correlation_data))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if self.under_way == MAX_UNACKNOWLEDGED:
            self.full.set()
        try:
            await self.open.wait()
            if self.fates:
                raise self.fates.pop(0)
            return PublishResult()
        finally:
            self.under_way -= 1

    async def wait_connected(self, timeout_s: float) -> None:
        self.waited_for_connection += 1

    async def receive_batch(self, max_count: int = 256) -> list[Inbound | ConnectionChange]:
        raise NotImplementedError

    def acknowledge(self, inbound: Inbound) -> bool:
        raise NotImplementedError

    async def subscribe(self, subscription: Subscription, timeout_s: float = 10.0) -> None:
        raise NotImplementedError

    async def unsubscribe(self, topic_filter: str, timeout_s: float = 10.0) -> None:
        raise NotImplementedError

    def statistics(self) -> BusStatistics:
        raise NotImplementedError


@asynccontextmanager
async def running(bus: FakeBus, **bounds: int) -> AsyncIterator[PublishQueue]:
    queue = PublishQueue(bus, OncePerKind(get_logger(__name__)), None, **bounds)
    task = asyncio.create_task(queue.run())
    yield queue
    task.cancel()
    await asyncio.wait({task})


async def flushed(queue: PublishQueue) -> None:
    async with asyncio.timeout(10):
        await queue.flush()
    assert len(queue) == 0


async def test_messages_leave_in_order_whatever_their_qos() -> None:
    bus = FakeBus()
    async with running(bus) as queue:
        for number in range(300):
            queue.put(Outgoing(f"t/{number}", b"x", 1 if number % 3 else 0))
        await flushed(queue)
    assert [entry[0] for entry in bus.sent] == [f"t/{number}" for number in range(300)]
    assert queue.counters == {"published": 300}


async def test_acknowledgements_are_not_waited_for_one_by_one_but_bounded() -> None:
    bus = FakeBus()
    bus.open.clear()
    async with running(bus) as queue:
        for number in range(2 * MAX_UNACKNOWLEDGED):
            queue.put(Outgoing(f"t/{number}", b"x", 1))
        async with asyncio.timeout(10):
            await bus.full.wait()
        bus.open.set()
        await flushed(queue)
    assert bus.most_under_way == MAX_UNACKNOWLEDGED
    assert len(bus.sent) == 2 * MAX_UNACKNOWLEDGED


@pytest.mark.parametrize("bounds", [{"max_messages": 10}, {"max_bytes": 100}])
async def test_what_does_not_fit_is_dropped_and_counted(bounds: dict[str, int]) -> None:
    bus = FakeBus()
    async with running(bus, **bounds) as queue:
        for number in range(25):
            queue.put(Outgoing(f"t/{number}", bytes(10), 0))
        assert len(queue) == 10
        await flushed(queue)
    assert len(bus.sent) == 10
    assert queue.counters == {"published": 10, "dropped": 15}


async def test_a_lost_connection_costs_qos_0_the_message_and_qos_1_a_repeat() -> None:
    bus = FakeBus()
    async with running(bus) as queue:
        bus.fates = [ConnectionLostError("gone")]
        queue.put(Outgoing("t/0", b"x", 0))
        await flushed(queue)
        bus.fates = [ConnectionLostError("gone")]
        queue.put(Outgoing("t/1", b"x", 1))
        await flushed(queue)
    assert [entry[0] for entry in bus.sent] == ["t/0", "t/1", "t/1"]
    assert bus.waited_for_connection == 1
    assert queue.counters == {"failed": 1, "repeated": 1, "published": 1}


async def test_repeats_are_bounded_and_refusals_are_final() -> None:
    bus = FakeBus()
    async with running(bus) as queue:
        bus.fates = [ConnectionLostError("gone")] * (1 + RETRIES)
        queue.put(Outgoing("t/0", b"x", 1))
        await flushed(queue)
        bus.fates = [NotAuthorizedError("t/1")]
        queue.put(Outgoing("t/1", b"x", 1))
        queue.put(Outgoing("t/2", b"x", 1))
        await flushed(queue)
    assert [entry[0] for entry in bus.sent] == ["t/0"] * (1 + RETRIES) + ["t/1", "t/2"]
    assert queue.counters == {"failed": 2, "repeated": RETRIES, "published": 1}


async def test_an_answer_goes_to_everyone_and_to_its_client() -> None:
    answer = Answer(
        query_id="gate/@phone/who-1",
        owner="client/phone",
        camera="gate",
        frame=FrameId(1, 1),
        attempt=1,
        question_id="who-1",
        worker="w-1",
        text="nobody",
        score=0.5,
        latents=3,
        payload_bytes=9,
        looks=1,
    )
    reply = topics.reply_topic("phone", "gate", "who-1")
    bus = FakeBus()
    async with running(bus) as queue:
        queue.put_effect(SendAnswer(topics.answer_topic("gate"), answer, 0, ReplyTo(reply, b"42")))
        await flushed(queue)
    assert [(topic, kind, data) for topic, _, _, kind, data in bus.sent] == [
        (topics.answer_topic("gate"), "application/json", None),
        (reply, "application/json", b"42"),
    ]
    assert bus.sent[0][1] == bus.sent[1][1]
