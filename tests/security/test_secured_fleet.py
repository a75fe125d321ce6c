"""Real edge, worker, client, dashboard and recorder over the secured broker, and what their logs say."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from broker_config.fleet_folder import FleetFolder
from broker_config.launcher import LocalBroker
from broker_config.secured import secured_broker
from cloud_workers.node import run_worker
from edge_nodes.node import run_edge
from latentbus.client import Client
from latentbus.client.ask import Asking
from latentbus.fleet.client import FleetClient, reading
from latentbus.fleet.ledger import OutcomeLedger
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.logs import configure_logging
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings, load_settings
from pipeline.node.runtime import Stop
from schemas.errors import NotAuthorizedError
from schemas.messages import Answer
from schemas.types import AnswerType, Outcome
from tests.bus.support import FAST
from tests.integration.tiny_fleet import write_models_dir

pytestmark = pytest.mark.broker
PATIENCE_S = 40.0
LONGEST_LOG_LINE = 2_000
WINDOW_BYTES = 12
ENOUGH_FRAMES = 4


@pytest.fixture
def debug_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """Everything that is logged, down to debug, as lines."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logging("debug", json=True)
    yield lambda: written.getvalue().splitlines()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@asynccontextmanager
async def process(main: Callable[[Stop], Awaitable[int]]) -> AsyncIterator[Stop]:
    """An edge or a worker, ready inside and drained at the end."""
    stop = Stop(drain_timeout_s=20)
    task = asyncio.ensure_future(main(stop))
    ready = asyncio.create_task(stop.ready.wait())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if task.done():
            task.result()
        yield stop
        stop.request()
        assert await task == 0
    finally:
        ready.cancel()
        task.cancel()
        await asyncio.gather(task, ready, return_exceptions=True)


