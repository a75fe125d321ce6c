"""Accuracy by kind of question while a model learns: everyday and hard scenes, photographs, unseen wordings.

An answer counts when every token of the truth, its end included, is the most likely one: what greedy decoding says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from pipeline.scenes.everyday import EVERYDAY_HELD_OUT_SEEDS, Asked, balanced_questions, sample_everyday_scene
from pipeline.scenes.photographs import PhotoLibrary, sample_photo_scene
from pipeline.scenes.questions import QUESTION_KINDS
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import sample_scene
from training.reference_vlm.dense_labels import IGNORE
from training.reference_vlm.frames import HELD_OUT_SEEDS
from training.reference_vlm.pretrained.batches import TextPacker
from training.reference_vlm.pretrained.losses import language_states, visual_tokens
from training.reference_vlm.text_blocks import AnyScene
from training.reference_vlm.tower import normalise

_BATCH: Final = 32
NUMBER_OF_WATCHED: Final = 500_000_000
"""Held-out scenes that are looked at during training lie so far behind those of the evaluation."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out scenes with balanced questions.

    Attributes:
        scenes: What is shown.
        frames: uint8 [B, S, S, 3].
        usual: Questions in the wordings of fleets.
        unseen: The same questions in held-out wordings; none about photographs.
    """

    scenes: list[AnyScene]
    frames: Tensor
    usual: list[Asked]
    unseen: list[Asked]


def held_out(name: str, count: int, size: int, *, watched: bool = False) -> HeldOut:
    """Draw held-out scenes.

    Args:
        name: `everyday` or `hard`.
        count: How many.
        size: Height and width in pixels.
        watched: Those that are looked at during training, not those of the evaluation.
    """
    offset = NUMBER_OF_WATCHED if watched else 0
    if name == "everyday":
        drawn = [sample_everyday_scene(EVERYDAY_HELD_OUT_SEEDS + offset + index) for index in range(count)]
    else:
        drawn = [sample_scene(HELD_OUT_SEEDS + offset + index) for index in range(count)]
    frames = torch.from_numpy(np.stack([render(scene, size) for scene in drawn]))
    scenes = list[AnyScene](drawn)
    return HeldOut(scenes, frames, balanced_questions(scenes, 0), balanced_questions(scenes, 0, held_out=True))


def held_out_photographs(library: PhotoLibrary, count: int, size: int, *, watched: bool = False) -> HeldOut:
    """Draw frames of photographs that no training shows; see `held_out`."""
    first = HELD_OUT_SEEDS + (NUMBER_OF_WATCHED if watched else 0)
    drawn = [sample_photo_scene(first + index, library, "validation", size=size) for index in range(count)]
    scenes = [scene for _, scene in drawn]
    frames = torch.from_numpy(np.stack([frame for frame, _ in drawn]))
    return HeldOut(list[AnyScene](scenes), frames, balanced_questions(scenes, 0), [])


def _accuracy(
    model: Any, packer: TextPacker, shown: HeldOut, tokens: Tensor, asked: Sequence[Asked]
) -> dict[str, float]:
    right: dict[str, list[bool]] = {kind: [] for kind in QUESTION_KINDS}
    for first in range(0, len(shown.scenes), _BATCH):
        scenes = shown.scenes[first : first + _BATCH]
        of_scene: list[list[Asked]] = [[] for _ in scenes]
        for item in asked:
            if first <= item.scene < first + len(scenes):
                of_scene[item.scene - first].append(item)
        texts = [[(item.question.text, f" {item.truth}", item.question) for item in items] for items in of_scene]
        batch = packer.pack(scenes, texts)
        states = language_states(model, batch, tokens[first : first + len(scenes)])
        wrong = (model.lm_head(states.last).argmax(-1) != batch.targets) & (batch.targets != IGNORE)
        for row, items in enumerate(of_scene):
            for number, item in enumerate(items, start=1):
                right[item.question.kind].append(not bool(wrong[row][batch.owners[row] == number].any()))
    table = {kind: float(np.mean(found)) for kind, found in right.items() if found}
    return {**table, "all": float(np.mean([value for found in right.values() for value in found]))}


@torch.inference_mode()
def measure(model: Any, packer: TextPacker, sets: dict[str, HeldOut]) -> dict[str, dict[str, float]]:
    """Share of right answers by kind, for every set and, under `<set>_unseen`, for its unseen wordings."""
    report: dict[str, dict[str, float]] = {}
    for name, shown in sets.items():
        tokens = torch.cat(
            [
                visual_tokens(model, normalise(shown.frames[first : first + _BATCH]))
                for first in range(0, len(shown.frames), _BATCH)
            ]
        )
        report[name] = _accuracy(model, packer, shown, tokens, shown.usual)
        if shown.unseen:
            report[f"{name}_unseen"] = _accuracy(model, packer, shown, tokens, shown.unseen)
    return report


def line_of(report: dict[str, dict[str, float]]) -> str:
    """The report in one line of percentages."""
    return "; ".join(
        f"{name}: " + " ".join(f"{kind} {value:.1%}" for kind, value in table.items()) for name, table in report.items()
    )
