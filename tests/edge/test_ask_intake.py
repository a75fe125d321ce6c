"""Asks that no edge can take, from foreign clients on a real broker: each hears why, once, and nobody else waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import ClientBudgetSettings, EdgeSettings
from pipeline.config.settings import LatentbusSettings
from schemas import topics, wire
from schemas.messages import Answer, Ask, QueryOutcome, Receipt
from schemas.types import Outcome
from tests.edge.running import Listener, listening, running
from tests.edge.support import ScriptedWorker
from tests.edge.test_node import answer_everything, beside

pytestmark = [pytest.mark.broker, pytest.mark.timeout(60)]


@pytest.fixture
def settings(broker_settings: BrokerSettings, codec_dir: Path) -> LatentbusSettings:
    edge = EdgeSettings(
        site="depot",
        codec=codec_dir,
        cameras={"gate": CameraSettings(source="test:1", interval_s=60)},
        uplink_kbps=64,
        client_budget=ClientBudgetSettings(asks_per_s=0.01, burst_asks=10),
    )
    return LatentbusSettings(broker=broker_settings, edge=edge)


async def publish(
    client: Listener, name: str, payload: bytes, *, reply: str | None = None, correlation_data: bytes | None = None
) -> None:
    await client.bus.publish(
        topics.ask_topic("gate", name), payload, qos=1, response_topic=reply, correlation_data=correlation_data
    )


async def test_a_client_whose_ask_cannot_be_read_is_told_where_it_listens(
    settings: LatentbusSettings, broker_settings: BrokerSettings
) -> None:
    async with listening(broker_settings, "lb/v2/reply/alice/+/+", "lb/v2/outcome/+") as client, running(settings):
        await publish(client, "alice", b"{", reply="lb/v2/reply/alice/gate/q1", correlation_data=b"7")
        inbound, receipt = await client.next(Receipt)
        assert isinstance(receipt, Receipt)
        assert (receipt.about, receipt.accepted, inbound.correlation_data) == ("", False, b"7")
        assert "is not JSON" in receipt.reason
        # Too much to be kept: refused, and not sent back.
        good = wire.encode(Ask(query_id="q2", text="A car?"))
        await publish(client, "alice", good, reply="lb/v2/reply/alice/gate/q2", correlation_data=bytes(129))
        inbound, receipt = await client.next(Receipt)
        assert isinstance(receipt, Receipt)
        assert (receipt.about, receipt.accepted, inbound.correlation_data) == ("q2", False, None)
        # Without a reply topic of its own.
        await publish(client, "alice", b'{"query_id":"q3","text":"A car?","colour":1}', reply="lb/v2/reply/bob/gate/q3")
        _, outcome = await client.next(QueryOutcome)
        assert isinstance(outcome, QueryOutcome)
        assert (outcome.query_id, outcome.owner, outcome.outcome) == ("gate/@alice/q3", "client/alice", Outcome.FAILED)
        assert "colour" in outcome.reason


async def test_a_flood_of_one_client_on_a_thin_uplink_keeps_another_one_waiting_no_longer(
    settings: LatentbusSettings, broker_settings: BrokerSettings
) -> None:
    async with (
        listening(broker_settings, "lb/v2/reply/alice/+/+") as client,
        listening(broker_settings) as mallory,
        ScriptedWorker(broker_settings) as worker,
        running(settings) as edge,
        beside(answer_everything(worker)),
    ):
        for number in range(1_500):
            ask = Ask(query_id=f"q{number}", text="A car?", deadline_ms=5_000)
            await publish(mallory, "mallory", wire.encode(ask) if number % 2 else b"no question")
        question = Ask(query_id="mine", text="A car?", deadline_ms=10_000)
        await publish(client, "alice", wire.encode(question), reply="lb/v2/reply/alice/gate/mine")
        await edge.watcher.until(lambda: any(end.query_id == "gate/@alice/mine" for end in edge.watcher.ended))
        (end,) = [end for end in edge.watcher.ended if end.query_id == "gate/@alice/mine"]
        assert end.outcome is Outcome.ANSWERED
        asked = {end.query_id for end in edge.watcher.ended if end.question.client == "mallory"}
        assert len(asked) <= 10
        flood = sum(sent.wire_bytes for sent in edge.watcher.sent if sent.label in ("puback", "outcome"))
        assert flood < 1_500 * 78 / 3
        # Asked again, by who knows no worker: the edge has the answer, and says it.
        await publish(client, "alice", wire.encode(question), reply="lb/v2/reply/alice/gate/mine")
        _, answered = await client.next(Answer)
        assert isinstance(answered, Answer)
        assert answered.outcome is Outcome.ANSWERED
