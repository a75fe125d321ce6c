"""Publishes of a machine: carried out in order, answered once each, whatever becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from pipeline.bus.base import BusStatistics, ConnectionChange, Inbound, PublishResult, Qos, Subscription, Traffic
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.node.containment import Containment
from pipeline.node.publisher import Publisher
from pipeline.protocol.ports import Delivery, Publish
from schemas.errors import ConnectionLostError, NotAuthorizedError
from schemas.messages import Status

MANY = 20
STATUS = Status(kind="worker", id="w-1", boot=1, online=True)


class FakeBus:
    """Records publishes; each one meets the next of the scripted fates, then succeeds."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, int, str | None, bytes | None]] = []
        self.fates: list[Exception | PublishResult] = []
        self.open = asyncio.Event()
        self.open.set()
        self.under_way = 0
        self.full = asyncio.Event()

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
        user_properties: Sequence[tuple[str, str]] = (),
        timeout_s: float = 10.0,
    ) -> PublishResult:
        self.sent.append((topic, payload, qos, content_type, correlation_data))
        self.under_way += 1
        if self.under_way == MANY:
            self.full.set()
        try:
            await self.open.wait()
            fate = self.fates.pop(0) if self.fates else PublishResult()
            if isinstance(fate, Exception):
                raise fate
            return fate
        finally:
            self.under_way -= 1

    async def wait_connected(self, timeout_s: float) -> None:
        raise NotImplementedError

    async def receive_batch(self, max_count: int = 256) -> list[Inbound | ConnectionChange]:
        raise NotImplementedError

    def acknowledge(self, inbound: Inbound) -> bool:
        raise NotImplementedError

    async def subscribe(self, subscription: Subscription, timeout_s: float = 10.0) -> None:
        raise NotImplementedError

    async def unsubscribe(self, topic_filter: str, timeout_s: float = 10.0) -> None:
        raise NotImplementedError

    @property
    def traffic(self) -> Traffic:
        return Traffic()

    def statistics(self) -> BusStatistics:
        raise NotImplementedError


class Answers:
    """What the machine is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, Delivery]] = []
        self._changed = asyncio.Event()

    def __call__(self, token: int, delivery: Delivery) -> None:
        self.told.append((token, delivery))
        self._changed.set()

    async def count(self, number: int) -> None:
        async with asyncio.timeout(10):
            while len(self.told) < number:
                self._changed.clear()
                await self._changed.wait()


def publish(token: int, qos: Qos = 1) -> Publish:
    return Publish(f"t/{token}", STATUS, b"x", qos, token, "status", content_type="text/x", correlation_data=b"42")


@asynccontextmanager
async def running(bus: FakeBus, answers: Answers) -> AsyncIterator[tuple[Publisher, OncePerKind, Containment]]:
    problems, containment = OncePerKind(get_logger(__name__)), Containment(get_logger(__name__))
    publisher = Publisher(bus, answers, problems=problems, containment=containment)
    task = asyncio.create_task(publisher.run())
    yield publisher, problems, containment
    task.cancel()
    await asyncio.wait({task})


async def test_publishes_leave_in_order_whatever_their_qos_and_are_answered_once() -> None:
    bus, answers = FakeBus(), Answers()
    async with running(bus, answers) as (publisher, _, _):
        for token in range(300):
            publisher.put(publish(token, 1 if token % 3 else 0))
        await answers.count(300)
    assert [entry[0] for entry in bus.sent] == [f"t/{token}" for token in range(300)]
    assert sorted(answers.told) == [(token, Delivery.DELIVERED) for token in range(300)]
    assert bus.sent[0] == ("t/0", b"x", 0, "text/x", b"42")


async def test_acknowledgements_are_not_waited_for_one_by_one() -> None:
    bus, answers = FakeBus(), Answers()
    bus.open.clear()
    async with running(bus, answers) as (publisher, _, _):
        for token in range(MANY):
            publisher.put(publish(token))
        async with asyncio.timeout(10):
            await bus.full.wait()
        assert answers.told == []
        bus.open.set()
        await answers.count(MANY)


@pytest.mark.parametrize(
    ("fate", "delivery", "problem"),
    [
        (PublishResult(no_subscribers=True), Delivery.NO_SUBSCRIBERS, None),
        (ConnectionLostError("gone"), Delivery.CONNECTION_LOST, None),
        (NotAuthorizedError("t/1"), Delivery.REFUSED, "publish/NotAuthorizedError"),
    ],
)
async def test_the_machine_hears_what_became_of_it(
    fate: Exception | PublishResult, delivery: Delivery, problem: str | None
) -> None:
    bus, answers = FakeBus(), Answers()
    bus.fates = [fate]
    async with running(bus, answers) as (publisher, problems, _):
        publisher.put(publish(1))
        publisher.put(publish(2))
        await answers.count(2)
    assert answers.told == [(1, delivery), (2, Delivery.DELIVERED)]
    assert list(problems.counts) == ([problem] if problem else [])


@pytest.mark.usefixtures("contained")
async def test_a_bug_ends_one_message() -> None:
    bus, answers = FakeBus(), Answers()
    bus.fates = [KeyError("a bug")]
    async with running(bus, answers) as (publisher, _, containment):
        publisher.put(publish(1))
        publisher.put(publish(2))
        await answers.count(2)
    assert answers.told == [(1, Delivery.REFUSED), (2, Delivery.DELIVERED)]
    assert containment.counts == {"publish/KeyError": 1}
