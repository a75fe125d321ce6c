"""A worker that was sent latents of an attempt and then has no room: nobody else gets latents of that attempt."""

from __future__ import annotations

from pipeline.protocol.ports import Publish
from schemas import topics
from schemas.messages import Accept, Busy, Chunk, Gone, Open, Refine
from schemas.types import FrameId
from tests.protocol.edge_driver import EdgeDriver
from tests.protocol.fake_latents import FakeLatent
from tests.protocol.questions import asked

FRAME = FrameId(1, 0)
START_S = 1000.0


def _driver() -> EdgeDriver:
    driver = EdgeDriver()
    driver.connect()
    driver.session.offer("gate", FakeLatent(), 4, [asked("q0", START_S + 30.0)], driver.now_s)
    driver.pump()
    return driver


def _hear(driver: EdgeDriver, message: Accept | Busy | Refine) -> None:
    driver.receive(topics.control_topic("gate"), message, qos=0)


def _sent(driver: EdgeDriver, kind: type[Chunk | Gone | Open]) -> list[Publish]:
    return [publish for publish in driver.publishes if isinstance(publish.message, kind)]


def test_the_attempt_of_a_worker_that_was_sent_latents_stays_its_own() -> None:
    driver = _driver()
    _hear(driver, Refine(worker="w0", frame=FRAME, attempt=1, start=4, stop=8, lease_ms=3_000))
    _hear(driver, Busy(worker="w0", frame=FRAME, attempt=1, retry_after_ms=100))
    _hear(driver, Refine(worker="w1", frame=FRAME, attempt=1, start=4, stop=8, lease_ms=3_000))
    assert [publish.topic for publish in _sent(driver, Chunk)] == [topics.chunk_topic("w0", "gate")]
    assert [publish.topic for publish in _sent(driver, Gone)] == [topics.chunk_topic("w1", "gate")]
    driver.turn_to(START_S + 2.0)
    assert len(_sent(driver, Open)) >= 2, "it is opened again"
    _hear(driver, Refine(worker="w1", frame=FRAME, attempt=len(_sent(driver, Open)), start=8, stop=12, lease_ms=3_000))
    assert [publish.topic for publish in _sent(driver, Chunk)][1:] == [topics.chunk_topic("w1", "gate")]


def test_the_attempt_of_a_worker_that_was_sent_nothing_may_be_anothers() -> None:
    driver = _driver()
    _hear(driver, Busy(worker="w0", frame=FRAME, attempt=1, retry_after_ms=60_000))
    _hear(driver, Refine(worker="w1", frame=FRAME, attempt=1, start=4, stop=8, lease_ms=3_000))
    assert [publish.topic for publish in _sent(driver, Chunk)] == [topics.chunk_topic("w1", "gate")]
