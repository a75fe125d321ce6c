"""Against a real RTSP server, GStreamer's: what cameras of the network do all day."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_nodes.sources import CapturedFrame, WatchedSource, make_source
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from schemas.errors import SourceError
from schemas.types import SourceReason
from tests.edge.camera_servers import PASSWORD, USER
from tests.edge.support import ScriptedWorker
from tests.edge.test_blocked_sources import edge_process

SYSTEM_PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("rtsp_server.py")
NEEDED = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert all(map(Gst.ElementFactory.find, ("x264enc", "rtph264pay", "jpegenc", "rtpjpegpay", "videotestsrc")))
"""


@pytest.fixture(scope="module", autouse=True)
def gstreamer() -> None:
    if (
        not Path(SYSTEM_PYTHON).exists()
        or subprocess.run((SYSTEM_PYTHON, "-c", NEEDED), capture_output=True).returncode
    ):
        pytest.skip("GStreamer's RTSP server is not installed: see scripts/test_extras.sh")


class Server:
    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def url(self, password: str = PASSWORD) -> str:
        return f"rtsp://{USER}:{password}@127.0.0.1:{self.port}/live"

    def change_codec(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("jpeg\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "changed\n"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def start(port: int = 0) -> Server:
    process = subprocess.Popen(
        (SYSTEM_PYTHON, str(SERVER), str(port), USER, PASSWORD),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline().split()
    assert said[:1] == ["port"]
    return Server(process, int(said[1]))


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    """Servers of the test, the first one running; all are ended."""
    running = [start()]
    yield running
    for server in running:
        if server.process.poll() is None:
            server.kill()


def source_of(url: str, *, interval_s: float = 1.0, stall_s: float = 2.0) -> WatchedSource:
    settings = CameraSettings(source=url, interval_s=interval_s, stall_s=stall_s)
    source = make_source("gate", settings)
    assert isinstance(source, WatchedSource)
    return source


@asynccontextmanager
async def opened(source: WatchedSource) -> AsyncIterator[WatchedSource]:
    try:
        await source.open()
        yield source
    finally:
        await source.close()


async def some(source: WatchedSource, count: int) -> list[CapturedFrame]:
    frames = [await source.newest() for _ in range(count)]
    return [frame for frame in frames if frame is not None]


async def lost(source: WatchedSource) -> SourceReason:
    with pytest.raises(SourceError) as caught:
        await source.watch()
    assert PASSWORD not in str(caught.value)
    return caught.value.reason


async def test_a_camera_shows_new_frames_as_they_come(servers: list[Server]) -> None:
    async with opened(source_of(servers[0].url())) as source:
        frames = await some(source, 5)
    assert len(frames) == 5
    assert all(frame.pixels.shape == (48, 64, 3) for frame in frames)
    assert all(frame.age_s < 1.0 for frame in frames)
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})


async def test_a_wrong_password_is_refused(servers: list[Server]) -> None:
    source = source_of(servers[0].url("swordfish"))
    with pytest.raises(SourceError) as caught:
        await source.open()
    await source.close()
    assert caught.value.reason is SourceReason.AUTH
    assert "swordfish" not in str(caught.value)


async def test_a_camera_that_freezes_has_stalled_and_shows_the_present_afterwards(servers: list[Server]) -> None:
    source = source_of(servers[0].url())
    async with opened(source):
        await some(source, 2)
        servers[0].signal(signal.SIGSTOP)
        assert await lost(source) is SourceReason.TIMEOUT
    with pytest.raises(SourceError) as caught:
        await source.open()
    await source.close()
    assert caught.value.reason is SourceReason.TIMEOUT
    servers[0].signal(signal.SIGCONT)
    async with opened(source):
        assert all(frame.age_s < 1.0 for frame in await some(source, 5))


async def test_a_camera_that_loses_its_power_is_gone_and_comes_back(servers: list[Server]) -> None:
    source = source_of(servers[0].url())
    async with opened(source):
        await some(source, 2)
        servers[0].kill()
        assert await lost(source) in (SourceReason.ENDED, SourceReason.UNREACHABLE)
    with pytest.raises(SourceError) as caught:
        await source.open()
    await source.close()
    assert caught.value.reason is SourceReason.UNREACHABLE
    servers.append(start(servers[0].port))
    async with opened(source):
        assert len(await some(source, 2)) == 2


async def test_a_camera_that_is_set_to_another_codec_is_read_in_it(servers: list[Server]) -> None:
    source = source_of(servers[0].url())
    async with opened(source):
        await some(source, 2)
        servers[0].change_codec()
        assert await lost(source) is not SourceReason.AUTH
    async with opened(source):
        frames = await some(source, 3)
    assert [frame.pixels.shape for frame in frames] == [(48, 64, 3)] * 3


async def test_at_a_long_interval_only_key_frames_are_decoded(servers: list[Server]) -> None:
    async with opened(source_of(servers[0].url(), interval_s=5.0, stall_s=10.0)) as source:
        frames = await some(source, 1)
        while len(frames) < 2 or frames[-1].time_s - frames[-2].time_s < 0.95:
            frames += await some(source, 1)
        first, second = await some(source, 2)
    assert second.time_s - first.time_s == pytest.approx(1.0, abs=0.01)
    assert first.time_s - frames[-1].time_s == pytest.approx(1.0, abs=0.01)


@pytest.mark.broker
async def test_the_other_cameras_of_a_site_go_on_and_it_ends_when_it_is_told_to(
    servers: list[Server], broker_settings: BrokerSettings, codec_dir: Path, tmp_path: Path
) -> None:
    sources = {"gate": servers[0].url(), "yard": "test:1"}
    async with (
        ScriptedWorker(broker_settings) as worker,
        edge_process(tmp_path, broker_settings, codec_dir, sources) as edge,
    ):

        async def answered(camera: str) -> None:
            while True:
                found, frame = await worker.next_open()
                await worker.answer_all(found, frame)
                if found == camera:
                    return

        await edge.said("ready")
        await answered("gate")
        servers[0].kill()
        gone = await edge.said("camera lost")
        assert (gone["camera"], gone["reason"]) in (("gate", "ended"), ("gate", "unreachable"))
        await answered("yard")
        servers.append(start(servers[0].port))
        assert (await edge.said("camera back"))["camera"] == "gate"
        await answered("gate")
        servers[1].signal(signal.SIGSTOP)
        await answered("yard")
        assert await edge.stop() == 0
        assert not any(PASSWORD in str(line) for line in edge.lines)
