"""Files as cameras, phones and editors write them, made with FFmpeg itself."""

from __future__ import annotations

import gc
import struct
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import structlog
from av.stream import Disposition
from numpy.typing import NDArray

from edge_nodes.sources import video_reader
from edge_nodes.sources.address import READ_TIMEOUT_S
from edge_nodes.sources.video_file import VideoFile
from edge_nodes.sources.video_reader import DecodedFrame, VideoReader
from schemas.errors import SourceError
from tests.edge.support import SkippingClock, grey, raw_video, write_video

FPS = 10
TS_PACKET_BYTES = 188
FIRST_PID = 256


def decoded(path: Path) -> tuple[list[DecodedFrame], Counter[str]]:
    notes: Counter[str] = Counter()
    reader = VideoReader(path, lambda kind, _problem: notes.update([kind]))
    try:
        return list(reader.frames()), notes
    finally:
        reader.close()


async def played(source: VideoFile, clock: SkippingClock, count: int) -> list[tuple[float, int]]:
    """When frames are shown, and their grey level in steps of ten."""
    await source.open()
    began_s = clock.now_s()
    shown = []
    for _ in range(count):
        frame = await source.newest()
        assert frame is not None
        shown.append((round(clock.now_s() - began_s, 3), round((float(frame.pixels.mean()) - 20) / 10)))
    await source.close()
    return shown


async def test_a_raw_stream_that_cannot_be_sought_in_plays_and_plays_again(tmp_path: Path) -> None:
    path = tmp_path / "camera.h264"
    path.write_bytes(raw_video([grey(20 + 10 * number) for number in range(5)]))
    clock = SkippingClock()
    shown = await played(VideoFile("gate", path, clock=clock), clock, 12)
    assert [level for _, level in shown] == [0, 1, 2, 3, 4] * 2 + [0, 1]
    assert [time_s for time_s, _ in shown] == pytest.approx([number / 25 for number in range(12)])


def test_a_file_that_is_silent_for_long_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(video_reader, "monotonic", lambda: now_s)
    reader = VideoReader(write_video(tmp_path / "live.ts", [grey(20 + 10 * number) for number in range(20)]))
    packets = reader._container.demux(reader._stream)

    def slow(_stream: av.VideoStream) -> Iterator[av.Packet[av.VideoStream]]:
        """FFmpeg as it reads a playlist that nobody extends: interrupted, it says that the file has ended."""
        nonlocal now_s
        for _, packet in zip(range(5), packets, strict=False):
            yield packet
        now_s += READ_TIMEOUT_S

    monkeypatch.setattr(reader, "_container", SimpleNamespace(demux=slow))
    with pytest.raises(SourceError, match=r"live\.ts: no data for 30 s"):
        list(reader.frames())


