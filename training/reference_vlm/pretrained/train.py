"""The command that trains the third reference VLM: tower on dense labels, then everything together."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from pipeline.scenes.photographs import PhotoLibrary
from schemas.errors import ConfigError
from training.reference_vlm.config import StageBudget
from training.reference_vlm.loop import Stage, run_stage
from training.reference_vlm.pool import library_of
from training.reference_vlm.pretrained.batches import (
    FrameBatch,
    SceneMix,
    TextBatch,
    TextPacker,
    draw_frames,
)
from training.reference_vlm.pretrained.detail import draw_detail_frames, held_out_detail, in_detail
from training.reference_vlm.pretrained.imagenet import freeze_norms_and_gates
from training.reference_vlm.pretrained.losses import (
    DenseHead,
    MentionHead,
    answer_loss,
    language_states,
    modifier_loss,
    visual_tokens,
)
from training.reference_vlm.pretrained.measure import HeldOut, held_out, held_out_photographs, line_of, measure
from training.reference_vlm.pretrained.model import (
    PHOTO_CLASSES,
    VlmSize,
    build_model,
    build_processor,
    image_prefix,
    third_tokenizer,
    third_vocabulary,
)
from training.reference_vlm.tower import jitter, normalise
from training.run import RunSettings

RECIPE: Final = 4
REPORT_FILE: Final = "training.json"
_WATCHING: Final = frozenset({"watched", "watch_every", "evaluated"})
"""What a budget says of measuring: a run goes on whatever it is."""
_DETAIL_SHARE: Final = 4
"""A frame in detail has four times the visual tokens: a step shows a quarter as many."""
_TRUNK_RATE: Final = 0.4
"""The trunk knows its craft: it learns at a share of the others' rate."""


@dataclass(frozen=True, slots=True)
class ThirdBudget:
    """How much of everything.

    Attributes:
        model: Architecture of the language model.
        tower: Tower, projector and word embeddings on dense labels.
        pairs: Everything, mostly on scenes of two objects.
        joint: Everything, on all scenes.
        questions: Questions about each frame.
        watched: Held-out frames of each kind of scene that are asked about now and then.
        watch_every: Steps between.
        evaluated: Held-out frames of each kind of scene that the finished model is asked about; other ones.
        dense_weight: Weight of the dense labels beside the answers.
        mention_weight: Weight of what words say that name objects beside the answers.
        detail_every: Every so many-th step shows a quarter as many frames in detail; 0 shows none.
    """

    model: VlmSize = field(default_factory=VlmSize)
    tower: StageBudget = field(default_factory=lambda: StageBudget(600, 32, 1.2e-3))
    pairs: StageBudget = field(default_factory=lambda: StageBudget(600, 24, 1.0e-3))
    joint: StageBudget = field(default_factory=lambda: StageBudget(5_000, 24, 1.0e-3))
    questions: int = 14
    watched: int = 160
    watch_every: int = 250
    evaluated: int = 400
    dense_weight: float = 0.4
    mention_weight: float = 0.3
    detail_every: int = 5

    def as_dict(self) -> dict[str, Any]:
        """Plain data for reports and checkpoints."""
        return asdict(self)

    def learned(self) -> dict[str, Any]:
        """What decides about the weights; a run that goes on must have the same."""
        return {name: value for name, value in self.as_dict().items() if name not in _WATCHING}


THIRD_BUDGETS: Final[dict[str, ThirdBudget]] = {
    "full": ThirdBudget(),
    "smoke": ThirdBudget(
        model=VlmSize(width=48, heads=2, layers=2),
        tower=StageBudget(2, 2, 1e-3),
        pairs=StageBudget(2, 2, 1e-3),
        joint=StageBudget(2, 2, 1e-3),
        questions=3,
        watched=4,
        watch_every=2,
        evaluated=4,
        detail_every=2,
    ),
}
"""``full`` takes about four hours of two CPU cores, over as many runs as it needs; ``smoke`` about a minute."""

_MIXES: Final = {
    1: SceneMix(pairs=0.1, hard=0.45, photographs=0.15),
    2: SceneMix(pairs=0.75, hard=0.1, photographs=0.05),
    3: SceneMix(pairs=0.1, hard=0.3, photographs=0.2),
}


