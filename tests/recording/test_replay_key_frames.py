"""Verbatim replays of frames that were coded given a key frame, over a real broker."""

from __future__ import annotations

import asyncio
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from analysis.replay.selection import Moment
from latentbus.replay.options import ReplayOptions
from latentbus.replay.run import replay_verbatim
from pipeline.config.broker_settings import BrokerSettings
from pipeline.node.runtime import Stop
from pipeline.recording.message import LoggedMessage
from tests.integration.conftest import PATIENCE_S
from tests.recording.messages import write_log
from tests.recording.recorded_frames import PREDICTING, FrameLog, ref
from tests.recording.test_replay import Listener, quiet

pytestmark = pytest.mark.broker


def keyed_messages() -> list[LoggedMessage]:
    """Three key frames of one camera and one of another, and frames that were coded given them."""
    log, car = FrameLog(tables=PREDICTING), ref("car", 9_000)
    log.key_frame(1.0, "gate", 1)
    log.open(1.0, "gate", 1, car, key=1)
    log.key_frame(2.0, "yard", 7)
    log.key_frame(2.1, "gate", 2)
    log.open(3.0, "gate", 3, car, key=2)
    log.key_frame(4.0, "gate", 4)
    log.open(5.0, "gate", 5, car, key=4)
    return log.messages


async def test_verbatim_from_the_middle_begins_with_the_key_frames_that_were_retained(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    messages = keyed_messages()
    path = write_log(tmp_path / "keyed.mcap", messages)
    listener = Listener(broker_settings, "lb/v2/#")
    stop = Stop()
    options = ReplayOptions((path,), rate=50.0, start=Moment(offset_s=1.5), cameras={"gate": "gate-2"}, loop=True)
    async with listener.bus:
        await listener.bus.wait_connected(PATIENCE_S)
        playing = asyncio.create_task(replay_verbatim(options, broker_settings, stop, quiet()))
        heard = await listener.until(10)
        stop.request()
        report = await asyncio.wait_for(playing, PATIENCE_S)
    # The second time round the broker retains the last key frame of the part, so both come again.
    expected = [(m.topic.replace("gate", "gate-2"), m.payload, 1, "/key/" in m.topic, None) for m in messages[2:]]
    assert heard[:10] == expected * 2
    assert report.count.retained >= 4
    assert report.count.published >= 10
    said = io.StringIO()
    report.print(Console(file=said, width=300))
    assert f"{report.count.retained} of them are key frames from before the part" in said.getvalue()


async def test_key_frames_are_selected_as_any_topic_and_who_leaves_them_out_is_told(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    messages = keyed_messages()
    path = write_log(tmp_path / "keyed.mcap", messages)
    listener = Listener(broker_settings, "lb/v2/#")
    part = ReplayOptions((path,), rate=math.inf, start=Moment(offset_s=1.5), include=("lb/v2/+/main/gate",))
    console = quiet()
    async with listener.bus:
        await listener.bus.wait_connected(PATIENCE_S)
        await replay_verbatim(part, broker_settings, Stop(), console)
        heard = await listener.until(4)
        assert [payload for _, payload, *_ in heard] == [message.payload for message in messages[3:]]
        assert isinstance(console.file, io.StringIO)
        assert "key frames of" not in console.file.getvalue()

        opens = replace(part, include=("lb/v2/open/#",))
        report = await replay_verbatim(opens, broker_settings, Stop(), console)
        heard = await listener.until(6)
        assert [payload for _, payload, *_ in heard[4:]] == [messages[4].payload, messages[6].payload]
    assert (report.count.published, report.count.retained) == (2, 0)
    assert "key frames of gate, yard are left out by --topic or --exclude" in console.file.getvalue()
