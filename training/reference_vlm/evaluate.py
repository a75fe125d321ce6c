"""Accuracy of a reference VLM on held-out scenes: one question a sequence, real chat template, real `generate`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pipeline.scenes.motion import SceneClip
from pipeline.scenes.questions import QUESTION_KINDS, QuestionSpec, answer_to, sample_question
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import Scene, sample_scene
from pipeline.scenes.video import decode_frames, write_clip
from training.reference_vlm.frames import HELD_OUT_SEEDS, SEED_STRIDE

_BATCH: Final = 64
_CLIP_FPS: Final = 2
_SHOT_S: Final = 2.0


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


def examples_of(scenes: Sequence[Scene], *, seed: int) -> list[Example]:
    """One question of each kind about every scene that has a clear one."""
    rng = np.random.default_rng([seed, 77])
    examples: list[Example] = []
    for index, scene in enumerate(scenes):
        for kind in QUESTION_KINDS:
            question = sample_question(kind, scene, rng)
            truth = answer_to(question, scene) if question else None
            if question is not None and truth is not None:
                examples.append(Example(index, question, truth))
    return examples


def answer_examples(
    model: Any, processor: Any, frames: Sequence[NDArray[np.uint8]], examples: Sequence[Example], *, blind: bool = False
) -> list[str]:
    """Ask every question on its own.

    Args:
        model: A VLM of any class that takes `mm_encoder_outputs`.
        processor: Its processor.
        frames: RGB frames, uint8 [H, W, 3] each.
        examples: Questions about them.
        blind: Replace each visual token by the mean token of these frames: what the model says without looking.

    Returns:
        Answers, stripped and in lower case.
    """
    replacement: torch.Tensor | None = None
    if blind:
        images = [[Image.fromarray(frame)] for frame in frames]
        pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            tokens = model.get_image_features(pixels, return_dict=True).pooler_output
        replacement = torch.stack(list(tokens)).mean(dim=(0, 1), keepdim=True)[0].expand_as(tokens[0])
    answers: list[str] = []
    for start in range(0, len(examples), _BATCH):
        batch = examples[start : start + _BATCH]
        prompts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": item.question.text}]}],
                add_generation_prompt=True,
            )
            for item in batch
        ]
        images = [[Image.fromarray(frames[item.frame])] for item in batch]
        inputs = processor(text=prompts, images=images, return_tensors="pt", padding=True)
        if replacement is not None:
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            pooled = [replacement] * len(batch)
            inputs["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=pooled)}
        with torch.no_grad():
            output = model.generate(**inputs, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        answers += [text.strip().lower() for text in processor.batch_decode(new, skip_special_tokens=True)]
    return answers


def accuracy_by_kind(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, dict[str, float]]:
    """Share of right answers and number of questions, for each kind and over all."""
    table: dict[str, dict[str, float]] = {}
    right = np.array([answer == item.truth for item, answer in zip(examples, answers, strict=True)])
    kinds = np.array([item.question.kind for item in examples])
    for name in (*QUESTION_KINDS, "all"):
        chosen = right if name == "all" else right[kinds == name]
        if len(chosen):
            table[name] = {"accuracy": round(float(chosen.mean()), 4), "questions": len(chosen)}
    return table


def evaluate_reference_vlm(model_dir: Path, *, frames: int, seed: int = 0) -> dict[str, Any]:
    """Measure a saved model on scenes that no training seed ever draws.

    Args:
        model_dir: Folder in the format of `save_pretrained`.
        frames: Number of frames of each source; about four questions are asked about each.
        seed: Chooses the held-out scenes.

    Returns:
        Accuracy and number of questions by kind for `rendered` frames, for `video` frames (decoded from an H.264 clip
        of twice the model's resolution), and `blind` (no image).
    """
    model = AutoModelForImageTextToText.from_pretrained(model_dir).eval()
    processor = AutoProcessor.from_pretrained(model_dir)
    size = model.config.vision_config.image_size
    first = HELD_OUT_SEEDS + seed * SEED_STRIDE
    scenes = [sample_scene(first + index) for index in range(frames)]
    pixels = [render(scene, size) for scene in scenes]
    examples = examples_of(scenes, seed=seed)
    report = {
        "rendered": accuracy_by_kind(examples, answer_examples(model, processor, pixels, examples)),
        "blind": accuracy_by_kind(examples, answer_examples(model, processor, pixels, examples, blind=True)),
    }
    video_scenes, video_pixels = _video_frames(frames, size=2 * size, seed=first)
    examples = examples_of(video_scenes, seed=seed)
    report["video"] = accuracy_by_kind(examples, answer_examples(model, processor, video_pixels, examples))
    return report


def _video_frames(count: int, *, size: int, seed: int) -> tuple[list[Scene], list[NDArray[np.uint8]]]:
    """Frames decoded from an encoded clip, and the scenes they show."""
    duration_s = count / _CLIP_FPS
    clip = SceneClip(seed, duration_s, mean_shot_s=_SHOT_S)
    with tempfile.TemporaryDirectory() as folder:
        info = write_clip(
            Path(folder) / "held-out.mp4",
            seed=seed,
            duration_s=duration_s,
            fps=_CLIP_FPS,
            questions={},
            size=size,
            mean_shot_s=_SHOT_S,
        )
        frames = list(decode_frames(info.path))
    return [clip.scene_at(index / _CLIP_FPS) for index in range(len(frames))], frames