@pytest.mark.parametrize("starts", [(50, 400_000), (400_000, 50)])
async def test_a_splice_neither_freezes_nor_skips_and_is_logged_once(tmp_path: Path, starts: tuple[int, int]) -> None:
    levels = [grey(20 + 10 * number) for number in range(20)]
    parts = [
        write_video(tmp_path / f"{half}.ts", levels[10 * half : 10 * half + 10], fps=FPS, first_pts=start)
        for half, start in enumerate(starts)
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    clock = SkippingClock()
    source = VideoFile("gate", path, clock=clock)
    with structlog.testing.capture_logs() as lines:
        shown = await played(source, clock, 38)
    positions = [round(time_s * FPS) for time_s, _ in shown]
    assert [position % 20 for position in positions] == [level for _, level in shown]
    # Joining flags a frame as corrupt in each pass: the packets' counter jumps too.
    assert len(set(range(40)) - set(positions)) <= 2
    assert source.counters["splice"] == 2
    assert [line["kind"] for line in lines].count("splice") == 1


def test_a_cover_is_not_the_video_even_when_it_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_with_cover(path)
    cover_first(path)
    with av.open(str(path)) as container:
        assert container.streams.video[0].disposition & Disposition.attached_pic
    frames, _ = decoded(path)
    assert [round(float(frame.pixels().mean()), -1) for frame in frames] == [20, 40, 60]


def test_a_file_with_nothing_but_a_cover_has_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    write_with_cover(path, video=False)
    with pytest.raises(SourceError, match="only a cover picture"):
        VideoReader(path)


@pytest.mark.parametrize(
    ("entries", "bright"),
    [
        ((-1, 0, 0, 1), (0, -1)),  # mirrored
        ((1, 0, 0, -1), (-1, 0)),  # upside down and mirrored
        ((0, 1, 1, 0), (0, 0)),  # transposed
        ((0, -1, -1, 0), (-1, -1)),
    ],
)
def test_mirrored_and_transposed_files_are_shown_as_they_are_meant(
    tmp_path: Path, entries: tuple[int, int, int, int], bright: tuple[int, int]
) -> None:
    pixels = grey(30)
    pixels[:24, :32] = 220  # bright at the top left
    path = write_video(tmp_path / "phone.mp4", [pixels] * 3)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (entry << 16 for entry in entries)
    data[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frames, _ = decoded(path)
    shown = frames[0].pixels()
    assert shown.shape == ((64, 48, 3) if a == 0 else (48, 64, 3))
    assert shown[bright[0], bright[1]].mean() > 180
    assert shown[-1 - bright[0], -1 - bright[1]].mean() < 70


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_frames_that_the_decoder_calls_corrupt_are_left_out_and_counted(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "radio.ts"
    frames = noise(30)
    write_video(path, frames, codec=codec)
    whole, notes = decoded(path)
    assert (len(whole), notes) == (30, Counter())
    data = path.read_bytes()
    packets = [data[start : start + TS_PACKET_BYTES] for start in range(0, len(data), TS_PACKET_BYTES)]
    video = [number for number, packet in enumerate(packets) if ((packet[1] & 31) << 8 | packet[2]) == FIRST_PID]
    del packets[video[len(video) // 2]]  # one lost packet of the radio link
    path.write_bytes(b"".join(packets))
    with av.open(str(path)) as container:
        expected = [
            (frame.pts, frame.is_corrupt or packet.is_corrupt)
            for packet in container.demux(video=0)
            for frame in packet.decode()
        ]
    left, notes = decoded(path)
    assert notes["corrupt_frame"] >= 1
    assert len(left) + notes["corrupt_frame"] == len(expected)
    assert not any(frame.picture.is_corrupt for frame in left)
    assert [frame.index for frame in left] != list(range(len(left))), "the index is the position in the file"


def test_a_file_of_corrupt_frames_alone_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "dark.ts", noise(1), codec="mpeg2video")
    data = path.read_bytes()
    packets = [data[start : start + TS_PACKET_BYTES] for start in range(0, len(data), TS_PACKET_BYTES)]
    video = [number for number, packet in enumerate(packets) if ((packet[1] & 31) << 8 | packet[2]) == FIRST_PID]
    del packets[video[len(video) // 2]]
    path.write_bytes(b"".join(packets))
    reader = VideoReader(path)
    with pytest.raises(SourceError, match=r"no frame decodes: frame 0 is corrupt"):
        list(reader.frames())
    reader.close()


def noise(count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(count)]


def write_with_cover(path: Path, *, video: bool = True) -> None:
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        streams = [(cover, [grey(250)], 1)]
        if video:
            moving = container.add_stream("mpeg4", rate=FPS)
            moving.height, moving.width, moving.pix_fmt = 48, 64, "yuv420p"
            streams.append((moving, [grey(20), grey(40), grey(60)], FPS))
        for stream, frames, rate in streams:
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def cover_first(path: Path) -> None:
    """Put the box with the cover before the tracks, as some editors do: it becomes the first stream."""
    data = path.read_bytes()
    start = data.index(b"moov") - 4
    (size,) = struct.unpack_from(">I", data, start)
    boxes, at = [], start + 8
    while at < start + size:
        (length,) = struct.unpack_from(">I", data, at)
        boxes.append(data[at : at + length])
        at += length
    boxes.sort(key=lambda box: box[4:8] != b"udta")
    path.write_bytes(data[: start + 8] + b"".join(boxes) + data[start + size :])


def test_a_picture_that_was_shown_is_gone_without_the_garbage_collector(tmp_path: Path) -> None:
    """A picture in a cycle of references would stay until the collector looks at old objects, which takes minutes."""
    reader = VideoReader(write_video(tmp_path / "v.mp4", [grey(level) for level in range(10, 60, 10)]))
    gc.collect()
    gc.disable()
    try:
        for frame in reader.frames():
            frame.pixels()
        del frame
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kept = [entry for entry in gc.garbage if isinstance(entry, av.VideoFrame)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        reader.close()
    assert kept == []