def said_of(payload: bytes) -> set[str]:
    """Ways in which bytes could appear in a log, by a part that is long enough to be no accident."""
    middle = payload[len(payload) // 3 :][:WINDOW_BYTES]
    return {
        payload.hex()[-2 * WINDOW_BYTES :], middle.hex(), repr(middle)[2:-1], base64.b64encode(payload).decode()[:16],
        str(list(middle))[1:-1], json.dumps(middle.decode("latin-1"))[1:-1],
    }  # fmt: skip


async def test_a_secured_fleet_answers_and_its_logs_keep_quiet(
    fleet: FleetFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    debug_logs: Callable[[], list[str]],
) -> None:
    monkeypatch.setenv("LATENTBUS_MODELS_DIR", str(write_models_dir(tmp_path / "models")))
    taped: list[Inbound] = []
    ledger = OutcomeLedger()
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(secured_broker(fleet.broker))

        def settings(name: str) -> LatentbusSettings:
            loaded = load_settings(fleet.device(name) / "settings.yaml")
            return loaded.model_copy(update={"broker": loaded.broker.model_copy(update={"port": broker.port})})

        edge = EdgeSettings(
            site="north",
            cameras={"gate": CameraSettings(source="test:1", interval_s=0.3, questions=("car",))},
            questions={
                "car": QuestionSettings(text="Is there a car?", answer_type=AnswerType.TEXT, deadline_ms=30_000)
            },
            state_dir=tmp_path / "state",
        )
        edge_settings = settings("north").model_copy(update={"edge": edge})
        screen = FleetClient(settings("screen").broker, "any", ledger.observe)
        tape = MqttBus(settings("tape").broker, client_id="tape", subscriptions=[Subscription("lb/v2/#", qos=1)])
        asking = Asking.create("gate", "Is there a bus?", AnswerType.TEXT, deadline_s=20, client="alice")
        asker = Client(settings("alice").broker, name=asking.client)
        await stack.enter_async_context(reading(screen))
        await stack.enter_async_context(tape)
        await tape.wait_connected(PATIENCE_S)

        async def record() -> None:
            while True:
                for event in await tape.receive_batch():
                    if isinstance(event, Inbound):
                        taped.append(event)
                        tape.acknowledge(event)

        recording = asyncio.create_task(record())

        def frames() -> list[bytes]:
            """Opens and chunks that are long enough to be recognised in a log."""
            payloads = [event.payload for event in taped if "/open/" in event.topic or "/chunk/" in event.topic]
            return [payload for payload in payloads if len(payload) > 2 * WINDOW_BYTES]

        def taped_enough() -> bool:
            replied = any(event.topic == f"lb/v2/reply/alice/gate/{asking.message.query_id}" for event in taped)
            return replied and len(frames()) >= ENOUGH_FRAMES

        try:
            async with asyncio.timeout(PATIENCE_S):
                await stack.enter_async_context(process(lambda stop: run_worker(settings("w1"), stop)))
                async with process(lambda stop: run_edge(edge_settings, stop)):
                    both = {"edge/north", "worker/w1"}
                    assert await screen.wait_until(lambda: both <= screen.online.keys(), PATIENCE_S)
                    async with asker:
                        answers = [message async for message in asker.follow(asking.camera, asking.message)]
                    while not taped_enough():
                        await screen.wait_change()
        finally:
            recording.cancel()
            await asyncio.gather(recording, return_exceptions=True)

    assert isinstance(answers[-1], Answer)
    # The words of a random model need not have the form of an answer.
    formless = answers[-1].outcome is Outcome.DEGRADED and answers[-1].reason.startswith("form:")
    assert answers[-1].outcome is Outcome.ANSWERED or formless
    assert answers[-1].worker == "w1"
    seen = {event.topic for event in taped}
    assert {
        "lb/v2/open/main/gate", "lb/v2/chunk/w1/gate", "lb/v2/control/gate", "lb/v2/answer/gate",
        "lb/v2/question/north/car", "lb/v2/ask/gate/alice", "lb/v2/status/edge/north", "lb/v2/status/worker/w1",
        "lb/v2/load/main/w1",
    } <= seen  # fmt: skip

    lines = debug_logs()
    text = "\n".join(lines)
    ours = [json.loads(line) for line in lines if line.startswith("{")]
    assert sum(line["event"] == "connected" for line in ours) >= 4
    # No process asked for more than its role gives it, but for two looks around that a secured fleet does not need.
    refused = [line for line in ours if "not authorized" in json.dumps(line).lower()]
    assert {(line["event"], line["level"]) for line in refused} <= {
        ("older peers would not be noticed", "debug"), ("cameras of other sites are not looked at", "debug"),
    }  # fmt: skip
    assert text.lower().count("not authorized") == len(refused)
    assert "message dropped" not in text
    assert not [part for frame in frames() for part in said_of(frame) if part in text]
    assert max(map(len, lines)) < LONGEST_LOG_LINE
    assert "PRIVATE KEY" not in text
    for key in fleet.path.rglob("*.key"):
        assert key.read_text().splitlines()[1] not in text


async def test_a_password_is_in_no_log(debug_logs: Callable[[], list[str]]) -> None:
    secret = "hunter2-and-more"
    with LocalBroker(anonymous=False) as broker:
        settings = BrokerSettings(port=broker.port, username="alice", password=SecretStr(secret))
        async with MqttBus(settings, client_id="alice", backoff=FAST) as bus:
            with pytest.raises(NotAuthorizedError) as refused:
                await bus.wait_connected(PATIENCE_S)
            async with asyncio.timeout(PATIENCE_S):
                while bus.statistics().connection_failures < 2:  # noqa: ASYNC110 - a failed attempt sets no event
                    await asyncio.sleep(0)
        written = broker.log_path.read_text()
    logged = debug_logs()
    assert logged
    everything: list[Any] = [*logged, written, refused.value, repr(settings), settings.model_dump_json()]
    assert not [entry for entry in everything if secret in str(entry)]
