"""The command that trains the bundled reference VLM from nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, SmolVLMForConditionalGeneration

from training.reference_vlm.config import BUDGETS, StageBudget, TrainingBudget
from training.reference_vlm.dense_labels import LABELS, dense_labels
from training.reference_vlm.evaluate import evaluate_reference_vlm
from training.reference_vlm.frames import RECIPE, SEED_STRIDE, TRAIN_SEEDS, FrameSet, prepare_frames
from training.reference_vlm.language_stage import BlockEncoder, TextBlock, answer_loss, collate
from training.reference_vlm.loop import Progress, Stage, run_stage
from training.reference_vlm.model import build_model
from training.reference_vlm.tokenizer import build_processor, train_tokenizer
from training.reference_vlm.tower_stage import WordGroups, WordHead, dense_loss, jitter, normalise, visual_tokens

_CAPTION_EVERY: Final = 5
"""In the question stage every fifth step trains captions, so that the model keeps describing."""


class _Run:
    """What the stages of one training share."""

    def __init__(self, budget: TrainingBudget, frames: FrameSet, run_dir: Path, seed: int, progress: Progress) -> None:
        self.budget = budget
        self.frames = frames
        self.run_dir = run_dir
        self.seed = seed
        self.progress = progress
        self.tokenizer: PreTrainedTokenizerFast = train_tokenizer()
        self.model: SmolVLMForConditionalGeneration = build_model(budget.model, self.tokenizer, seed=seed)
        self.encoder = BlockEncoder(self.tokenizer, image_tokens=budget.model.image_tokens)
        self.head = WordHead(WordGroups.of(self.tokenizer))

    def draw(self, stage: StageBudget, number: int, step: int) -> tuple[NDArray[np.int64], np.random.Generator]:
        """Frames of one step. Depends on the step alone, so that a resumed run sees what an unbroken one sees."""
        rng = np.random.default_rng([self.seed, number, step])
        return np.sort(rng.choice(len(self.frames), size=stage.batch, replace=False)), rng

    def pixels(self, chosen: NDArray[np.int64], number: int, step: int) -> Tensor:
        """Jittered pixels of the chosen frames, float [B, 3, H, W]."""
        generator = torch.Generator().manual_seed((self.seed * 7 + number) * 10_000_019 + step)
        return jitter(normalise(torch.from_numpy(self.frames.frames[chosen])), generator)

    def labels(self, chosen: NDArray[np.int64]) -> Tensor:
        """Dense labels of the chosen frames, int64 [B, 5, N]."""
        grid = self.budget.model.grid
        return torch.from_numpy(
            np.stack([dense_labels(self.frames.scene(int(i)), grid).reshape(len(LABELS), -1) for i in chosen])
        )

    def sequences(
        self, chosen: NDArray[np.int64], rng: np.random.Generator, *, captions: bool
    ) -> list[list[TextBlock]]:
        """What is said about each chosen frame."""
        scenes = [self.frames.scene(int(i)) for i in chosen]
        if captions:
            return [[self.encoder.caption(scene)] for scene in scenes]
        return [self.encoder.questions(scene, self.budget.questions_per_sequence, rng) for scene in scenes]

    def tower_stage(self) -> Stage:
        """Stage 1: tower, connector and word embeddings on dense labels."""
        embedding = self.model.get_input_embeddings()

        def loss(step: int) -> tuple[Tensor, dict[str, float]]:
            chosen, _ = self.draw(self.budget.tower, 1, step)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                tokens = visual_tokens(self.model, self.pixels(chosen, 1, step)).float()
            dense, figures = dense_loss(self.head(tokens, embedding.weight), self.labels(chosen))
            # Unit variance keeps visual tokens in the range of the language model's other inputs.
            power = tokens.square().mean()
            return dense + 0.01 * (power - 1).square(), {**figures, "token_power": power.item()}

        return Stage("tower", self.budget.tower, self._tower_modules(), (), loss)

    def _tower_modules(self) -> dict[str, nn.Module]:
        return {
            "vision_model": self.model.model.vision_model,
            "connector": self.model.model.connector,
            "embedding": self.model.get_input_embeddings(),
            "head": self.head,
        }

    def cache_tokens(self) -> NDArray[np.float16]:
        """Run the finished tower over all frames once, float16 [frames, N, D], memory-mapped."""
        path, done = self.run_dir / "tokens.npy", self.run_dir / "tokens.done"
        if not done.exists():
            size, batch = self.budget.model, 256
            shape = (len(self.frames), size.image_tokens, size.text_width)
            tokens = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
            for start in range(0, len(self.frames), batch):
                chosen = np.arange(start, min(start + batch, len(self.frames)))
                with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                    tokens[chosen] = visual_tokens(self.model, self.pixels(chosen, 2, start)).float().numpy()
            tokens.flush()
            done.touch()
            self.progress(f"tokens of {len(self.frames)} frames cached")
        cached: NDArray[np.float16] = np.load(path, mmap_mode="r")
        return cached

    def language_stage(self, name: str, number: int, tokens: NDArray[np.float16]) -> Stage:
        """Stage 2 (captions) or 3 (questions): the language model on the frozen tower's tokens."""
        budget = self.budget.captions if name == "captions" else self.budget.questions

        def loss(step: int) -> tuple[Tensor, dict[str, float]]:
            chosen, rng = self.draw(budget, number, step)
            captions = name == "captions" or step % _CAPTION_EVERY == 0
            batch = collate(self.encoder, self.sequences(chosen, rng, captions=captions))
            return answer_loss(self.model, batch, torch.from_numpy(tokens[chosen]).float(), self.encoder.image_id)

        return Stage(name, budget, {"text_model": self.model.model.text_model}, (), loss)

    def save(self, output_dir: Path) -> None:
        """Write the model and its processor in the format of `save_pretrained`."""
        size = self.budget.model
        self.model.eval()
        self.model.save_pretrained(output_dir)
        processor = build_processor(self.tokenizer, image_size=size.image_size, image_tokens=size.image_tokens)
        processor.save_pretrained(output_dir)
        self.model.train()


