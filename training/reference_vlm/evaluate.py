"""Accuracy of a reference VLM on held-out frames: one question a sequence, asked as workers ask."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_workers.inference.adapter import ModelAdapter
from cloud_workers.inference.registry import load_model
from pipeline.scenes.catalogue import QuestionKind
from pipeline.scenes.everyday import EVERYDAY_HELD_OUT_SEEDS, balanced_questions, sample_everyday_scene
from pipeline.scenes.motion import SceneClip
from pipeline.scenes.photographs import PhotoLibrary, sample_photo_scene
from pipeline.scenes.questions import QUESTION_KINDS, QuestionSpec, answer_to, sample_question
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import sample_scene
from schemas.types import AnswerType
from training.reference_vlm.frames import HELD_OUT_SEEDS, SEED_STRIDE
from training.reference_vlm.pool import library_of
from training.reference_vlm.text_blocks import AnyScene

ANSWER_TYPES: Final[dict[QuestionKind, AnswerType]] = {
    "existence": AnswerType.YES_NO,
    "relation": AnswerType.YES_NO,
    "activity": AnswerType.YES_NO,
    "color": AnswerType.WORD,
    "position": AnswerType.WORD,
    "count": AnswerType.COUNT,
}
_BATCH: Final = 32
_CLIP_FPS: Final = 2
_SHOT_S: Final = 2.0
_BINS: Final = 15


@dataclass(frozen=True, slots=True)
class Example:
    """One question about one frame.

    Attributes:
        frame: Index of the frame.
        question: What is asked.
        truth: The right answer.
    """

    frame: int
    question: QuestionSpec
    truth: str


@dataclass(frozen=True, slots=True)
class Answered:
    """Examples with what the model said.

    Attributes:
        examples: Questions and truths.
        texts: Answers, in lower case.
        probabilities: That the model gives to its answers [Q].
    """

    examples: list[Example]
    texts: list[str]
    probabilities: NDArray[np.float64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which answers are true [Q]."""
        return np.array([text == item.truth for text, item in zip(self.texts, self.examples, strict=True)], dtype=bool)


def examples_of(scenes: Sequence[AnyScene], *, seed: int, held_out: bool = False) -> list[Example]:
    """One question of each kind about every scene that has a clear one.

    Args:
        scenes: What is asked about.
        seed: Of the questions.
        held_out: Ask in phrasings that no training has used, and in these only.
    """
    rng = np.random.default_rng([seed, 77, int(held_out)])
    examples: list[Example] = []
    for index, scene in enumerate(scenes):
        for kind in QUESTION_KINDS:
            question = sample_question(kind, scene, rng, held_out=held_out)
            truth = answer_to(question, scene) if question else None
            if question is not None and truth is not None:
                examples.append(Example(index, question, truth))
    return examples


def answer_examples(
    vlm: ModelAdapter, frames: Sequence[NDArray[np.uint8]], examples: list[Example], *, blind: bool = False
) -> Answered:
    """Ask every question on its own.

    Args:
        vlm: The model.
        frames: RGB frames, uint8 [H, W, 3] each, of one size.
        examples: Questions about them, sorted by frame.
        blind: Replace each visual token by the mean token of these frames: what the model says without looking.
    """
    tokens = torch.cat([vlm.encode_pixels(np.stack(frames[i : i + _BATCH])) for i in range(0, len(frames), _BATCH)])
    if blind:
        tokens = tokens.mean(dim=(0, 1), keepdim=True).expand_as(tokens)
    texts: list[str] = []
    probabilities: list[float] = []
    for start in range(0, len(examples), 4 * _BATCH):
        part = examples[start : start + 4 * _BATCH]
        first = part[0].frame
        found = vlm.answer(
            tokens[first : part[-1].frame + 1],
            [(item.question.text, ANSWER_TYPES[item.question.kind]) for item in part],
            frames=[item.frame - first for item in part],
        )
        texts += [answer.text.strip().lower() for answer in found]
        probabilities += [answer.probability for answer in found]
    return Answered(examples, texts, np.array(probabilities))


def accuracy_by(answered: Answered, group: Callable[[Example], str | None]) -> dict[str, dict[str, float]]:
    """Share of right answers and number of questions in each group, and in `all`; None leaves an example out."""
    names = [group(item) for item in answered.examples]
    right = answered.right
    table: dict[str, dict[str, float]] = {}
    for name in [*dict.fromkeys(name for name in names if name is not None), "all"]:
        chosen = right[[found is not None and name in (found, "all") for found in names]]
        if len(chosen):
            table[name] = {"accuracy": round(float(chosen.mean()), 4), "questions": len(chosen)}
    return table


def calibration_error(answered: Answered) -> float:
    """Expected calibration error of the answers' probabilities, 15 bins of equal width (Guo et al., ICML 2017)."""
    bins = np.minimum((answered.probabilities * _BINS).astype(int), _BINS - 1)
    right, error = answered.right, 0.0
    for number in np.unique(bins):
        chosen = bins == number
        error += chosen.mean() * abs(right[chosen].mean() - answered.probabilities[chosen].mean())
    return round(float(error), 4)


def _figures(answered: Answered) -> dict[str, Any]:
    return {
        **accuracy_by(answered, lambda item: item.question.kind),
        "negatives": accuracy_by(answered, lambda item: item.question.negative),
        "calibration_error": calibration_error(answered),
    }


