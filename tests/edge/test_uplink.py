from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edge_nodes.uplink import CHARGE_TLS, Sent, Uplink
from pipeline.protocol.departures import LANE_LIMITS, Departure, Lane
from pipeline.protocol.effects import Bid
from schemas import wire
from schemas.errors import BusError, ConnectionLostError, NotAuthorizedError
from schemas.messages import Chunk, Gone, Message
from schemas.types import FrameId
from schemas.wire_cost import puback_wire_bytes, publish_wire_bytes
from tests.edge.support import RecordingBus, SkippingClock, inbound

FRAME = FrameId(7, 1)
TOPIC = "lb/v2/chunk/w-1/gate"


def chunk(size: int = 100, start: int = 0) -> Chunk:
    return Chunk(camera="gate", frame=FRAME, attempt=1, start=start, stop=start + 1, payload=bytes(size))


class Site:
    """An uplink that runs, and what it says."""

    def __init__(self, rate_kbps: float | None = None) -> None:
        self.bus = RecordingBus()
        self.clock = SkippingClock()
        self.sent: list[Sent] = []
        self.ends_s = self.clock.now_s() + 60.0
        self.uplink = Uplink(self.bus, rate_kbps, self.clock, on_sent=self.sent.append)

    @asynccontextmanager
    async def running(self, *, connected: bool = True) -> AsyncIterator[None]:
        self.uplink.connection(connected)
        task = asyncio.create_task(self.uplink.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def send(self, message: Message | None = None, **fields: object) -> None:
        values: dict[str, object] = {
            "lane": Lane.FRAME_UNDER_WAY,
            "camera": "gate",
            "label": "chunk",
            "topic": TOPIC,
            "stamp": lambda _now_s: message or chunk(),
            "bid": lambda now_s: None if now_s > self.ends_s else Bid(1.0, 100, self.ends_s - 1.0, self.ends_s),
        }
        self.uplink.send(Departure(**{**values, **fields}))  # type: ignore[arg-type]


async def test_each_publish_is_charged_with_its_headers() -> None:
    site = Site()
    message = chunk(300)
    async with site.running():
        site.send(message, frame=FRAME)
        await site.uplink.idle()
    payload = wire.encode(message)
    assert site.bus.published == [(TOPIC, payload, 0)]
    (sent,) = site.sent
    assert sent.wire_bytes == publish_wire_bytes(TOPIC, len(payload), 0, tls=CHARGE_TLS)
    assert (sent.camera, sent.label, sent.frame, sent.latent_bytes) == ("gate", "chunk", FRAME, 300)


async def test_the_rate_holds_over_many_messages() -> None:
    site = Site(rate_kbps=64)
    began_s = site.clock.now_s()
    async with site.running():
        for number in range(50):
            site.send(chunk(100 + number))
        await site.uplink.idle()
    took_s = site.sent[-1].at_s - began_s
    before_last = sum(sent.wire_bytes for sent in site.sent[:-1])
    assert took_s == pytest.approx(before_last / 8000 - 0.02, rel=1e-6)


async def test_a_message_is_stamped_when_it_leaves_and_not_when_it_is_queued() -> None:
    site = Site(rate_kbps=8)
    stamps: list[float] = []

    def stamp(now_s: float) -> Message | None:
        stamps.append(now_s)
        return chunk()

    queued_s = site.clock.now_s()
    async with site.running():
        site.send(chunk(2000))
        site.send(stamp=stamp)
        await site.uplink.idle()
    assert len(stamps) == 1
    assert stamps[0] - queued_s == pytest.approx(site.sent[0].wire_bytes / 1000 - 0.02)


async def test_what_is_withdrawn_costs_nothing() -> None:
    site = Site(rate_kbps=8)
    async with site.running():
        site.send(stamp=lambda _now_s: None, lane=Lane.OPEN, label="open")
        site.send()
        await site.uplink.idle()
    assert [sent.label for sent in site.sent] == ["chunk"]
    assert site.uplink.counters["withdrawn_open_decided"] == 1


async def test_what_waits_past_its_end_is_withdrawn_and_makes_room() -> None:
    site = Site(rate_kbps=8)
    async with site.running(connected=False):
        ends_s = site.clock.now_s() + 1.0
        bid = Bid(1.0, 100, ends_s - 0.5, ends_s)
        site.send(lane=Lane.OPEN, label="open", bid=lambda now_s: None if now_s > ends_s else bid)
        site.send(chunk(200))
        await site.clock.sleep(2.0)
        room = asyncio.create_task(site.uplink.room("gate"))
        site.uplink.connection(True)
        await site.uplink.idle()
        await room
    assert [sent.label for sent in site.sent] == ["chunk"]
    assert site.uplink.counters == {"withdrawn_open_too_late": 1}


async def test_what_left_says_where_and_how_long_it_waited() -> None:
    site = Site(rate_kbps=8)
    async with site.running():
        site.send(chunk(1000))
        site.send(chunk(1000), lane=Lane.OPEN, label="open")
        await site.uplink.idle()
    first, second = site.sent
    assert (first.lane, first.waited_s) == (Lane.FRAME_UNDER_WAY, 0.0)
    assert second.lane is Lane.OPEN
    assert second.waited_s == pytest.approx(first.wire_bytes / 1000 - 0.02)


async def test_nothing_leaves_without_a_connection() -> None:
    site = Site()
    async with site.running(connected=False):
        site.send()
        for _ in range(20):
            await asyncio.sleep(0)
        assert (site.bus.published, site.uplink.unsent) == ([], 1)
        site.uplink.connection(True)
        await site.uplink.idle()
    assert len(site.bus.published) == 1


async def test_what_nobody_else_repeats_is_sent_again_after_a_lost_connection() -> None:
    site = Site()
    site.bus.failures = [ConnectionLostError("gone"), ConnectionLostError("gone"), ConnectionLostError("gone")]
    results: list[bool | Exception] = []
    async with site.running():
        site.send(lane=Lane.REPORT, label="outcome", qos=1, until_sent=True, done=results.append)
        await site.uplink.idle()
        assert results == [False]
        assert site.uplink.counters["again_outcome"] == 3
        site.bus.failures = [ConnectionLostError("gone")]
        site.send(lane=Lane.OPEN, label="open", qos=1, done=results.append)
        await site.uplink.idle()
    assert isinstance(results[1], ConnectionLostError)
    assert len(site.bus.published) == 1


async def test_a_refusal_is_told_and_not_repeated() -> None:
    site = Site()
    site.bus.failures = [NotAuthorizedError(TOPIC)]
    results: list[bool | Exception] = []
    async with site.running():
        site.send(qos=1, until_sent=True, done=results.append)
        await site.uplink.idle()
    assert isinstance(results[0], NotAuthorizedError)
    assert site.uplink.counters["failed_NotAuthorizedError"] == 1
    assert site.bus.published == []


async def test_no_subscribers_is_passed_on() -> None:
    site = Site()
    site.bus.no_subscribers = True
    results: list[bool | Exception] = []
    async with site.running():
        site.send(lane=Lane.OPEN, label="open", qos=1, done=results.append)
        await site.uplink.idle()
    assert results == [True]


async def test_room_comes_when_the_last_open_of_the_camera_has_left() -> None:
    site = Site()
    async with site.running(connected=False):
        site.send(lane=Lane.OPEN, label="open")
        other = asyncio.create_task(site.uplink.room("yard"))
        mine = asyncio.create_task(site.uplink.room("gate"))
        await other
        assert not mine.done()
        site.uplink.connection(True)
        await mine
    assert len(site.bus.published) == 1


async def test_a_full_queue_drops_counts_and_tells() -> None:
    site = Site()
    results: list[bool | Exception] = []
    async with site.running(connected=False):
        for _ in range(LANE_LIMITS[Lane.FRAME_UNDER_WAY]):
            site.send()
        site.send(done=results.append)
    assert isinstance(results[0], BusError)
    assert site.uplink.counters["dropped_chunk"] == 1


async def test_acknowledgements_are_charged_at_qos_1_only() -> None:
    site = Site()
    site.uplink.acknowledge(inbound("lb/v2/ask/gate/me", b"", qos=1))
    site.uplink.acknowledge(inbound("lb/v2/control/gate", b"", qos=0))
    assert [(sent.label, sent.wire_bytes) for sent in site.sent] == [("puback", puback_wire_bytes(CHARGE_TLS))]
    assert len(site.bus.acknowledged) == 2


async def test_gone_overtakes_opens_that_wait_for_the_rate() -> None:
    site = Site(rate_kbps=8)
    async with site.running():
        site.send(chunk(1000))
        await asyncio.sleep(0)
        for _ in range(3):
            site.send(lane=Lane.OPEN, label="open")
        site.send(Gone(camera="gate", frame=FRAME, attempt=1), label="gone", frame=FRAME, bid=None)
        await site.uplink.idle()
    assert [sent.label for sent in site.sent] == ["chunk", "gone", "open", "open", "open"]