def train_reference_vlm(
    output_dir: Path,
    cache_dir: Path,
    *,
    seed: int = 0,
    budget: TrainingBudget | str = "full",
    resume: bool = True,
    threads: int = 2,
    evaluation_frames: int = 500,
    progress: Progress = print,
) -> dict[str, Any]:
    """Train the reference VLM: render, tower, captions, questions, save, evaluate.

    Args:
        output_dir: Where the model is written in the format of `save_pretrained`, with `training.json` beside it.
        cache_dir: Rendered frames (48 KiB each) and checkpoints; can be deleted afterwards.
        seed: Seed of weights, frames and order.
        budget: How much of everything, or a name in `BUDGETS`.
        resume: Continue a run of the same budget and seed; otherwise its checkpoints are dropped.
        threads: CPU threads, and rendering processes.
        evaluation_frames: Held-out frames of the accuracies in the report.
        progress: Called with a line of text now and then.

    Returns:
        What is written to `training.json`: budget, seed, seconds and last figures of each stage, and
        accuracies on held-out frames.

    Raises:
        ValueError: An unknown budget name.
    """
    if isinstance(budget, str):
        if budget not in BUDGETS:
            raise ValueError(f"budget {budget!r} is none of {', '.join(BUDGETS)}")
        budget = BUDGETS[budget]
    torch.set_num_threads(threads)
    recipe = json.dumps({"recipe": RECIPE, "seed": seed, **budget.as_dict()}, sort_keys=True)
    run_dir = cache_dir / f"run-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not resume and run_dir.exists():
        shutil.rmtree(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    frames = prepare_frames(
        cache_dir,
        first_seed=TRAIN_SEEDS + seed * SEED_STRIDE,
        count=budget.train_frames,
        size=budget.model.image_size,
        processes=threads,
        progress=progress,
    )
    run = _Run(budget, frames, run_dir, seed, progress)
    report: dict[str, Any] = {"seed": seed, "budget": budget.as_dict(), "stages": {}}

    def finish(stage: Stage) -> None:
        report["stages"][stage.name] = run_stage(stage, run_dir, progress=progress)

    finish(run.tower_stage())
    tokens = run.cache_tokens()
    finish(run.language_stage("captions", 2, tokens))
    finish(run.language_stage("questions", 3, tokens))
    run.save(output_dir)
    report["accuracy"] = evaluate_reference_vlm(output_dir, frames=evaluation_frames, seed=seed)
    (output_dir / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report
