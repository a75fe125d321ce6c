"""``latentbus ask`` reads the statuses of the fleet: it knows the cameras, and why an answer does not come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from latentbus.client.ask import Asking, ask_and_print, print_answers
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.node.runtime import Stop
from pipeline.protocol.fleet_view import FleetView
from pipeline.protocol.settings import ClientProtocolSettings
from schemas import topics, wire
from schemas.errors import ConfigError, NotAuthorizedError
from schemas.messages import Answer, QueryOutcome, Receipt, Status
from schemas.types import AnswerType, FrameId, Outcome

EDGE = Status(kind="edge", id="north", boot=1, online=True, pool="p", fingerprint="00000001", cameras=("gate", "dock"))
WORKER = Status(kind="worker", id="w1", boot=1, online=True, pool="p", fingerprint="00000001", capacity=8)


def view(*statuses: Status) -> FleetView:
    fleet = FleetView()
    fleet.workers_are_seen = True
    for status in statuses:
        fleet.observe(status)
    return fleet


def changed(status: Status, **values: Any) -> Status:
    return status.model_copy(update=values)


@pytest.mark.parametrize(
    ("statuses", "problem"),
    [
        ([EDGE, WORKER], None),
        ([], "no edge that is online serves camera gate; cameras on this broker: none"),
        ([changed(EDGE, cameras=("yard",))], "cameras on this broker: yard"),
        ([EDGE, changed(EDGE, online=False, cameras=(), fingerprint="")], "offline: north"),
        ([EDGE], "no worker of pool p, which edge north asks, is online"),
        ([EDGE, WORKER, changed(WORKER, online=False, pool=None)], "no worker of pool p"),
        ([EDGE, changed(WORKER, pool="other")], "no worker of pool p"),
        ([EDGE, changed(WORKER, fingerprint="00000002")], "has codec 00000001, the workers of pool p have 00000002"),
        ([EDGE, changed(WORKER, fingerprint="00000002"), changed(WORKER, id="w2")], None),
        ([EDGE, changed(WORKER, capacity=0)], "every worker of pool p is draining"),
        ([EDGE, WORKER, changed(EDGE, id="south")], "edges north and south both serve camera gate"),
    ],
)
def test_the_cause_is_named(statuses: list[Status], problem: str | None) -> None:
    found = view(*statuses).problem("gate")
    assert (found is None) == (problem is None)
    assert (problem or "") in (found or "")


def test_of_workers_that_are_not_seen_nothing_is_said() -> None:
    fleet = view(EDGE)
    fleet.workers_are_seen = False
    assert fleet.problem("gate") is None


@asynccontextmanager
async def retained(broker: BrokerSettings, *statuses: Status) -> AsyncIterator[MqttBus]:
    async with MqttBus(
        broker, client_id="fleet", subscriptions=[Subscription(topics.ask_filter("gate"), qos=1)]
    ) as bus:
        await bus.wait_connected(10)
        for status in statuses:
            await bus.publish(topics.status_topic(status.kind, status.id), wire.encode(status), qos=1, retain=True)
        yield bus
        for status in statuses:
            await bus.publish(topics.status_topic(status.kind, status.id), b"", qos=1, retain=True)


def asking(camera: str = "gate", deadline_s: float = 20) -> Asking:
    return Asking.create(camera, "a car?", AnswerType.YES_NO, deadline_s=deadline_s, query_id="q-1", client="alice")


async def test_a_camera_that_nobody_serves_fails_at_once_with_the_list(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbus.client.ask.SETTINGS", ClientProtocolSettings(status_patience_s=0.2))
    published: list[str] = []

    async def publish(self: MqttBus, topic: str, payload: bytes, **options: Any) -> None:
        published.append(topic)

    async with retained(broker_settings, EDGE, WORKER):
        with monkeypatch.context() as patched:
            patched.setattr(MqttBus, "publish", publish)
            with pytest.raises(ConfigError, match=r"camera nosuch; cameras on this broker: dock, gate; --no-check"):
                await ask_and_print(broker_settings, asking("nosuch"), Stop(), as_json=False)
    assert published == []


async def expire(bus: MqttBus) -> None:
    """Answer the next question as an edge without a worker does."""
    while True:
        for event in await bus.receive_batch():
            if getattr(event, "topic", "") == topics.ask_topic("gate", "alice"):
                outcome = QueryOutcome(
                    query_id="gate/@alice/q-1", owner="client/alice", camera="gate", frame=FrameId(1, 1),
                    question_id="q-1", outcome=Outcome.EXPIRED, reason="deadline while opened",
                )  # fmt: skip
                await bus.publish(topics.outcome_topic("gate"), wire.encode(outcome), qos=1)
                return


async def test_without_a_worker_the_pool_is_named_beside_the_outcome(
    broker_settings: BrokerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    async with retained(broker_settings, EDGE) as bus:
        edge = asyncio.create_task(expire(bus))
        assert await ask_and_print(broker_settings, asking(), Stop(), as_json=True) == 1
        await edge
    shown = capsys.readouterr()
    (line,) = [line for line in shown.out.splitlines() if line.startswith("{")]
    assert json.loads(line)["outcome"] == "expired"
    assert "latentbus: no worker of pool p, which edge north asks, is online" in shown.err


async def test_a_client_that_may_not_read_the_workers_is_told_so(
    broker_settings: BrokerSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe = MqttBus.subscribe

    async def refuse(self: MqttBus, subscription: Subscription, timeout_s: float = 10.0) -> None:
        if "/worker/" in subscription.filter:
            raise NotAuthorizedError(subscription.filter)
        await subscribe(self, subscription, timeout_s)

    monkeypatch.setattr(MqttBus, "subscribe", refuse)
    async with retained(broker_settings, EDGE) as bus:
        edge = asyncio.create_task(expire(bus))
        assert await ask_and_print(broker_settings, asking(), Stop(), as_json=True) == 1
        await edge
    assert "may not read the status of workers" in capsys.readouterr().err


async def test_a_question_that_the_edge_cannot_read_ends_with_its_reason(broker_settings: BrokerSettings) -> None:
    async def refuse(bus: MqttBus) -> None:
        while True:
            for event in await bus.receive_batch():
                if isinstance(event, Inbound) and event.response_topic:
                    receipt = Receipt(site="north", about="q-1", accepted=False, reason="options: unknown key")
                    await bus.publish(event.response_topic, wire.encode(receipt), qos=1)
                    return

    gone = topics.status_topic("worker", "w-7")
    async with retained(broker_settings, EDGE, WORKER) as bus:
        edge = asyncio.create_task(refuse(bus))
        await bus.publish(gone, b"", qos=1, retain=True)
        with pytest.raises(ConfigError, match="edge north does not take it: options: unknown key"):
            await ask_and_print(broker_settings, asking(), Stop(), as_json=True)
        await edge


async def test_no_check_asks_all_the_same(broker_settings: BrokerSettings, capsys: pytest.CaptureFixture[str]) -> None:
    async with retained(broker_settings) as bus:
        edge = asyncio.create_task(expire(bus))
        assert await ask_and_print(broker_settings, asking(), Stop(), as_json=True, check=False) == 1
        await edge
    assert "no edge that is online serves camera gate" in capsys.readouterr().err


def test_a_choice_is_asked_with_its_options() -> None:
    asking = Asking.create("gate", "which?", AnswerType.CHOICE, deadline_s=20, options=("a car", "a bus"))
    assert asking.message.options == ("a car", "a bus")
    with pytest.raises(ConfigError, match=r"^--option: answer type choice needs two or more"):
        Asking.create("gate", "which?", AnswerType.CHOICE, deadline_s=20)
    with pytest.raises(ConfigError, match=r"^--option: options belong to answer type choice"):
        Asking.create("gate", "a car?", AnswerType.YES_NO, deadline_s=20, options=("a", "b"))


def test_a_question_about_the_past_is_asked_with_an_age_or_a_frame() -> None:
    made = Asking.create("gate", "Was it open?", AnswerType.YES_NO, deadline_s=5, ago_s=5.2)
    assert (made.message.ago_ms, made.message.frame) == (5_200, None)
    made = Asking.create("gate", "What colour?", AnswerType.WORD, deadline_s=5, frame="1a2b3c4d-17")
    assert (made.message.ago_ms, made.message.frame) == (None, FrameId(0x1A2B3C4D, 17))


@pytest.mark.parametrize(
    ("moment", "where", "problem"),
    [
        ({"frame": "17"}, "--frame", "'17' is no frame: boot id and sequence number, as in 1a2b3c4d-17"),
        (
            {"frame": "1a2b3c4d-9999999999"},
            "--frame",
            "frame 1a2b3c4d-9999999999 has a sequence number over 429",
        ),
        ({"ago_s": 1.0, "frame": "1a2b3c4d-17"}, "--ago", "leave it out, or --frame: each of them says which frame"),
        ({"ago_s": float("nan")}, "--ago", "nan is no finite number"),
        ({"ago_s": -1.0}, "--ago", "-1000 "),
        ({"ago_s": 90_000.0}, "--ago", "90000000 "),
    ],
)
def test_a_moment_that_cannot_be_asked_about_names_its_option(moment: dict[str, Any], where: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Asking.create("gate", "Was it open?", AnswerType.YES_NO, deadline_s=5, **moment)
    assert raised.value.where == where
    assert raised.value.problem.startswith(problem)


async def test_the_age_and_the_frame_of_an_answer_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(
        query_id="gate/@me/q", owner="client/me", camera="gate", frame=FrameId(0x1A2B3C4D, 17), attempt=1,
        question_id="q", worker="w-1", outcome=Outcome.ANSWERED, text="yes", score=0.9, latents=8, payload_bytes=20,
        looks=1, age_ms=5_200,
    )  # fmt: skip

    async def answers() -> AsyncIterator[Answer]:
        yield answer

    assert await print_answers(answers(), as_json=False) is Outcome.ANSWERED
    assert "frame 1a2b3c4d-17, 5.2 s old" in capsys.readouterr().out
