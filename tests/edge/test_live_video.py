"""Live streams: with a reader that the test drives, and with real MJPEG and HLS over HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from queue import SimpleQueue

import av
import numpy as np
import pytest

from edge_nodes.sources import WatchedSource, make_source
from edge_nodes.sources.address import Address, device_address
from edge_nodes.sources.base import CapturedFrame
from edge_nodes.sources.key_frames import KeyFrames
from edge_nodes.sources.live_video import GRACE_S, LiveVideo
from edge_nodes.sources.video_reader import DecodedFrame, Note, VideoReader
from pipeline.config.camera_settings import CameraSettings
from schemas.errors import SourceError
from schemas.types import SourceReason
from tests.edge.camera_servers import PASSWORD, USER, Camera, camera_server, jpeg
from tests.edge.support import TurnedClock, grey, settle, write_video

STALL_S = 10.0


class DrivenReader(VideoReader):
    """Frames when the test says so."""

    def __init__(self) -> None:
        self.steps: SimpleQueue[DecodedFrame | Exception | None] = SimpleQueue()
        self.closed = threading.Event()
        self.consumed = threading.Semaphore(0)
        self.is_finite = False

    @property
    def finite(self) -> bool:
        return self.is_finite

    def frames(self) -> Iterator[DecodedFrame]:
        while True:
            step = self.steps.get()
            if step is None:
                return
            if isinstance(step, Exception):
                raise step
            yield step
            self.consumed.release()

    def close(self) -> None:
        self.closed.set()

    def show(self, number: int, time_s: float) -> None:
        picture = av.VideoFrame.from_ndarray(grey(number), format="rgb24")
        self.steps.put(DecodedFrame(number, time_s, picture))


class Rig:
    def __init__(self, *, interval_s: float = 1.0, loop: bool = True) -> None:
        self.clock = TurnedClock()
        self.reader = DrivenReader()
        self.keys: list[KeyFrames] = []
        self.refusals: list[Exception] = []
        self.connected = threading.Event()
        self.source = LiveVideo(
            "gate",
            device_address("/dev/video0", stall_s=STALL_S),
            interval_s=interval_s,
            stall_s=STALL_S,
            loop=loop,
            clock=self.clock,
            open_reader=self._open,
        )

    def _open(self, address: Address, note: Note, keys: KeyFrames) -> VideoReader:
        assert address.format == "v4l2"
        self.keys.append(keys)
        self.connected.set()
        if self.refusals:
            raise self.refusals.pop(0)
        return self.reader

    async def consumed(self, count: int) -> None:
        """Wait until the reading thread has come back for more so many times."""
        for _ in range(count):
            await asyncio.to_thread(self.reader.consumed.acquire)


@asynccontextmanager
async def opened(rig: Rig, time_s: float = 0.0) -> AsyncIterator[LiveVideo]:
    rig.reader.show(0, time_s)
    await rig.source.open()
    try:
        yield rig.source
    finally:
        rig.reader.steps.put(None if rig.reader.is_finite else SourceError("gate", "over", SourceReason.ENDED))
        await rig.source.close()
        assert rig.reader.closed.is_set()


def index(frame: CapturedFrame | None) -> int:
    assert frame is not None
    assert round(float(frame.pixels.mean())) == frame.index, "the picture is the one that the number says"
    return frame.index


async def test_only_the_newest_frame_is_kept_and_none_is_shown_twice() -> None:
    rig = Rig()
    async with opened(rig) as source:
        assert index(await source.newest()) == 0
        for number in range(1, 6):
            rig.reader.show(number, number / 10)
        await rig.consumed(5)
        assert index(await source.newest()) == 5
        waiting = asyncio.create_task(source.newest())
        await settle()
        assert not waiting.done()
        rig.reader.show(6, 0.6)
        assert index(await waiting) == 6


async def test_a_frame_says_how_long_ago_it_was_seen() -> None:
    rig = Rig()
    async with opened(rig) as source:
        await source.newest()
        rig.clock.time_s += 1.0
        rig.reader.show(1, 1.0)
        await rig.consumed(2)
        rig.clock.time_s += 0.5  # nobody asked for it
        frame = await source.newest()
        assert frame is not None
        assert frame.age_s == pytest.approx(0.5, abs=0.01)
        rig.clock.time_s += 4.5  # the link stands still, and what was seen meanwhile comes late
        rig.reader.show(2, 2.0)
        await rig.consumed(1)
        late = await source.newest()
        assert late is not None
        assert late.age_s == pytest.approx(4.0, abs=0.01)


async def test_a_stream_without_a_new_frame_has_stalled_whether_anybody_asks_or_not() -> None:
    rig = Rig()
    async with opened(rig) as source:
        await source.newest()
        asking, watching = asyncio.create_task(source.newest()), asyncio.create_task(source.watch())
        await rig.clock.turn_to(rig.clock.time_s + STALL_S + GRACE_S - 0.1)
        assert not asking.done()
        assert not watching.done()
        await rig.clock.turn_to(rig.clock.time_s + 0.2)
        for task in (asking, watching):
            with pytest.raises(SourceError, match="no new frame for 10 s") as caught:
                await task
            assert caught.value.reason is SourceReason.TIMEOUT


async def test_a_frame_that_nobody_asked_for_is_not_shown_when_it_is_old() -> None:
    rig = Rig()
    async with opened(rig) as source:
        rig.clock.time_s += STALL_S + GRACE_S + 1
        with pytest.raises(SourceError, match="no new frame"):
            await source.newest()


async def test_a_loss_is_told_with_its_reason_at_once_and_to_who_watches() -> None:
    rig = Rig()
    async with opened(rig) as source:
        await source.newest()
        watching = asyncio.create_task(source.watch())
        rig.reader.steps.put(SourceError("gate", "gone", SourceReason.ENDED))
        with pytest.raises(SourceError, match="gone") as caught:
            await watching
        assert caught.value.reason is SourceReason.ENDED
        with pytest.raises(SourceError, match="gone"):
            await source.newest()


async def test_what_cannot_be_opened_is_closed_and_opened_again() -> None:
    rig = Rig()
    rig.refusals = [SourceError("gate", "who?", SourceReason.AUTH), MemoryError()]
    for kind in (SourceError, MemoryError):
        with pytest.raises(kind):
            await rig.source.open()
        await rig.source.close()
    async with opened(rig) as source:
        assert index(await source.newest()) == 0
    with pytest.raises(SourceError, match="is not open"):
        await rig.source.newest()


async def test_a_stream_that_opens_and_shows_nothing_is_not_open() -> None:
    rig = Rig()
    opening = asyncio.create_task(rig.source.open())
    await asyncio.to_thread(rig.connected.wait)
    await rig.clock.waited_for()
    await rig.clock.turn_to(rig.clock.time_s + STALL_S + GRACE_S)
    with pytest.raises(SourceError, match="no new frame"):
        await opening
    rig.reader.steps.put(SourceError("gate", "over"))
    await rig.source.close()


@pytest.mark.parametrize("loop", [False, True])
async def test_a_recording_on_a_server_ends_or_begins_again(loop: bool) -> None:
    rig = Rig(loop=loop)
    rig.reader.is_finite = True
    async with opened(rig) as source:
        await source.newest()
        rig.reader.steps.put(None)
        if loop:
            rig.reader.show(7, 0.0)
            assert index(await source.newest()) == 7
            assert len(rig.keys) == 2
        else:
            assert await source.newest() is None


# ---- real streams ---------------------------------------------------------------------------------------------------


@pytest.fixture
def camera() -> Iterator[Camera]:
    with camera_server() as served:
        yield served


def source_of(url: str, **settings: object) -> WatchedSource:
    source = make_source("gate", CameraSettings.model_validate({"source": url, **settings}))
    assert isinstance(source, WatchedSource)
    return source


async def levels_until(source: WatchedSource, reached: Callable[[int], bool]) -> list[int]:
    """Grey levels in steps of ten, until one is reached."""
    levels: list[int] = []
    while not levels or not reached(levels[-1]):
        frame = await source.newest()
        assert frame is not None
        levels.append(round((float(frame.pixels.mean()) - 20) / 10))
    return levels


async def test_an_mjpeg_stream_shows_its_newest_picture_and_comes_back(camera: Camera) -> None:
    camera.pictures = [jpeg(grey(20 + 10 * number)) for number in range(12)]
    source = source_of(camera.url("/stream"), stall_s=5)
    await source.open()
    levels = await levels_until(source, lambda level: level == 11)
    assert levels == sorted(levels)
    await source.close()
    camera.pictures = [jpeg(grey(90))]
    await source.open()
    assert (await levels_until(source, lambda level: True)) == [7]
    await source.close()


async def test_an_mjpeg_stream_that_falls_silent_has_stalled(camera: Camera) -> None:
    camera.pictures = [jpeg(grey(100))]
    source = source_of(camera.url("/stream"), stall_s=1)
    await source.open()
    camera.gate.clear()
    with pytest.raises(SourceError) as caught:
        await source.watch()
    assert caught.value.reason is SourceReason.TIMEOUT
    await source.close()


async def test_a_stream_that_its_server_ends_says_so(camera: Camera) -> None:
    camera.pictures = [jpeg(grey(100))]
    source = source_of(camera.url("/stream"), stall_s=20)
    await source.open()
    camera.ended.set()
    with pytest.raises(SourceError) as caught:
        await source.watch()
    assert caught.value.reason is SourceReason.ENDED
    await source.close()


async def test_a_password_is_sent_and_a_wrong_one_is_refused(camera: Camera) -> None:
    camera.pictures, camera.protected = [jpeg(grey(100))], True
    source = source_of(camera.url("/stream", credentials=f"{USER}:{PASSWORD}@"), stall_s=5)
    await source.open()
    assert await source.newest() is not None
    await source.close()
    wrong = source_of(camera.url("/stream", credentials=f"{USER}:swordfish@"), stall_s=5)
    with pytest.raises(SourceError) as caught:
        await wrong.open()
    await wrong.close()
    assert caught.value.reason is SourceReason.AUTH
    assert "swordfish" not in str(caught.value)


async def test_pictures_of_a_stream_may_change_their_size(camera: Camera) -> None:
    camera.pictures = [jpeg(grey(100, 48, 64)), jpeg(grey(100, 33, 71))]
    source = source_of(camera.url("/stream"), stall_s=5)
    await source.open()
    while (frame := await source.newest()) is not None and frame.pixels.shape == (48, 64, 3):
        pass
    assert frame is not None
    assert frame.pixels.shape == (33, 71, 3)
    await source.close()


async def test_hls_is_read_segment_by_segment(camera: Camera, tmp_path: Path) -> None:
    parts = []
    for part in range(2):
        shades = [grey(20 + 10 * (10 * part + number)) for number in range(10)]
        parts.append(write_video(tmp_path / f"{part}.ts", shades, first_pts=10 * part))
        camera.files[f"/{part}.ts"] = parts[-1].read_bytes()
    camera.files["/live.m3u8"] = (
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n"
        b"#EXTINF:1.0,\n0.ts\n#EXTINF:1.0,\n1.ts\n#EXT-X-ENDLIST\n"
    )
    source = source_of(camera.url("/live.m3u8"), stall_s=5, loop=False)
    await source.open()
    levels = await levels_until(source, lambda level: level >= 18)
    assert levels == sorted(levels)
    assert {"/live.m3u8", "/0.ts", "/1.ts"} <= set(camera.requests)
    await source.close()


async def test_a_recording_on_a_server_plays_at_its_pace_and_its_key_frames_suffice(
    camera: Camera, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "clip.mp4", [grey(20), grey(60), grey(100)], fps=10)
    camera.files["/clip.mp4"] = path.read_bytes()
    source = source_of(camera.url("/clip.mp4"), stall_s=5, loop=False)
    await source.open()
    seen = []
    while (frame := await source.newest()) is not None:
        seen.append(frame.time_s)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(0.2)
    await source.close()


def key_frame_video(path: Path, *, gop: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"x264-params": f"keyint={gop}:scenecut=0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(20 + 3 * number), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_key_frames_alone_are_decoded_as_they_are(tmp_path: Path) -> None:
    path = key_frame_video(tmp_path / "clip.mkv", gop=10)

    def decoded(interval_s: float) -> list[tuple[float, int]]:
        reader = VideoReader(path, keys=KeyFrames(interval_s))
        frames = [(round(frame.time_s, 2), round(float(frame.pixels().mean()))) for frame in reader.frames()]
        reader.close()
        return frames

    every, keys = decoded(0.5), decoded(5.0)
    assert len(every) == 60
    late = [frame for frame in keys if frame[0] >= 2.0]
    assert [time_s for time_s, _ in late] == [2.0, 3.0, 4.0, 5.0]
    assert np.allclose([level for _, level in late], [dict(every)[time_s] for time_s, _ in late], atol=1)
