"""A client that watches cameras resolves *unchanged* outcomes to the answers that hold on."""

from __future__ import annotations

import asyncio

import pytest

from latentbus.client import Client
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.protocol.renewals import same_as
from schemas import topics, wire
from schemas.messages import Answer, QueryOutcome
from schemas.types import FrameId, Outcome

pytestmark = pytest.mark.broker
FIRST, SECOND, UNSEEN = FrameId(7, 1), FrameId(7, 2), FrameId(6, 9)


def _renewal(frame: FrameId, of: FrameId) -> QueryOutcome:
    return QueryOutcome(
        query_id=f"gate/{frame}/car", owner="site/depot", camera="gate", frame=frame, question_id="car",
        outcome=Outcome.UNCHANGED, age_ms=60_000, reason=same_as(of),
    )  # fmt: skip


async def test_a_watched_answer_that_holds_on_is_known_and_one_that_was_never_seen_is_not(
    broker_settings: BrokerSettings,
) -> None:
    answer = Answer(
        query_id=f"gate/{FIRST}/car", owner="site/depot", camera="gate", frame=FIRST, attempt=1, question_id="car",
        worker="w0", outcome=Outcome.ANSWERED, text="yes", score=1.0, latents=8, payload_bytes=1, looks=1,
    )  # fmt: skip
    said = [answer, _renewal(SECOND, FIRST), _renewal(FrameId(7, 3), UNSEEN)]
    async with (
        MqttBus(broker_settings, client_id="far") as far,
        Client(broker_settings) as client,
        asyncio.timeout(30),
    ):
        await far.wait_connected(10)
        watched = client.watch(["gate"])
        first = asyncio.ensure_future(anext(watched))
        # Until the subscription is granted nobody hears it; a repeat is no news.
        while not first.done():
            await far.publish(topics.answer_topic("gate"), wire.encode(answer), qos=1)
            await asyncio.wait({first}, timeout=0.05)
        assert first.result() == answer
        for message in said[1:]:
            await far.publish(topics.outcome_topic("gate"), wire.encode(message), qos=1)
        renewed = [await anext(watched), await anext(watched)]
        assert renewed == said[1:]
        known = [client.renewed(message) for message in renewed if isinstance(message, QueryOutcome)]
        await watched.aclose()
    assert known == [answer, None]
