"""Photographs: a library from a folder or a zip, split by photograph, and frames that show what they say."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.scenes.catalogue import COUNT_WORDS, MAX_COUNT, POSITIONS
from pipeline.scenes.photo_library import Split
from pipeline.scenes.photographs import PhotoLibrary, PhotoObject, sample_photo_scene
from pipeline.scenes.phrasings import FRAME_PHRASINGS, HELD_OUT_FRAME_PHRASINGS, write
from pipeline.scenes.questions import ANSWERS, QUESTION_KINDS, answer_to, matching, sample_question
from schemas.errors import ArtifactError
from tests.scenes.photo_files import CLASSES, PER_CLASS, write_photo_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo_folder(tmp_path_factory.mktemp("photos") / "classes")


@pytest.fixture(scope="module")
def library(folder: Path) -> PhotoLibrary:
    return PhotoLibrary.open(folder)


def test_a_folder_is_read(library: PhotoLibrary) -> None:
    assert library.classes == CLASSES
    assert library.photos.shape == (len(CLASSES) * PER_CLASS, 32, 32, 3)
    for number in range(len(CLASSES)):
        mine = library.photos[library.labels == number]
        assert len(mine) == PER_CLASS
        assert mine.mean(axis=(0, 1, 2)).argmax() == number, "a photograph lies under another class"


def test_a_zip_is_the_same_library(folder: Path, library: PhotoLibrary, tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, f"train/{file.relative_to(folder)}")
    opened = PhotoLibrary.open(path)
    assert opened.classes == library.classes
    np.testing.assert_array_equal(opened.photos, library.photos)
    np.testing.assert_array_equal(opened.labels, library.labels)
    np.testing.assert_array_equal(opened.validation, library.validation)
    assert opened.sha256 == library.sha256


def test_a_zip_has_the_order_of_a_folder(tmp_path: Path) -> None:
    """As plain text, "cat-nap/x" comes before "cat/x"; pictures at the top are of no class."""
    folder = write_photo_folder(tmp_path / "photos", classes=("cat", "cat-nap"))
    shutil.copy(folder / "cat" / "000.png", folder / "cover.png")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, file.relative_to(folder))
    opened, zipped = PhotoLibrary.open(folder), PhotoLibrary.open(tmp_path / "photos.zip")
    assert opened.classes == ("cat", "cat-nap")
    assert len(opened.photos) == 2 * PER_CLASS
    assert zipped.sha256 == opened.sha256


def test_the_split_is_by_photograph_and_does_not_move(folder: Path, library: PhotoLibrary) -> None:
    assert 0 < library.validation.sum() < 0.3 * len(library.photos)
    np.testing.assert_array_equal(PhotoLibrary.open(folder).validation, library.validation)
    shown = {split: {photo.tobytes() for photo in library.part(split)[0]} for split in ("train", "validation")}
    assert len(shown["train"]) + len(shown["validation"]) == len(library.photos)
    assert not shown["train"] & shown["validation"]


def test_a_name_decides_where_a_photograph_belongs(folder: Path, library: PhotoLibrary, tmp_path: Path) -> None:
    """More photographs do not move those that were there from one part to the other, nor does another version."""
    assert np.flatnonzero(library.validation).tolist() == [23, 83, 108, 113]
    more = write_photo_folder(tmp_path / "more", per_class=PER_CLASS + 10)
    opened = PhotoLibrary.open(more)
    for number in range(len(CLASSES)):
        before = library.validation[library.labels == number]
        np.testing.assert_array_equal(opened.validation[opened.labels == number][: len(before)], before)


def refused(path: Path, problem: str, member: str = "") -> None:
    with pytest.raises(ArtifactError, match=problem) as caught:
        PhotoLibrary.open(path)
    assert caught.value.path == (f"{path}:{member}" if member else str(path))


def test_what_is_no_library_is_refused_by_name(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.zip", "No such file")
    (tmp_path / "text.zip").write_text("no zip")
    refused(tmp_path / "text.zip", "no zip file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "0 photographs in 0 classes")
    one = write_photo_folder(tmp_path / "one", classes=("cat",), per_class=2)
    refused(one, "2 photographs in 1 classes")
    refused(write_photo_folder(tmp_path / "few", per_class=1), "3 photographs, 0 of them held out")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8\xff", b"no picture", "half", "vast"], ids=["empty", "start", "text", "half", "vast"]
)
def test_a_broken_photograph_is_named(content: bytes | str, tmp_path: Path) -> None:
    folder = write_photo_folder(tmp_path / "photos", per_class=2)
    if content == "half":
        whole = (folder / "cat" / "000.png").read_bytes()
        content = whole[: len(whole) // 2]
    elif content == "vast":
        buffer = io.BytesIO()
        Image.new("1", (10_000, 10_000)).save(buffer, "PNG")
        content = buffer.getvalue()
    assert isinstance(content, bytes)
    (folder / "frog" / "broken.png").write_bytes(content)
    refused(folder, "no photograph", "frog/broken.png")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, file.relative_to(folder))
    refused(tmp_path / "photos.zip", "no photograph", "frog/broken.png")


def test_a_damaged_member_of_a_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/0.png", b"abc" * 100)
    content = bytearray(path.read_bytes())
    start = content.index(b"cat/0.png") + len("cat/0.png")
    content[start : start + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    refused(path, "cannot be unpacked", "cat/0.png")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A zip as it is stored, and one with compression."""
    path = tmp_path_factory.mktemp("archives")
    folder = write_photo_folder(path / "photos", classes=("cat", "frog"), per_class=30)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path / f"{compression}.zip", "w", compression) as archive:
            for file in folder.rglob("*.png"):
                archive.write(file, file.relative_to(folder))
    return [(path / name).read_bytes() for name in ("0.zip", "8.zip")]