def evaluate_reference_vlm(
    model_dir: Path,
    *,
    frames: int,
    photos: Path | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure a saved model on frames that no training draws.

    Args:
        model_dir: Folder in the format of `save_pretrained`.
        frames: Number of frames of each domain; up to six questions are asked about each.
        photos: Class folder of photographs, or a zip of one; the validation part is shown.
        seed: Chooses the held-out scenes.
        progress: Called with a line of text now and then.

    Returns:
        For each domain accuracy and number of questions by kind, by kind of negative (POPE), and the expected
        calibration error: `rendered`; `held_out_phrasings` of the same frames; `blind` (no image); `video`, decoded
        from H.264, which no training frame has met; `detail`, frames of twice the size shown as tiles and as a whole;
        `photographs`.
    """
    vlm = load_model(model_dir)
    size = int(vlm.model.config.vision_config.image_size)
    first = HELD_OUT_SEEDS + seed * SEED_STRIDE
    scenes: list[AnyScene] = [sample_scene(first + index) for index in range(frames)]
    pixels = [render(sample_scene(first + index), size) for index in range(frames)]
    report: dict[str, Any] = {}

    def measure(name: str, domain_scenes: Sequence[AnyScene], images: list[NDArray[np.uint8]], **how: bool) -> None:
        examples = examples_of(domain_scenes, seed=seed, held_out=how.get("held_out", False))
        model = split if name == "detail" else vlm
        report[name] = _figures(answer_examples(model, images, examples, blind=how.get("blind", False)))
        progress(
            f"{name}: {report[name]['all']['accuracy']:.1%} of {report[name]['all']['questions']} answers are right"
        )

    measure("rendered", scenes, pixels)
    measure("held_out_phrasings", scenes, pixels, held_out=True)
    measure("blind", scenes, pixels, blind=True)
    measure("video", *_video_frames(frames, size=size, seed=first))
    split = load_model(model_dir, tiles_per_edge=2)
    detail = [sample_scene(first + SEED_STRIDE // 2 + index, detail=True) for index in range(frames)]
    measure("detail", detail, [render(scene, 2 * size) for scene in detail])
    if photos is not None:
        library = PhotoLibrary.open(photos)
        drawn = [sample_photo_scene(first + index, library, "validation", size=size) for index in range(frames)]
        measure("photographs", [scene for _, scene in drawn], [image for image, _ in drawn])
    return report


def evaluate_everyday(
    model_dir: Path,
    *,
    frames: int,
    photos: Path | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure a saved model on scenes of each kind, with questions whose answers are balanced.

    Args:
        model_dir: Folder in the format of `save_pretrained`.
        frames: Number of held-out frames of each kind of scene; up to six questions are asked about each.
        photos: Class folder of photographs, or a zip of one; the validation part is shown.
        seed: Chooses the scenes.
        progress: Called with a line of text now and then.

    Returns:
        Accuracy and number of questions by kind: `everyday`, `hard` and, of frames of twice the size, `detail`, each
        also with the suffix `_unseen` in wordings that no training uses, and with the suffix `_blind` without the
        image; `photographs` and `photographs_blind`.
    """
    vlm = load_model(model_dir)
    size, first = vlm.frame_size_px, seed * SEED_STRIDE
    report: dict[str, Any] = {}

    def measure(
        name: str, shown: ModelAdapter, scenes: Sequence[AnyScene], pixels: list[NDArray[np.uint8]], *suffixes: str
    ) -> None:
        for suffix in ("", *suffixes):
            asked = balanced_questions(scenes, seed, held_out=suffix == "_unseen")
            examples = [Example(item.scene, item.question, item.truth) for item in asked]
            report[name + suffix] = _figures(answer_examples(shown, pixels, examples, blind=suffix == "_blind"))
            progress(f"{name}{suffix}: {report[name + suffix]['all']['accuracy']:.1%} of the answers are right")

    everyday = [sample_everyday_scene(EVERYDAY_HELD_OUT_SEEDS + first + index) for index in range(frames)]
    hard = [sample_scene(HELD_OUT_SEEDS + first + index) for index in range(frames)]
    detail = [sample_scene(HELD_OUT_SEEDS + first + SEED_STRIDE // 2 + index, detail=True) for index in range(frames)]
    measure("everyday", vlm, everyday, [render(scene, size) for scene in everyday], "_unseen", "_blind")
    measure("hard", vlm, hard, [render(scene, size) for scene in hard], "_unseen", "_blind")
    large = _in_detail(model_dir, vlm)
    measure("detail", large, detail, [render(scene, 2 * size) for scene in detail], "_unseen", "_blind")
    if photos is not None:
        library = library_of(photos)
        first_photo = HELD_OUT_SEEDS + first
        drawn = [sample_photo_scene(first_photo + index, library, "validation", size=size) for index in range(frames)]
        measure("photographs", vlm, [scene for _, scene in drawn], [image for image, _ in drawn], "_blind")
    return report


def _in_detail(model_dir: Path, vlm: ModelAdapter) -> ModelAdapter:
    """The model for frames of twice the size: as they are where it reads any size, or else as tiles and a whole."""
    if vlm.model.config.model_type == "fast_vlm":
        return load_model(model_dir, frame_size_px=2 * vlm.frame_size_px)
    return load_model(model_dir, tiles_per_edge=2)


def _video_frames(count: int, *, size: int, seed: int) -> tuple[list[AnyScene], list[NDArray[np.uint8]]]:
    """Frames of an H.264 clip and the scenes that they show; every fourth frame, so that most scenes differ."""
    from pipeline.scenes.video import decode_frames, write_clip  # needs PyAV, which the training itself does not

    duration_s = count * 4 / _CLIP_FPS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, seed=seed, duration_s=duration_s, fps=_CLIP_FPS, questions={}, size=size, mean_shot_s=_SHOT_S)
        pixels = list(decode_frames(path))[::4]
    clip = SceneClip(seed, duration_s, mean_shot_s=_SHOT_S)
    return [clip.scene_at(min(index * 4 / _CLIP_FPS, duration_s)) for index in range(len(pixels))], pixels
