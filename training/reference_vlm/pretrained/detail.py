"""Frames in detail: hard scenes with smaller objects, drawn at twice the size, so with four times the visual tokens.

The tower is convolutional and takes them as they are; neither the model nor its weights know two sizes apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import torch

from pipeline.scenes.everyday import balanced_questions
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import Scene, sample_scene
from training.reference_vlm.dense_labels import dense_labels
from training.reference_vlm.frames import HELD_OUT_SEEDS, SEED_STRIDE, TRAIN_SEEDS, render_degraded
from training.reference_vlm.pretrained.batches import FrameBatch
from training.reference_vlm.pretrained.measure import NUMBER_OF_WATCHED, HeldOut
from training.reference_vlm.pretrained.model import PLACES, VlmSize, third_vocabulary

SCALE: Final = 2
_SEED_OFFSET: Final = SEED_STRIDE + 800_000_000
"""Behind the hard scenes of the other frames."""
_SEEDS: Final = 100_000_000


def in_detail(size: VlmSize) -> VlmSize:
    """The same model for frames in detail."""
    return replace(size, image_size=SCALE * size.image_size)


def draw_detail_frames(seed: int, stage: int, step: int, batch: int, size: VlmSize) -> FrameBatch:
    """Draw the frames of a step that shows scenes in detail.

    Args:
        seed: Of the training.
        stage: Number of the stage.
        step: Number of the step; no two steps of a run share frames.
        batch: Frames.
        size: From `in_detail`.
    """
    rng = np.random.default_rng([seed, stage, step, 2])
    first = ((seed * 8 + stage) * 5_000_000 + step * batch) % _SEEDS
    scenes = [sample_scene(TRAIN_SEEDS + _SEED_OFFSET + first + row, detail=True) for row in range(batch)]
    frames = np.stack([render_degraded(scene, size.image_size, rng) for scene in scenes])
    vocabulary = third_vocabulary()
    labels = [
        dense_labels(scene, size.grid, vocabulary, bins=PLACES).reshape(-1, size.image_tokens) for scene in scenes
    ]
    return FrameBatch(torch.from_numpy(frames), torch.from_numpy(np.stack(labels)).long(), [*scenes])


def held_out_detail(count: int, size: VlmSize, *, watched: bool = False) -> HeldOut:
    """Draw held-out scenes in detail; see `training.reference_vlm.pretrained.measure.held_out`.

    Args:
        count: How many.
        size: From `in_detail`.
        watched: Those that are looked at during training, not those of the evaluation.
    """
    first = HELD_OUT_SEEDS + SEED_STRIDE // 2 + (NUMBER_OF_WATCHED if watched else 0)
    drawn: list[Scene] = [sample_scene(first + index, detail=True) for index in range(count)]
    frames = torch.from_numpy(np.stack([render(scene, size.image_size) for scene in drawn]))
    return HeldOut([*drawn], frames, balanced_questions(drawn, 0), balanced_questions(drawn, 0, held_out=True))
