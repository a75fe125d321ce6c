"""Edge, workers and client over a real broker: every question ends once, whatever else is on the wire."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgpack
import pytest
from structlog.testing import capture_logs

from latentbus.client import Client
from latentbus.client.ask import Asking
from latentbus.demo.ledger import DemoLedger
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from schemas import topics
from schemas.messages import Answer, BinaryMessage, Kind
from schemas.topics import Family
from schemas.types import AnswerType, Outcome
from tests.integration.conftest import PATIENCE_S, Fleet

pytestmark = pytest.mark.broker


def outcomes(ledger: DemoLedger) -> Counter[Outcome | None]:
    return Counter(row.outcome for row in ledger.opened)


async def test_every_query_ends_in_one_answer_and_workers_share(fleet: Fleet) -> None:
    workers = [await fleet.worker("w1"), await fleet.worker("w2")]
    edge = await fleet.edge()
    await fleet.until_answered(16)
    await fleet.finish(edge)

    figures = fleet.ledger.figures()
    assert figures.undecided == 0
    assert outcomes(fleet.ledger) == {Outcome.ANSWERED: figures.questions}
    assert figures.conflicting_terminals == 0
    assert set(figures.answers_by_worker) == {"w1", "w2"}
    # Thresholds of the tiny codec are out of reach before the whole latent: each query was refined up to it.
    assert figures.refined_share == 1.0
    assert {row.latents for row in fleet.ledger.opened} == {8}
    assert all(row.first_s < row.decided_s for row in fleet.ledger.opened if row.first_s and row.decided_s)
    assert fleet.ledger.wire_bytes > sum(frame.wire_bytes for frame in fleet.ledger.frames.values()) > 0
    assert [await worker.drain() for worker in workers] == [0, 0]


async def test_a_worker_that_vanishes_costs_no_answer(fleet: Fleet) -> None:
    lost = await fleet.worker("w1")
    edge = await fleet.edge(interval_s=0.3)
    await fleet.until_answered(8)
    await fleet.worker("w2")
    lost.task.cancel()
    await asyncio.gather(lost.task, return_exceptions=True)
    seen = len(fleet.ledger.opened)
    await fleet.until_answered(seen + 8)
    await fleet.finish(edge)
    found = outcomes(fleet.ledger)
    assert found[None] == found[Outcome.FAILED] == found[Outcome.EXPIRED] == 0
    assert fleet.ledger.figures().answers_by_worker["w2"] > 0


async def ask(broker: BrokerSettings, asking: Asking) -> list[Answer]:
    async with Client(broker, name=asking.client) as client, asyncio.timeout(PATIENCE_S):
        told = client.follow(asking.camera, asking.message, check=False)
        return [message async for message in told if isinstance(message, Answer)]


async def test_a_question_of_a_client_is_answered_and_again_under_its_key(fleet: Fleet) -> None:
    await fleet.worker("w1")
    await fleet.edge(interval_s=30.0)
    asking = Asking.create("gate", "Is there a red bus?", AnswerType.TEXT, deadline_s=20, query_id="visitor-1")
    answers = await ask(fleet.broker, asking)
    final = answers[-1]
    # The words of a random model need not have the form of an answer.
    assert final.outcome is Outcome.ANSWERED or final.reason.startswith("form:")
    assert final.latents == 8
    assert {answer.outcome for answer in answers[:-1]} == {None}
    again = await ask(fleet.broker, asking)
    assert [(answer.text, answer.outcome) for answer in again] == [(final.text, final.outcome)]


def bad_payloads(family: Family) -> dict[str, bytes]:
    """One payload of each way to be wrong on a family's topics."""
    oversize = b"x" * 30_000
    if issubclass(topics.MESSAGES[family][0], BinaryMessage):
        version = msgpack.packb([99, int(Kind.OPEN), 1, 2, 3])
    else:
        version = b'{"v": 99}'
    return {"malformed": b"\xc1 garbage \x00\xff", "version": version, "oversize": oversize}


LEVELS = {
    "pool": "main", "camera": "gate", "worker": "w1", "site": "north", "question_id": "car", "client": "visitor",
    "query_id": "q", "kind": "worker", "id": "w1", "request_id": "r",
}  # fmt: skip
REPETITIONS = 12
NOT_LISTENED_TO = {topics.Family.RING, topics.Family.PICTURES, topics.Family.ERASE}
"""Requests for events, where no camera keeps any."""


async def test_bad_input_on_every_topic_stops_nothing_and_loses_no_answer(fleet: Fleet) -> None:
    with capture_logs() as logs:
        worker = await fleet.worker("w1")
        edge = await fleet.edge(interval_s=0.3)
        await fleet.until_answered(4)
        async with MqttBus(fleet.broker, client_id="stranger", subscriptions=[]) as stranger:
            await stranger.wait_connected(PATIENCE_S)
            for _ in range(REPETITIONS):
                for family, route in topics.ROUTES.items():
                    topic = "/".join((topics.ROOT, family, *(LEVELS[level] for level in route.levels)))
                    for payload in bad_payloads(family).values():
                        await stranger.publish(topic, payload, qos=1)
        before = sum(row.outcome is not None for row in fleet.ledger.opened)
        await fleet.until_answered(before + 8)
        await fleet.finish(edge)
        assert await worker.drain() == 0

    found = outcomes(fleet.ledger)
    assert found[Outcome.ANSWERED] == found.total()
    dropped = Counter(
        (line["log_level"], line["kind"], line["count"]) for line in logs if line["event"] == "message dropped"
    )
    kinds = {kind for _, kind, _ in dropped}
    for family, route in topics.ROUTES.items():
        if not {topics.Role.EDGE, topics.Role.WORKER} & set(route.receivers) or family in NOT_LISTENED_TO:
            continue
        for reason in ("malformed", "version", "oversize"):
            assert f"{family}/{reason}" in kinds, f"{family}/{reason} not in {sorted(kinds)}"
    # The first and the tenth of each kind are logged, by each process that reads the topic, and the counts at the end.
    readers = 3
    assert all(count in (1, 10) for _, _, count in dropped)
    assert max(dropped.values()) <= readers
    totals = [line["counts"] for line in logs if line["event"] == "messages dropped in all"]
    assert any(counts.get("open/oversize") == REPETITIONS for counts in totals)
    assert any(counts.get("control/version") == REPETITIONS for counts in totals)
