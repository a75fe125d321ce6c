"""Folders, zips and videos: what is read, what is skipped and said."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.codec.frame_fit import fit_frame
from pipeline.codec.spec import FrameFit
from pipeline.scenes.video import write_clip
from schemas.errors import ArtifactError, ConfigError
from tests.training.codec.calibrate.picture_files import picture, write_pictures
from training.codec.calibrate.pictures import FittedPictures, Gathered, Gathering, gather, open_fitted
from training.codec.calibrate.questions import DEFAULT_QUESTIONS, PictureQuestions
from training.codec.calibrate.source import open_pictures
from training.run import silent

HOW = Gathering(32, FrameFit(), limit=100, every_s=1.0)


def shown(pictures: FittedPictures, row: int) -> NDArray[np.uint8]:
    (pixels,) = pictures.of((row,))
    return pixels


def test_pictures_are_fitted_as_the_edge_fits_them(tmp_path: Path) -> None:
    source = open_pictures(write_pictures(tmp_path / "photos", 3))
    found = gather(source, tmp_path, HOW, silent)
    assert found == Gathered.load(tmp_path)
    assert found.names == ("000.png", "001.png", "002.png")
    pictures = open_fitted(source, tmp_path, HOW)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["pictures.json"]
    for row, frame in zip((2, 0, 1), pictures.of((2, 0, 1)), strict=True):
        np.testing.assert_array_equal(frame, fit_frame(picture(row), 32, FrameFit()))


def test_what_cannot_be_read_is_skipped_counted_and_named(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 4)
    (photos / "a-text.jpg").write_text("no picture")
    whole = (photos / "001.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.png").touch()
    (photos / "zz-again.png").write_bytes(whole)
    (photos / "notes.txt").write_text("not looked at")
    lines: list[str] = []
    found = gather(open_pictures(photos), tmp_path, HOW, lines.append)
    assert len(found) == 4
    assert [name for name, _ in found.skipped] == ["a-text.jpg", "cut.png", "empty.png"]
    assert found.repeated == ("zz-again.png",)
    assert any(line.startswith("skipped: cut.png: picture is damaged") for line in lines)


def test_a_zip_is_a_folder_and_damaged_members_are_skipped(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 5)
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(photos.iterdir()):
            archive.write(file, f"trip/{file.name}")
    content = bytearray(path.read_bytes())
    place = content.index((photos / "002.png").read_bytes())
    content[place + 60] ^= 0xFF
    path.write_bytes(content)
    source = open_pictures(path)
    found = gather(source, tmp_path, HOW, silent)
    assert found.names == ("trip/000.png", "trip/001.png", "trip/003.png", "trip/004.png")
    assert [name for name, _ in found.skipped] == ["trip/002.png"]
    np.testing.assert_array_equal(shown(open_fitted(source, tmp_path, HOW), 2), fit_frame(picture(3), 32, FrameFit()))


def test_a_picture_that_went_away_is_said(tmp_path: Path) -> None:
    source = open_pictures(write_pictures(tmp_path / "photos", 3))
    gather(source, tmp_path, HOW, silent)
    (tmp_path / "photos" / "001.png").unlink()
    with pytest.raises(ArtifactError, match=r"001\.png: cannot be read: .*; it could be read before"):
        shown(open_fitted(source, tmp_path, HOW), 1)


def test_over_the_limit_pictures_are_taken_evenly_and_asked_ones_first(tmp_path: Path) -> None:
    source = open_pictures(write_pictures(tmp_path / "photos", 20))
    how = Gathering(32, FrameFit(), limit=5, every_s=1.0)
    found = gather(source, tmp_path, how, silent)
    assert found.names == ("000.png", "004.png", "008.png", "012.png", "016.png")
    assert found.left_out == 15
    asked = gather(source, tmp_path, how, silent, asked=frozenset({"001.png", "002.png"}))
    assert {"001.png", "002.png"} < set(asked.names)
    assert len(asked) == 5


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, seed=1, duration_s=8.0, fps=5.0, questions={}, camera="gate")
    return path


def test_a_video_is_sampled_in_time_and_thinned_to_the_limit(clip: Path, tmp_path: Path) -> None:
    every = gather(open_pictures(clip), tmp_path, Gathering(32, FrameFit(), 100, 1.0), silent)
    assert every.names == tuple(f"{second}.00 s" for second in range(8))
    assert every.video
    frames = np.stack(list(open_fitted(open_pictures(clip), tmp_path, HOW).of(range(8))))
    few = gather(open_pictures(clip), tmp_path, Gathering(32, FrameFit(), 3, 1.0), silent)
    assert few.names == ("0.00 s", "4.00 s")
    assert (few.every_s, few.left_out) == (4.0, 6)
    kept = open_fitted(open_pictures(clip), tmp_path, HOW)
    np.testing.assert_array_equal(list(kept.of((0, 1))), [frames[0], frames[4]])


def test_what_is_no_source_of_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--images: no such folder, zip or video"):
        open_pictures(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"--images: no picture in .*empty \(\.bmp, \.jpeg"):
        open_pictures(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match="is no folder, no zip and no video"):
        open_pictures(tmp_path / "notes.txt")


def test_a_disk_that_is_too_small_is_said_before_the_work(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_pictures(clip)
    monkeypatch.setattr("training.codec.calibrate.disk.shutil.disk_usage", lambda _: type("Usage", (), {"free": 9_000}))
    with pytest.raises(ConfigError, match=r"--cache: the frames take .* name a folder on another disk"):
        gather(source, tmp_path, HOW, silent)


def test_questions_are_of_all_pictures_or_of_named_ones(tmp_path: Path) -> None:
    source = open_pictures(write_pictures(tmp_path / "photos", 3))
    default = PictureQuestions.read(None)
    assert [(item.text, item.answer_type) for item in default.of_all] == list(DEFAULT_QUESTIONS)
    assert [item.frame for item in default.of(["x", "y"])] == [0] * 4 + [1] * 4
    file = tmp_path / "questions.jsonl"
    file.write_text('{"frame": "001.png", "text": "A car?", "answer_type": "yes_no", "truth": "Yes"}\n')
    named = PictureQuestions.read(file)
    named.check_names(source)
    assert named.rows(source.names) == [1]
    (asked,) = named.of(["000.png", "001.png"])
    assert (asked.frame, asked.truth) == (1, "yes")
    file.write_text('{"frame": "no.png", "text": "A car?", "answer_type": "yes_no"}\n')
    with pytest.raises(ConfigError, match=r"questions\.jsonl: 'no\.png' is not in .*photos"):
        PictureQuestions.read(file).check_names(source)
    file.write_text(
        '{"text": "A car?", "answer_type": "yes_no"}\n{"frame": "a", "text": "b", "answer_type": "count"}\n'
    )
    with pytest.raises(ConfigError, match=r"questions\.jsonl:2: unknown keys: frame"):
        PictureQuestions.read(file)


def test_a_grey_or_turned_picture_is_read_as_the_edge_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(picture(0)).convert("L").save(folder / "grey.png")
    turned = Image.fromarray(picture(1))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif, quality=95)
    shapes = {shown.name: shown.pixels.shape for shown in open_pictures(folder).read(iter(["grey.png", "turned.jpg"]))
              if shown.pixels is not None}  # fmt: skip
    assert shapes == {"grey.png": (48, 40, 3), "turned.jpg": (40, 48, 3)}