@given(data=st.data())
@settings(max_examples=120)
def test_damage_anywhere_is_refused_or_harmless(
    archives: list[bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(archives)))
    for _ in range(data.draw(st.integers(1, 4))):
        # As often near the end, where the directory of a zip lies.
        place = data.draw(st.integers(1, len(content)) | st.integers(1, min(len(content), 4_000)))
        content[-place] = data.draw(st.integers(0, 255))
    if data.draw(st.integers(0, 9)) == 0:
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    path.write_bytes(content)
    try:
        library = PhotoLibrary.open(path)
    except ArtifactError as error:
        named = error.path
    else:
        named = str(path)
        assert len(library.photos) == len(library.labels) == len(library.validation)
    assert named.startswith(str(path))


def test_frames_are_the_same_for_the_same_seed(library: PhotoLibrary) -> None:
    for seed in range(6):
        first, second = (sample_photo_scene(seed, library, "validation", size=128) for _ in range(2))
        np.testing.assert_array_equal(first[0], second[0])
        assert first[1] == second[1]


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes share more than what rounding to pixels explains."""
    return min(a[2], b[2]) - max(a[0], b[0]) > 1e-9 and min(a[3], b[3]) - max(a[1], b[1]) > 1e-9


@pytest.mark.parametrize("split", ["train", "validation"])
def test_frames_show_photographs_of_their_own_part(split: Split) -> None:
    held_out = np.arange(40) % 4 == 0
    photos = np.where(held_out[:, None, None, None], 200, 50).astype(np.uint8).repeat(32, 1).repeat(32, 2).repeat(3, 3)
    library = PhotoLibrary(("cat", "frog"), photos, np.arange(40) % 2, held_out)
    seen = 0
    for seed in range(20):
        pixels, scene = sample_photo_scene(seed, library, split, size=128)
        for item in scene.objects:
            if isinstance(item, PhotoObject):
                seen += 1
                centre = pixels[round(item.y * 128), round(item.x * 128)].mean()
                assert (centre > 125) == (split == "validation")
    assert seen > 30


def test_frames_show_what_they_say(library: PhotoLibrary) -> None:
    """Each photograph's class colour fills its box; nothing lies outside of the frame; all can be counted."""
    pictures = 0
    for seed in range(60):
        pixels, scene = sample_photo_scene(seed, library, "validation", size=128)
        assert pixels.shape == (128, 128, 3)
        assert scene.objects
        for kind in scene.kinds:
            assert len(matching(scene, kind, None)) <= MAX_COUNT
        for item in scene.objects:
            left, top, right, bottom = item.box
            assert min(item.box) >= -1e-9
            assert max(item.box) <= 1 + 1e-9
            assert isinstance(item, PhotoObject) == (item.kind in CLASSES), "a kind is either photographed or rendered"
            if isinstance(item, PhotoObject):
                others = [other for other in scene.objects if other is not item]
                assert not any(overlap(item.box, other.box) for other in others), "a picture hides something"
                inset = 0.2 * item.size
                columns = slice(round((left + inset) * 128), round((right - inset) * 128))
                shown = pixels[round((top + inset) * 128) : round((bottom - inset) * 128), columns]
                dim = shown[shown.max(axis=2) < 250]
                if dim.size > 60:
                    pictures += 1
                    assert dim.mean(axis=0).argmax() == CLASSES.index(item.kind)
    assert pictures > 60


