"""Encoded clips and their sidecars."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.scenes.motion import SceneClip, standing_questions
from pipeline.scenes.questions import QUESTION_KINDS, answer_to
from pipeline.scenes.renderer import render
from pipeline.scenes.sidecar import sidecar_path
from pipeline.scenes.video import ClipInfo, decode_frames, read_sidecar, write_clip
from schemas.errors import ArtifactError, SourceError

QUESTIONS = {f"q{index}": question for index, question in enumerate(standing_questions(2, QUESTION_KINDS))}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipInfo:
    path = tmp_path_factory.mktemp("clips") / "gate.mp4"
    return write_clip(path, seed=7, duration_s=6.0, fps=2.5, questions=QUESTIONS, size=128)


def test_decoded_frames_show_the_scenes_that_were_written(clip: ClipInfo) -> None:
    frames = list(decode_frames(clip.path))
    assert len(frames) == clip.frame_count == 15
    assert clip.size_bytes == clip.path.stat().st_size
    source = SceneClip(7, 6.0, tuple(QUESTIONS.values()))
    for index, frame in enumerate(frames):
        original = render(source.scene_at(index / 2.5), 128).astype(float)
        error = np.mean((frame.astype(float) - original) ** 2)
        assert 10 * np.log10(255**2 / error) > 26.0


def test_the_sidecar_holds_the_truth_of_every_frame(clip: ClipInfo) -> None:
    truth = read_sidecar(clip.path)
    assert truth == read_sidecar(clip.sidecar)
    assert (truth.camera, truth.seed, truth.fps, truth.size, truth.frame_count) == ("gate", 7, 2.5, 128, 15)
    assert {question.id: question.spec for question in truth.questions} == QUESTIONS
    source = SceneClip(7, 6.0, tuple(QUESTIONS.values()))
    for index in range(truth.frame_count):
        for name, question in QUESTIONS.items():
            assert truth.truth(index, name) == answer_to(question, source.scene_at(index / 2.5))
    with pytest.raises(KeyError):
        truth.truth(0, "nobody asked")
    with pytest.raises(IndexError):
        truth.truth(15, "q0")


def _break(clip: ClipInfo, tmp_path: Path, **changes: object) -> Path:
    content = json.loads(clip.sidecar.read_text())
    path = tmp_path / "gate.truth.json"
    path.write_text(json.dumps(content | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"version": 2}, "version"),
        ({"fps": 0}, "fps"),
        ({"truths": [["yes"]]}, "frame 0"),
        ({"questions": None}, "questions"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_inconsistent_sidecars_are_refused(
    clip: ClipInfo, tmp_path: Path, changes: dict[str, object], where: str
) -> None:
    path = _break(clip, tmp_path, **changes)
    with pytest.raises(ArtifactError, match=where) as caught:
        read_sidecar(path)
    assert caught.value.path == str(path)


def test_missing_and_damaged_sidecars_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nothing\.truth\.json"):
        read_sidecar(tmp_path / "nothing.mp4")
    sidecar_path(tmp_path / "bad.mp4").write_bytes(b"\xff\x00 not JSON")
    with pytest.raises(ArtifactError, match="JSON"):
        read_sidecar(tmp_path / "bad.mp4")


def test_files_that_cannot_be_written_or_decoded_are_source_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="missing"):
        write_clip(tmp_path / "missing" / "a.mp4", seed=1, duration_s=0.5, fps=2, questions={}, size=64)
    (tmp_path / "noise.mp4").write_bytes(b"no video at all")
    with pytest.raises(SourceError, match="noise"):
        list(decode_frames(tmp_path / "noise.mp4"))
    with pytest.raises(ValueError, match="size=63"):
        write_clip(tmp_path / "a.mp4", seed=1, duration_s=0.5, fps=2, questions={}, size=63)
