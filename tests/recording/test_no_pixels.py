"""No log keeps pixels: neither a node's own, nor that of a recorder."""

from __future__ import annotations

from typing import Any, cast

from latentbus.logs import record
from pipeline.bus.base import Bus, ConnectionChange, Inbound
from pipeline.recording.bus_tap import TappedBus
from pipeline.recording.recorder import Recorder
from schemas import topics
from schemas.topics import Family

PICTURE = topics.event_topic(Family.PICTURE, "olga", "gate", "r-1")
CLIP = topics.event_topic(Family.CLIP, "olga", "gate", "r-1")


class Log:
    def __init__(self) -> None:
        self.topics: list[str] = []

    def offer(self, topic: str, payload: bytes, **_: Any) -> bool:
        self.topics.append(topic)
        return True


class Wire:
    """A connection that takes everything and gives both."""

    def __init__(self) -> None:
        self.published: list[str] = []

    async def wait_connected(self, timeout_s: float) -> None:
        pass

    async def receive_batch(self, max_count: int = 256) -> list[Inbound | ConnectionChange]:
        return [inbound(PICTURE), inbound(CLIP)]

    async def publish(self, topic: str, payload: bytes, **_: Any) -> None:
        self.published.append(topic)


def inbound(topic: str) -> Inbound:
    return Inbound(topic, b"\xff\xd8", 0, False, None, None, 1, 0, 0.0)


async def test_the_log_of_a_node_has_no_pictures_that_it_sends_or_gets() -> None:
    log, wire = Log(), Wire()
    bus = TappedBus(cast(Bus, wire), log)
    await bus.wait_connected(1.0)
    for topic in (PICTURE, CLIP):
        await bus.publish(topic, b"\xff\xd8", qos=1)
    assert wire.published == [PICTURE, CLIP]
    assert log.topics == [CLIP]
    assert [event.topic for event in await bus.receive_batch() if isinstance(event, Inbound)] == [PICTURE, CLIP]
    assert log.topics == [CLIP, CLIP]


def test_a_recorder_leaves_pictures_out_even_on_a_broker_that_sends_them() -> None:
    log = Log()
    for topic in (PICTURE, CLIP):
        record._Session._offer(inbound(topic), cast(Recorder, log))
    assert log.topics == [CLIP]