def test_mosaics_show_nothing_beside_their_photographs(library: PhotoLibrary) -> None:
    """So what is counted is all that there is: outside of the boxes, all is of one colour."""
    mosaics = 0
    for seed in range(40):
        pixels, scene = sample_photo_scene(seed, library, "validation", size=128)
        if scene.colored_kinds:
            continue
        mosaics += 1
        outside = np.ones((128, 128), dtype=bool)
        for item in scene.objects:
            left, top, right, bottom = (round(value * 128) for value in item.box)
            assert outside[top:bottom, left:right].all(), "two photographs overlap"
            outside[top:bottom, left:right] = False
        assert len(np.unique(pixels[outside], axis=0)) <= 1
    assert mosaics > 10


def test_questions_about_photographs_have_true_answers(library: PhotoLibrary) -> None:
    asked = dict.fromkeys(QUESTION_KINDS, 0)
    framed = {False: 0, True: 0}
    for seed in range(80):
        _, scene = sample_photo_scene(seed, library, "train", size=64)
        rng = np.random.default_rng(seed)
        for kind in QUESTION_KINDS:
            held_out = bool(rng.integers(2))
            question = sample_question(kind, scene, rng, held_out=held_out)
            if question is None:
                continue
            answer = answer_to(question, scene)
            assert answer in ANSWERS[kind]
            assert question.object_kind in scene.kinds
            asked[kind] += 1
            found = [item for item in scene.objects if item.kind == question.object_kind]
            if question.color is not None:
                found = [item for item in found if item.color == question.color]
            if kind == "existence":
                assert (answer == "yes") == bool(found)
            elif kind == "count":
                assert COUNT_WORDS.index(answer) == len(found)
            elif kind == "color":
                assert answer == found[0].color
            elif kind == "position":
                assert POSITIONS.index(answer) == int(found[0].y * 3) * 3 + int(found[0].x * 3)
            elif kind == "relation":
                others = [item for item in scene.objects if item.kind == question.other_kind]
                (other,) = [item for item in others if question.other_color in (None, item.color)]
                across, down = other.x - found[0].x, other.y - found[0].y
                ahead = {"left of": across, "right of": -across, "above": down, "below": -down}
                assert (answer == "yes") == (ahead[question.relation or ""] > 0)
            if question.object_kind in CLASSES:
                assert question.color is None, "the color of a frame is none of what it shows"
                assert kind != "activity", "a photograph neither moves nor stands"
            if kind == "color" and question.object_kind in CLASSES:
                framed[held_out] += 1
                wordings = HELD_OUT_FRAME_PHRASINGS if held_out else FRAME_PHRASINGS
                assert question.text in [write(text, question.object_kind, None) for text in wordings]
            if kind == "relation":
                assert question.other_kind not in CLASSES or question.other_color is None
    assert min(asked[kind] for kind in ("existence", "count", "position", "relation")) > 25
    assert min(framed.values()) > 3
