"""Video as a baseline: what it costs while nothing changes, what a lost packet does, and where footage comes from."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.errors import ArtifactError, StateError
from training.baselines import video as video_module
from training.baselines.footage import fetch_vtest
from training.baselines.packet_loss import loss_cost
from training.baselines.video import (
    VideoCodec,
    VideoSetting,
    decode_video,
    encode_video,
    hold_last,
    missing_codecs,
    through_video,
    video_codecs,
)

CODECS: tuple[VideoCodec, ...] = ("x265", "SVT-AV1")
CRF: dict[VideoCodec, int] = {"x265": 30, "SVT-AV1": 45}
each_codec = pytest.mark.parametrize("codec", CODECS)


def footage(frames: int = 12, size: int = 64) -> NDArray[np.uint8]:
    """A textured yard that does not move, and a bright block that does: RGB uint8 [T, size, size, 3]."""
    yard = np.random.default_rng(0).integers(60, 120, (size // 4, size // 4, 3), dtype=np.uint8)
    still = np.kron(yard, np.ones((4, 4, 1), dtype=np.uint8))
    pictures = np.repeat(still[None], frames, axis=0)
    for number in range(frames):
        pictures[number, 24:40, 3 * number : 3 * number + 12] = 230
    return pictures


def mean_error(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@each_codec
def test_frames_given_others_cost_less_than_key_frames(codec: VideoCodec) -> None:
    pictures = footage()
    shown, sizes, coded = through_video(pictures, VideoSetting(codec, CRF[codec], 6))
    assert shown.shape == pictures.shape
    assert mean_error(shown, pictures) < 12
    assert [picture.is_key for picture in coded] == [number % 6 == 0 for number in range(12)]
    # The rate control of x265 begins low: its first picture is small and the second one mends it.
    assert sizes[6] > 1.5 * sizes[7:].max()
    assert sizes[0] > 1.5 * np.median(sizes[1:6])
    assert all(picture.payload_bytes <= len(picture.data) for picture in coded)


@each_codec
def test_smaller_pictures_and_higher_factors_are_fewer_bytes(codec: VideoCodec) -> None:
    pictures = footage(6)

    def mean_bytes(setting: VideoSetting) -> float:
        shown, sizes, _ = through_video(pictures, setting)
        assert shown.shape == pictures.shape
        return float(sizes.mean())

    usual = mean_bytes(VideoSetting(codec, CRF[codec], 0))
    assert mean_bytes(VideoSetting(codec, CRF[codec] + 15, 0)) < usual
    assert mean_bytes(VideoSetting(codec, CRF[codec], 0, size_px=32)) < usual


def test_headers_that_both_ends_know_are_not_counted() -> None:
    coded = encode_video(footage(3), VideoSetting("x265", 30, 0))
    # Parameter sets in front of the key frame; start codes of four bytes in front of the others.
    assert len(coded[0].data) - coded[0].payload_bytes > 50
    assert [len(picture.data) - picture.payload_bytes for picture in coded[1:]] == [4, 4]
    coded = encode_video(footage(3), VideoSetting("SVT-AV1", 45, 0))
    assert [len(picture.data) - picture.payload_bytes for picture in coded] == [2, 2, 2]


@each_codec
def test_nothing_good_comes_after_a_loss_until_the_next_key_frame(codec: VideoCodec) -> None:
    coded = encode_video(footage(), VideoSetting(codec, CRF[codec], 6))
    whole = decode_video(coded, codec)
    assert all(picture is not None for picture in whole)
    late = decode_video([None, None, *coded[2:]], codec)
    assert all(picture is None for picture in late[:6])
    for ours, theirs in zip(late[6:], whole[6:], strict=True):
        assert ours is not None
        assert theirs is not None
        np.testing.assert_array_equal(ours, theirs)


def test_a_receiver_shows_its_last_good_picture() -> None:
    first, second = np.full((2, 2, 3), 1, np.uint8), np.full((2, 2, 3), 2, np.uint8)
    shown = hold_last([None, first, None, second, None], np.zeros((2, 2, 3), np.uint8))
    assert shown[:, 0, 0, 0].tolist() == [0, 1, 1, 2, 2]


@each_codec
def test_the_cost_of_a_loss_ends_with_the_next_key_frame(codec: VideoCodec) -> None:
    frames = np.concatenate([footage(), footage(6)[::-1]])

    def where_the_block_is(pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
        columns: NDArray[np.int64] = (
            pictures[:, 28:36, :, 0].mean(axis=1).reshape(len(pictures), -1, 4).mean(axis=2).argmax(axis=1)
        )
        return columns

    def agree(pictures: NDArray[np.uint8], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        assert pictures.shape[1:] == frames.shape[1:]
        same: NDArray[np.float64] = (where_the_block_is(pictures) == where_the_block_is(frames[numbers])).astype(float)
        return same

    setting = VideoSetting(codec, CRF[codec], 6)
    cost = loss_cost(frames, (0, 12), setting, agree, losses=15)
    assert cost is not None
    # All 15 packets that are no key frame: 5 to 1 frames are hit by each.
    assert cost.losses == 15
    assert cost.frames_hit == 3
    assert cost.late_wait_frames == pytest.approx((6 + 5 + 4 + 3 + 2 + 0) / 6, abs=1)
    assert cost.agreement_after < cost.agreement_before
    assert cost.frames_unchanged < 1
    assert cost.key_frame_bytes > cost.payload_bytes
    assert loss_cost(frames, (0, 12), VideoSetting(codec, CRF[codec], 1), agree) is None


def test_pictures_that_no_video_holds_are_refused() -> None:
    with pytest.raises(StateError, match="63 x 64"):
        encode_video(footage(2)[:, :, :63], VideoSetting("x265", 30, 0))
    with pytest.raises(StateError, match="8 x 8"):
        encode_video(footage(2)[:, :8, :8], VideoSetting("x265", 30, 0))


def test_a_codec_that_is_missing_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert video_codecs() == CODECS
    assert missing_codecs() == {}
    monkeypatch.setitem(video_module._ENCODERS, "SVT-AV1", "no-such-encoder")
    assert video_codecs() == ("x265",)
    assert "no-such-encoder" in missing_codecs()["SVT-AV1"]


def fake_apt(folder: Path, script: str) -> str:
    """A PATH whose apt-get runs a script."""
    folder.mkdir()
    (folder / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "apt-get").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def package(folder: Path, member: str) -> Path:
    """A package of Debian's with one file."""
    root = folder / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: opencv-doc\nVersion: 1\nArchitecture: all\n"
        "Maintainer: nobody <nobody@example.org>\nDescription: test\n"
    )
    file = root / member
    file.parent.mkdir(parents=True)
    file.write_bytes(b"a video")
    path = folder / "opencv-doc_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(path)], check=True, capture_output=True)
    return path


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs Debian's dpkg-deb")