class ThirdRun:
    """What the stages share.

    Args:
        budget: How much of everything.
        photos: Library of photographs, if any.
        run: Seed of weights, frames and order; device.
        pretrained: Start the tower from ImageNet.
    """

    def __init__(self, budget: ThirdBudget, photos: Path | None, run: RunSettings, *, pretrained: bool) -> None:
        seed = run.seed
        self.budget, self.seed, self.device = budget, seed, torch.device(run.device)
        self._photos = library_of(photos) if photos else None
        self.tokenizer = third_tokenizer()
        self.model = build_model(budget.model, self.tokenizer, seed=seed, pretrained=pretrained).to(self.device)
        self.model.to(memory_format=torch.channels_last)
        freeze_norms_and_gates(self.model.model.vision_tower)
        self.processor = build_processor(self.tokenizer, budget.model)
        self.packer = TextPacker(self.tokenizer, image_prefix(self.processor, budget.model))
        self._detail_size = in_detail(budget.model)
        larger = build_processor(self.tokenizer, self._detail_size)
        self._detail_packer = TextPacker(self.tokenizer, image_prefix(larger, self._detail_size))
        self.dense = DenseHead(self.tokenizer).to(self.device)
        torch.manual_seed(seed + 1)
        self.mention = MentionHead(budget.model.width).to(self.device)
        self._generator = torch.Generator(device=self.device)
        self._drawer = ThreadPoolExecutor(1, thread_name_prefix="frames")
        self._next: tuple[tuple[int, int], Future[tuple[FrameBatch, TextBatch | None]]] | None = None
        self._watched = self._held_out(budget.watched, watched=True)
        self._watched_detail = self._held_out_detail(budget.watched, watched=True)

    def close(self) -> None:
        """End the thread that draws frames."""
        self._drawer.shutdown(wait=True, cancel_futures=True)

    def _draw(self, stage: int, step: int, batch: int) -> tuple[FrameBatch, TextBatch | None]:
        every, packer = self.budget.detail_every, self.packer
        if every and step % every == every - 1:
            packer = self._detail_packer
            drawn = draw_detail_frames(self.seed, stage, step, max(batch // _DETAIL_SHARE, 1), self._detail_size)
        else:
            drawn = draw_frames(self.seed, stage, step, batch, _MIXES[stage], self.budget.model, self._photos)
        if stage == 1:
            return drawn, None
        rng = np.random.default_rng([self.seed, stage, step, 1])
        texts = [packer.texts(scene, rng, self.budget.questions) for scene in drawn.scenes]
        return drawn, packer.pack(drawn.scenes, texts)

    def batch(self, stage: int, step: int, batch: int) -> tuple[FrameBatch, TextBatch | None]:
        """The batch of a step; that of the next one is drawn meanwhile."""
        waiting, self._next = self._next, None
        if waiting is None or waiting[0] != (stage, step):
            waiting = ((stage, step), self._drawer.submit(self._draw, stage, step, batch))
        found = waiting[1].result()
        self._next = ((stage, step + 1), self._drawer.submit(self._draw, stage, step + 1, batch))
        return found

    def _tokens(self, drawn: FrameBatch, stage: int, step: int) -> Tensor:
        self._generator.manual_seed((self.seed * 7 + stage) * 10_000_019 + step)
        return visual_tokens(self.model, jitter(normalise(drawn.frames.to(self.device)), self._generator))

    def _dense(self, tokens: Tensor, drawn: FrameBatch) -> tuple[Tensor, dict[str, Tensor]]:
        found: tuple[Tensor, dict[str, Tensor]] = self.dense(
            tokens, self.model.get_input_embeddings().weight, drawn.labels.to(self.device)
        )
        return found

    def tower_stage(self) -> Stage:
        """Tower, projector and word embeddings on dense labels."""

        def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
            drawn, _ = self.batch(1, step, self.budget.tower.batch)
            return self._dense(self._tokens(drawn, 1, step), drawn)

        modules = {
            "trunk": self.model.model.vision_tower,
            "projector": self.model.model.multi_modal_projector,
            "embedding": self.model.get_input_embeddings(),
            "dense": self.dense,
        }
        return Stage("tower", self.budget.tower, modules, loss, slower={"trunk": _TRUNK_RATE})

    def language_stage(self, name: str, number: int) -> Stage:
        """Everything on questions, lists and captions: stage 2 mostly pairs of objects, stage 3 all scenes."""
        budget: StageBudget = self.budget.pairs if name == "pairs" else self.budget.joint

        def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
            drawn, texts = self.batch(number, step, budget.batch)
            if texts is None:
                raise AssertionError("a language stage draws texts")
            tokens = self._tokens(drawn, number, step)
            dense, figures = self._dense(tokens, drawn)
            texts = texts.to(self.device)
            states = language_states(self.model, texts, tokens)
            answers, right = answer_loss(self.model, states.last, texts.targets)
            named, places = self.mention(states, texts, tokens)
            apart, looked = modifier_loss(self.model, texts, states.embedded)
            total = answers + self.budget.dense_weight * dense + self.budget.mention_weight * (named + apart)
            return total, {"answers": answers, "said": right, **figures, **places, "looked": looked}

        modules = {
            "trunk": self.model.model.vision_tower,
            "model": self.model,
            "dense": self.dense,
            "mention": self.mention,
        }
        watch: Callable[[int], str] = lambda _: line_of(self._measured(self._watched, self._watched_detail))  # noqa: E731
        return Stage(
            name, budget, modules, loss, slower={"trunk": _TRUNK_RATE}, watch=watch, watch_every=self.budget.watch_every
        )

    def accuracy(self) -> dict[str, dict[str, float]]:
        """Accuracy by kind of question on frames that nothing has looked at before."""
        count = self.budget.evaluated
        return self._measured(self._held_out(count, watched=False), self._held_out_detail(count, watched=False))

    def _measured(self, sets: dict[str, HeldOut], detail: dict[str, HeldOut]) -> dict[str, dict[str, float]]:
        return measure(self.model, self.packer, sets) | measure(self.model, self._detail_packer, detail)

    def _held_out_detail(self, count: int, *, watched: bool) -> dict[str, HeldOut]:
        if not self.budget.detail_every:
            return {}
        return {"detail": held_out_detail(count, self._detail_size, watched=watched)}

    def _held_out(self, count: int, *, watched: bool) -> dict[str, HeldOut]:
        size = self.budget.model.image_size
        sets = {name: held_out(name, count, size, watched=watched) for name in ("everyday", "hard")}
        if self._photos is not None:
            sets["photographs"] = held_out_photographs(self._photos, count, size, watched=watched)
        return sets

    def save(self, output_dir: Path) -> None:
        """Write model and processor in the format of `save_pretrained`; weights are rounded to bfloat16."""
        rounded = build_model(self.budget.model, self.tokenizer, seed=self.seed, pretrained=False)
        rounded.load_state_dict(self.model.state_dict())
        rounded.to(torch.bfloat16).save_pretrained(output_dir)
        self.processor.save_pretrained(output_dir)


def _known_library(photos: Path) -> PhotoLibrary:
    """A library whose classes the vocabulary has."""
    library, kinds = library_of(photos), third_vocabulary().kinds
    if unknown := [name for name in library.classes if name not in kinds]:
        known = ", ".join(name for name, _ in PHOTO_CLASSES)
        raise ConfigError("--photos", f"{photos} has the classes {', '.join(unknown)}; the model has words for {known}")
    return library


def train_third_reference_vlm(
    output_dir: Path,
    run: RunSettings,
    *,
    photos: Path | None = None,
    budget: ThirdBudget | str = "full",
    pretrained: bool = True,
) -> dict[str, Any]:
    """Train the third reference VLM, or go on with a run of the same budget, seed and photographs.

    Args:
        output_dir: Where the model is written in the format of `save_pretrained`, with `training.json` beside it.
        run: Cache for checkpoints, 100 MB; seed of weights, frames and order; device, threads. Without `resume` the
            checkpoints of the same run are dropped.
        photos: Class folder of photographs, or a zip of one, with the classes of CIFAR-10 or some of them.
        budget: How much of everything, or a name in `THIRD_BUDGETS`.
        pretrained: Start the tower from ImageNet.

    Returns:
        What is written to `training.json`: budget, seed, seconds and last figures of each stage, and the accuracy of
        the finished model on held-out frames, everyday and hard, in usual and unseen wordings,
        and of photographs.

    Raises:
        ConfigError: An unknown budget name, photographs of other classes, or no package with the ImageNet weights.
        ArtifactError: The photographs cannot be read.
    """
    if isinstance(budget, str):
        if budget not in THIRD_BUDGETS:
            raise ConfigError("budget", f"{budget!r} is none of {', '.join(THIRD_BUDGETS)}")
        budget = THIRD_BUDGETS[budget]
    torch.set_num_threads(run.threads)
    run_dir = run.cache_dir / run_name(budget, photos, seed=run.seed, pretrained=pretrained)
    if not run.resume and run_dir.exists():
        shutil.rmtree(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    third = ThirdRun(budget, photos, run, pretrained=pretrained)
    report: dict[str, Any] = {"seed": run.seed, "device": run.device, "budget": budget.as_dict(), "stages": {}}
    try:
        for stage in (third.tower_stage(), third.language_stage("pairs", 2), third.language_stage("joint", 3)):
            if stage.budget.steps:
                report["stages"][stage.name] = run_stage(stage, run_dir, progress=run.progress)
    finally:
        third.close()
    report["accuracy"] = third.accuracy()
    third.save(output_dir)
    run.progress(f"{output_dir} written")
    (output_dir / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def run_name(budget: ThirdBudget, photos: Path | None, *, seed: int, pretrained: bool) -> str:
    """Folder of a run's checkpoints in the cache: the same for all runs that may go on from each other.

    Raises:
        ConfigError: Photographs of classes that the vocabulary lacks.
        ArtifactError: The photographs cannot be read.
    """
    shown = None if photos is None else _known_library(photos).sha256
    recipe = {"recipe": RECIPE, "seed": seed, "photos": shown, "pretrained": pretrained, **budget.learned()}
    return f"third-{hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]}"
