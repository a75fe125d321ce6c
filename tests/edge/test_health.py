"""What the watchdog of an edge is told: progress of its cameras and its encoder, not of a timer."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_nodes import health
from edge_nodes.encoder import EncoderThread, OnnxEncoder
from edge_nodes.health import HELD_LIMIT_S, edge_health
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.settings import LatentbusSettings
from tests.edge.running import running
from tests.edge.support import grey
from tests.edge.test_capture import Rig


@pytest.fixture
async def encoder(codec_dir: Path) -> EncoderThread:
    return EncoderThread(OnnxEncoder(codec_dir))


async def test_a_site_is_stuck_when_no_camera_comes_back_from_its_library(encoder: EncoderThread) -> None:
    rigs = [Rig(), Rig()]
    for rig in rigs:
        rig.source.open_blocks.clear()
    running = [asyncio.create_task(rig.capture.run()) for rig in rigs]
    captures = [rig.capture for rig in rigs]
    for rig in rigs:
        await rig.source.entered["open"].wait()
        rig.clock.time_s += HELD_LIMIT_S + 1
    found = edge_health(captures, encoder, connected=True)
    assert found.stuck == f"no camera has come back from being opened or closed for {HELD_LIMIT_S + 1:.0f} s"
    assert found.status == "0 of 2 cameras up, connected"
    # One that works is reason enough to go on: a restart would cost it its frames.
    rigs[1].source.open_blocks.set()
    await rigs[1].source.entered["read"].wait()
    found = edge_health(captures, encoder, connected=False)
    assert found.stuck is None
    assert found.status == "1 of 2 cameras up, not connected"
    for task in running:
        task.cancel()
    rigs[0].source.open_blocks.set()
    await asyncio.gather(*running, return_exceptions=True)
    await encoder.close()


async def test_a_source_that_waits_for_its_next_frame_is_not_stuck(encoder: EncoderThread) -> None:
    rig = Rig()
    rig.source.read_blocks.clear()
    task = asyncio.create_task(rig.capture.run())
    await rig.source.entered["read"].wait()
    rig.clock.time_s += 10 * HELD_LIMIT_S  # a folder that nobody puts a picture into
    assert rig.capture.held_s() == 0
    assert edge_health([rig.capture], encoder, connected=True).stuck is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await encoder.close()


async def test_an_encoder_that_does_not_come_back_is_stuck(
    encoder: EncoderThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    plain = encoder._encoder.encode

    def slow(frames: list[NDArray[np.uint8]]) -> object:
        entered.set()
        leave.wait()
        return plain(frames)

    encoder._encoder.encode = slow  # type: ignore[method-assign,assignment]
    assert encoder.busy_s == 0
    encoding = asyncio.create_task(encoder.encode(grey(7)))
    await asyncio.to_thread(entered.wait)
    assert edge_health([], encoder, connected=True).stuck is None
    monkeypatch.setattr(health, "ENCODE_LIMIT_S", -1.0)
    assert "a frame is being encoded" in (edge_health([], encoder, connected=True).stuck or "")
    leave.set()
    await encoding
    await encoder.close()


@pytest.mark.broker
async def test_a_running_edge_pings_the_watchdog(
    broker_settings: BrokerSettings, codec_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = LatentbusSettings(
        broker=broker_settings,
        edge=EdgeSettings(site="depot", codec=codec_dir, cameras={"gate": CameraSettings(source="test:1")}),
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        heard: list[str] = []
        changed = asyncio.Event()

        def listen() -> None:
            heard.extend(systemd.recv(4096).decode().split("\n"))
            changed.set()

        async def until(state: str) -> None:
            while state not in heard:
                changed.clear()
                await changed.wait()

        asyncio.get_running_loop().add_reader(systemd, listen)
        async with running(settings) as edge:
            await until("READY=1")
            await until("WATCHDOG=1")
            assert heard.index("READY=1") < heard.index("WATCHDOG=1"), "it is watched from then on"
            await until("STATUS=1 of 1 camera up, connected")
            assert await edge.end() == 0
            await until("STOPPING=1")
        asyncio.get_running_loop().remove_reader(systemd)
