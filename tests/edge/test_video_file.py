from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from edge_nodes.sources.base import CapturedFrame
from edge_nodes.sources.video_file import MAX_CATCH_UP_S, VideoFile
from edge_nodes.sources.video_reader import VideoReader
from pipeline.scenes.questions import make_question
from pipeline.scenes.video import decode_frames, write_clip
from schemas.errors import SourceError
from tests.edge.support import SkippingClock, grey, write_video

FPS = 10


@pytest.fixture
def clock() -> SkippingClock:
    return SkippingClock()


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """Two seconds in which each frame is brighter than the one before."""
    return write_video(tmp_path / "steps.mp4", [grey(10 * number + 20) for number in range(20)], fps=FPS)


def level(frame: CapturedFrame | None) -> int:
    assert frame is not None
    return round((float(frame.pixels.mean()) - 20) / 10)


async def test_a_camera_that_is_asked_at_its_pace_shows_every_frame(steps: Path, clock: SkippingClock) -> None:
    source = VideoFile("gate", steps, loop=False, clock=clock)
    await source.open()
    began_s = clock.now_s()
    frames = []
    while (frame := await source.newest()) is not None:
        frames.append(frame)
    await source.close()
    assert [frame.index for frame in frames] == list(range(20))
    assert [level(frame) for frame in frames] == list(range(20))
    assert [frame.time_s for frame in frames] == pytest.approx([number / FPS for number in range(20)])
    assert clock.now_s() - began_s == pytest.approx(1.9)
    assert frames[0].pixels.shape == (48, 64, 3)
    assert frames[0].pixels.dtype == np.uint8


async def test_a_camera_that_is_asked_late_shows_the_present_and_not_the_past(
    steps: Path, clock: SkippingClock
) -> None:
    source = VideoFile("gate", steps, clock=clock)
    await source.open()
    assert level(await source.newest()) == 0
    clock.time_s += 0.75
    late = await source.newest()
    assert (level(late), late.index if late else None) == (7, 7)
    clock.time_s += 0.001
    assert level(await source.newest()) == 8  # waits for the next one instead of repeating the last
    await source.close()


async def test_a_file_plays_again_from_its_beginning(steps: Path, clock: SkippingClock) -> None:
    source = VideoFile("gate", steps, clock=clock)
    await source.open()
    began_s = clock.now_s()
    for passes in range(3):
        clock.time_s = began_s + passes * 2.0 + 0.55
        frame = await source.newest()
        assert frame is not None
        assert (frame.index, level(frame)) == (5, 5)
    await source.close()


async def test_time_counts_from_the_first_frame(tmp_path: Path, clock: SkippingClock) -> None:
    path = write_video(tmp_path / "late.mkv", [grey(40), grey(80), grey(120)], fps=FPS, first_pts=7000)
    source = VideoFile("gate", path, loop=False, clock=clock)
    await source.open()
    frame = await source.newest()
    assert frame is not None
    assert (frame.index, frame.time_s) == (0, 0.0)
    await source.close()


async def test_a_long_pause_is_not_made_up_for(steps: Path, clock: SkippingClock) -> None:
    source = VideoFile("gate", steps, clock=clock)
    await source.open()
    await source.newest()
    clock.time_s += 100_000.0
    assert await source.newest() is not None
    assert source.skipped_s == pytest.approx(100_000.0 - MAX_CATCH_UP_S, abs=0.2)
    await source.close()


async def test_the_index_is_the_one_that_the_truth_of_a_clip_uses(tmp_path: Path, clock: SkippingClock) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, seed=3, duration_s=1.0, fps=10, size=64, questions={"car": make_question("existence", "car")})
    expected = list(decode_frames(path))
    source = VideoFile("gate", path, clock=clock)
    await source.open()
    for _ in range(13):
        frame = await source.newest()
        assert frame is not None
        assert np.array_equal(frame.pixels, expected[frame.index])
    await source.close()


async def test_a_file_that_ends_in_the_middle_plays_as_far_as_it_goes(tmp_path: Path, clock: SkippingClock) -> None:
    whole = write_video(tmp_path / "whole.mkv", [grey(20 + number) for number in range(60)])
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    source = VideoFile("gate", cut, loop=False, clock=clock)
    await source.open()
    count = 0
    while await source.newest() is not None:
        count += 1
    await source.close()
    assert 20 < count < 60


def test_a_rotation_beside_the_pixels_is_applied(tmp_path: Path) -> None:
    pixels = grey(30)
    pixels[:, :32] = 220  # bright on the left
    path = write_video(tmp_path / "phone.mp4", [pixels] * 3)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    # Turned by 90 degrees clockwise for display (ISO/IEC 14496-12, 16.16 fixed point).
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 48 * 65536, 0, 1 << 30)
    path.write_bytes(data)
    reader = VideoReader(path)
    frame = next(reader.frames()).pixels()
    reader.close()
    assert frame.shape == (64, 48, 3)
    assert frame[:24].mean() > 180  # left became top
    assert frame[-24:].mean() < 70


@pytest.mark.parametrize("content", [b"", b"no video at all", b"\x00" * 4096, b"RIFF\x00\x00\x00\x00AVI LIST"])
async def test_what_is_no_video_is_a_source_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    source = VideoFile("gate", path)
    with pytest.raises(SourceError, match=r"broken\.mp4"):
        await source.open()
    with pytest.raises(SourceError, match="not open"):
        await source.newest()


async def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        await VideoFile("gate", tmp_path / "nowhere.mp4").open()


async def test_a_file_without_pictures_says_so(tmp_path: Path) -> None:
    import wave

    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16_000))
    with pytest.raises(SourceError, match="no video"):
        await VideoFile("gate", path).open()


async def test_close_is_harmless_at_any_time_and_open_starts_anew(steps: Path, clock: SkippingClock) -> None:
    source = VideoFile("gate", steps, clock=clock)
    await source.close()
    for _ in range(2):
        await source.open()
        assert level(await source.newest()) == 0
        await source.close()
        await source.close()
