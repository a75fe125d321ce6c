"""Whose question it is, over a real broker: equal ids of two clients, or of a client and a site, never meet."""

from __future__ import annotations

import asyncio

import pytest

from latentbus.client.ask import Asking
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from schemas import topics, wire
from schemas.messages import Answer, QueryOutcome
from schemas.types import AnswerType, Outcome
from tests.integration.conftest import PATIENCE_S, Fleet

pytestmark = pytest.mark.broker
PAIRS = 20


async def replies(broker: BrokerSettings, asking: Asking) -> list[Answer | QueryOutcome]:
    """Ask, and return all that reaches the client below its own name, up to the terminal message."""
    found: list[Answer | QueryOutcome] = []
    own = Subscription(topics.reply_filter(asking.client), qos=1)
    async with MqttBus(broker, client_id=asking.client, subscriptions=[own]) as bus, asyncio.timeout(PATIENCE_S):
        await bus.wait_connected(PATIENCE_S)
        await bus.publish(
            topics.ask_topic(asking.camera, asking.client),
            wire.encode(asking.message),
            qos=1,
            response_topic=topics.reply_topic(asking.client, asking.camera, asking.message.query_id),
        )
        while True:
            for event in await bus.receive_batch():
                if not isinstance(event, Inbound):
                    continue
                _, message = wire.decode_publish(event.topic, event.payload)
                bus.acknowledge(event)
                assert isinstance(message, Answer | QueryOutcome)
                found.append(message)
                if message.outcome is not None:
                    return found


async def test_two_clients_with_one_query_id_get_their_own_answers(fleet: Fleet) -> None:
    await fleet.worker("w1")
    await fleet.worker("w2")
    await fleet.edge(interval_s=1.0)
    for number in range(PAIRS):
        pair = [
            Asking.create(
                camera,
                f"What is at the {camera}?",
                AnswerType.TEXT,
                deadline_s=20,
                query_id=f"q{number}",
                client=client,
            )
            for camera, client in (("gate", "alice"), ("yard", "bob"))
        ]
        for asking, messages in zip(
            pair, await asyncio.gather(*(replies(fleet.broker, asking) for asking in pair)), strict=True
        ):
            # The words of a random model need not have the form of an answer.
            assert messages[-1].outcome is Outcome.ANSWERED or messages[-1].reason.startswith("form:")
            assert {(message.query_id, message.owner, message.camera, message.question_id) for message in messages} == {
                (f"{asking.camera}/@{asking.client}/q{number}", f"client/{asking.client}", asking.camera, f"q{number}")
            }


async def test_an_ask_under_the_id_of_a_standing_question_changes_nothing_of_it(fleet: Fleet) -> None:
    public = [Subscription(topics.answer_topic(camera), qos=1) for camera in ("gate", "yard")]
    await fleet.worker("w1")
    edge = await fleet.edge(interval_s=0.5)
    await fleet.until_answered(4)
    async with MqttBus(fleet.broker, client_id="listener", subscriptions=public) as listener:
        await listener.wait_connected(PATIENCE_S)
        asking = Asking.create(
            "gate", "Who is there?", AnswerType.TEXT, deadline_s=20, query_id="car", client="mallory"
        )
        messages = await replies(fleet.broker, asking)
        assert {(message.query_id, message.owner) for message in messages} == {("gate/@mallory/car", "client/mallory")}
        standing: dict[str, list[Answer]] = {"gate": [], "yard": []}
        async with asyncio.timeout(PATIENCE_S):
            while min(map(len, standing.values())) < 4:
                for event in await listener.receive_batch():
                    if not isinstance(event, Inbound):
                        continue
                    _, message = wire.decode_publish(event.topic, event.payload)
                    listener.acknowledge(event)
                    if isinstance(message, Answer) and message.question_id == "car" and not message.ad_hoc:
                        standing[message.camera].append(message)
        for camera, found in standing.items():
            assert {answer.owner for answer in found} == {"site/north"}
            assert {answer.query_id for answer in found} == {f"{camera}/{answer.frame}/car" for answer in found}
    await fleet.finish(edge)
    assert fleet.ledger.figures().conflicting_terminals == 0