@needs_dpkg
def test_footage_is_taken_from_the_package_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deb = package(tmp_path, "usr/share/doc/opencv-doc/examples/data/vtest.avi")
    monkeypatch.setenv("PATH", fake_apt(tmp_path / "bin", f'test "$*" = "download opencv-doc" && cp {deb} .'))
    found = fetch_vtest(tmp_path / "cache")
    assert found.read_bytes() == b"a video"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["vtest.avi"]
    monkeypatch.setenv("PATH", "")
    assert fetch_vtest(tmp_path / "cache") == found


@needs_dpkg
@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 'E: no network' >&2; exit 100", "E: no network.*apt-get update"),
        ("true", "left no package"),
        ("echo no archive > opencv-doc_1_all.deb", "dpkg-deb"),
    ],
)
def test_a_download_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, problem: str
) -> None:
    monkeypatch.setenv("PATH", fake_apt(tmp_path / "bin", script))
    with pytest.raises(ArtifactError, match=problem):
        fetch_vtest(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@needs_dpkg
def test_a_package_without_the_video_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deb = package(tmp_path, "usr/share/doc/opencv-doc/examples/data/tree.avi")
    monkeypatch.setenv("PATH", fake_apt(tmp_path / "bin", f"cp {deb} ."))
    with pytest.raises(ArtifactError, match=r"opencv-doc_1_all\.deb holds no .*vtest\.avi"):
        fetch_vtest(tmp_path / "cache")


def test_a_machine_without_apt_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ArtifactError, match="no apt-get here"):
        fetch_vtest(tmp_path)
