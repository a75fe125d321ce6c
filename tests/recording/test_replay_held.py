"""Verbatim replays and brokers that others use: what is retained stays, loops do not flood, nothing is an error."""

from __future__ import annotations

import asyncio
import io
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest

from latentbus.replay.held import retained_payloads
from latentbus.replay.options import ReplayOptions
from latentbus.replay.report import VerbatimReport
from latentbus.replay.run import replay_verbatim
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.node.runtime import Stop
from pipeline.recording.message import LoggedMessage
from schemas.errors import ConfigError
from tests.integration.conftest import PATIENCE_S
from tests.recording.messages import write_log
from tests.recording.test_replay import Listener, quiet
from tests.recording.test_replay_key_frames import keyed_messages

pytestmark = pytest.mark.broker


async def retained_on(broker: BrokerSettings) -> dict[str, bytes]:
    """What the broker retains."""
    found: dict[str, bytes] = {}
    async with MqttBus(broker, client_id="looks") as bus:
        await bus.wait_connected(PATIENCE_S)
        await bus.subscribe(Subscription("#"))
        await bus.subscribe(Subscription("nothing/here"))  # its answer comes after what is retained
        while bus.statistics().incoming_messages:
            found |= {event.topic: event.payload for event in await bus.receive_batch() if isinstance(event, Inbound)}
    return found


async def put(broker: BrokerSettings, topic: str, payload: bytes) -> None:
    async with MqttBus(broker, client_id="puts") as bus:
        await bus.wait_connected(PATIENCE_S)
        await bus.publish(topic, payload, qos=1, retain=True)


async def test_retained_key_frames_of_a_live_broker_stay_unless_it_is_told(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    messages = keyed_messages()
    options = ReplayOptions((write_log(tmp_path / "keyed.mcap", messages),), rate=math.inf)
    gate, yard = "lb/v2/key/main/gate", "lb/v2/key/main/yard"
    await put(broker_settings, gate, b"of today")
    console = quiet()

    report = await replay_verbatim(options, broker_settings, Stop(), console)

    assert await retained_on(broker_settings) == {gate: b"of today", yard: messages[2].payload}
    assert report.count.held == {gate: 3}
    assert report.count.published == len(messages) - 3
    assert isinstance(console.file, io.StringIO)
    assert f"retains something else on 1 topic of the log ({gate})" in console.file.getvalue()
    assert "--retained replaces it" in console.file.getvalue()
    report.print(console)
    assert "left out: 3 messages on 1 topic, " in console.file.getvalue()
    assert report.figures()["held"] == {gate: 3}

    told = await replay_verbatim(replace(options, retained=True), broker_settings, Stop(), quiet())

    assert (await retained_on(broker_settings))[gate] == messages[5].payload
    assert (told.count.held.total(), told.count.published) == (0, len(messages))


async def test_a_deletion_leaves_what_is_retained_too_and_the_same_again_is_no_change(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    messages = [
        LoggedMessage(1, "lb/v2/question/north", b"", 1, retain=True, sequence=0),
        LoggedMessage(2, "single", b"same", 1, retain=True, sequence=1),
        LoggedMessage(3, "other", b"free", 1, retain=True, sequence=2),
    ]
    await put(broker_settings, "lb/v2/question/north", b"{}")
    await put(broker_settings, "single", b"same")
    path = write_log(tmp_path / "log.mcap", messages)

    report = await replay_verbatim(ReplayOptions((path,), rate=math.inf), broker_settings, Stop(), quiet())

    assert report.count.held == {"lb/v2/question/north": 1}
    assert await retained_on(broker_settings) == {
        "lb/v2/question/north": b"{}", "single": b"same", "other": b"free",
    }  # fmt: skip


def test_what_is_retained_is_known_by_its_new_names() -> None:
    messages = [
        *keyed_messages(),
        LoggedMessage(1, "$local/x", b"", retain=True),
        LoggedMessage(1, "a/+", b"", 0, True),
    ]
    found = retained_payloads(messages, lambda message: replace(message, topic=f"{message.topic}-2"))
    assert found == {"lb/v2/key/main/gate-2": None, "lb/v2/key/main/yard-2": messages[2].payload}


@pytest.mark.parametrize("rate", [1.0, math.inf])
async def test_a_loop_over_a_log_of_no_length_is_bounded(
    broker_settings: BrokerSettings, tmp_path: Path, rate: float
) -> None:
    path = write_log(tmp_path / "one.mcap", [LoggedMessage(1, "house/a", b"x", 1)])
    listener, stop = Listener(broker_settings, "house/#"), Stop()
    options = ReplayOptions((path,), rate=rate, loop=True)
    async with listener.bus:
        await listener.bus.wait_connected(PATIENCE_S)
        begun_s = time.monotonic()
        playing = asyncio.create_task(replay_verbatim(options, broker_settings, stop, quiet()))
        await listener.until(3)
        stop.request()
        report: VerbatimReport = await asyncio.wait_for(playing, PATIENCE_S)
    # Rounds begin a second apart at the least, however long they take on a busy machine.
    assert 3 <= report.count.published <= 1 + (time.monotonic() - begun_s)


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize(
    "options", [{"include": ("house/z",)}, {"exclude": ("#",)}, {"include": ("$local/latent/gate",)}]
)
async def test_an_empty_selection_is_a_typed_error(
    broker_settings: BrokerSettings, tmp_path: Path, options: dict[str, tuple[str, ...]], loop: bool
) -> None:
    messages = [LoggedMessage(1, "house/a", b"x", 1), LoggedMessage(2, "$local/latent/gate", b"y", sequence=1)]
    chosen = ReplayOptions((write_log(tmp_path / "a.mcap", messages),), **options, loop=loop)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no message of this part of the log is selected"):
        await asyncio.wait_for(replay_verbatim(chosen, broker_settings, Stop(), quiet()), PATIENCE_S)
