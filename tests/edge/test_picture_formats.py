"""Videos as cameras code them: sizes, depths, fields, and changes in the middle."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_nodes.sources.video_reader import VideoReader
from tests.edge.support import grey, write_video


def coded(
    path: Path,
    frames: list[NDArray[np.uint8]],
    codec: str,
    pix_fmt: str,
    options: dict[str, str] | None = None,
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = pix_fmt
        stream.height, stream.width = frames[0].shape[:2]
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def shown(path: Path) -> list[NDArray[np.uint8]]:
    reader = VideoReader(path)
    try:
        return [frame.pixels() for frame in reader.frames()]
    finally:
        reader.close()


def halves(height: int, width: int) -> NDArray[np.uint8]:
    """Dark red on the left, light green on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0], pixels[:, width // 2 :, 1] = 120, 220
    return pixels


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "grey_only"),
    [
        ("libx265", "yuv420p10le", False),
        ("libx264", "yuv422p10le", False),
        ("libx264", "yuvj420p", False),
        ("libx264", "gray", True),
        ("ffv1", "gray10le", True),
        ("ffv1", "yuv444p12le", False),
        ("mjpeg", "yuvj422p", False),
        ("libvpx-vp9", "yuva420p", False),
    ],
)
def test_depths_and_colours(tmp_path: Path, codec: str, pix_fmt: str, grey_only: bool) -> None:
    if codec in av.codecs_available:
        path = coded(tmp_path / "clip.mkv", [halves(48, 64)] * 3, codec, pix_fmt)
    else:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    for pixels in shown(path):
        assert (pixels.dtype, pixels.shape) == (np.dtype(np.uint8), (48, 64, 3))
        left, right = pixels[:, :28].mean(axis=(0, 1)), pixels[:, 36:].mean(axis=(0, 1))
        if grey_only:
            assert left.mean() < right.mean() - 50
            assert np.ptp(left) < 4
        else:
            assert np.allclose(left, (120, 0, 0), atol=20)
            assert np.allclose(right, (0, 220, 0), atol=20)


@pytest.mark.parametrize(("height", "width"), [(47, 63), (1, 1), (2, 333), (33, 5)])
def test_odd_sizes(tmp_path: Path, height: int, width: int) -> None:
    path = coded(tmp_path / "clip.mkv", [halves(height, width)] * 2, "ffv1", "yuv420p")
    assert [pixels.shape for pixels in shown(path)] == [(height, width, 3)] * 2


def test_a_moving_thing_in_an_interlaced_video_has_no_comb(tmp_path: Path) -> None:
    fields = [np.zeros((48, 64, 3), np.uint8) for _ in range(2)]
    fields[0][:, 16:32], fields[1][:, 24:40] = 255, 255  # it moves between the fields
    woven = fields[0].copy()
    woven[1::2] = fields[1][1::2]
    options = {"flags": "+ildct+ilme", "qmin": "1", "qmax": "1"}
    path = coded(tmp_path / "clip.mkv", [woven] * 3, "mpeg2video", "yuv420p", options)
    for pixels in shown(path):
        middle = pixels[8:40]
        rows = np.abs(np.diff(middle.astype(int), axis=0)).max()
        assert rows < 60, "neighbouring lines show the same moment"
        assert middle[:, 20:28].mean() > 200


def test_the_resolution_may_change_in_the_middle(tmp_path: Path) -> None:
    parts = [
        write_video(tmp_path / "a.ts", [grey(100, 48, 64)] * 10, codec="mpeg2video"),
        write_video(tmp_path / "b.ts", [grey(200, 96, 128)] * 10, first_pts=10, codec="mpeg2video"),
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    shapes = [pixels.shape[:2] for pixels in shown(path)]
    assert set(shapes) == {(48, 64), (96, 128)}
    assert shapes == sorted(shapes)
    assert len(shapes) >= 18


def key_framed(path: Path, frames: list[NDArray[np.uint8]], *, first_pts: int) -> Path:
    """H.264 with a key frame each second, as cameras send it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "10", "tune": "zerolatency"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = first_pts + number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_the_codec_may_change_in_the_middle(tmp_path: Path) -> None:
    parts = [
        write_video(tmp_path / "a.ts", [grey(100)] * 60, codec="mpeg2video"),
        key_framed(tmp_path / "b.ts", [grey(200)] * 60, first_pts=60),
        write_video(tmp_path / "c.ts", [grey(40)] * 60, first_pts=120, codec="mpeg2video"),
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    levels = [round(float(pixels.mean()), -1) for pixels in shown(path)]
    assert {100, 200, 40} <= set(levels)
    assert len(levels) > 120
    assert [level for number, level in enumerate(levels) if level not in levels[:number]] == [100, 200, 40]
