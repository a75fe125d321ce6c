"""The command that trains the bundled reference VLM from nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedTokenizerFast, SmolVLMForConditionalGeneration

from pipeline.codec.spec import hash_vlm
from schemas.errors import ArtifactError, ConfigError
from training.reference_vlm.config import BUDGETS, StageBudget, TrainingBudget
from training.reference_vlm.frames import RECIPE
from training.reference_vlm.loop import Stage, run_stage
from training.reference_vlm.model import build_model
from training.reference_vlm.mosaics import PhotoMosaics
from training.reference_vlm.pool import FramePool, PoolMaker, library_of, vocabulary_of
from training.reference_vlm.sequence import SequenceLayout, answer_loss
from training.reference_vlm.text_blocks import CAPTION_SLOT, DESCRIPTION_SLOT, KIND_MIX, QUESTION_SLOT
from training.reference_vlm.tokenizer import IMAGE, build_processor, image_prefix, train_tokenizer
from training.reference_vlm.tower import (
    WordGroups,
    WordHead,
    dense_loss,
    jitter,
    normalise,
    split_views,
    visual_tokens,
)
from training.reference_vlm.vocabulary import Vocabulary
from training.run import RunSettings

_CAPTION_EVERY: Final = 6
"""In the question stage every sixth step trains captions and descriptions, so that the model keeps describing."""
_DETAIL_EVERY: Final = 4
"""Every fourth step shows frames in detail: five views each, a quarter of the frames."""
_QUESTIONS_SHOWN: Final = 8
_PHOTO_SHARE: Final = 0.35
_MOSAIC_SHARE: Final = 0.35
REPORT_FILE: Final = "training.json"
_DENSE_WEIGHT: Final = 0.3
"""Weight of the dense labels while the language model learns; without them colours of small objects fade."""


class ReferenceRun:
    """What the stages of one training share.

    Args:
        budget: How much of everything.
        run_dir: Checkpoints and tokenizer.
        photos: Library of photographs, if any.
        run: Seed of weights, frames and order; device, rendering processes, progress.
    """

    def __init__(self, budget: TrainingBudget, run_dir: Path, photos: Path | None, run: RunSettings) -> None:
        self.budget, self.seed, self.device = budget, run.seed, torch.device(run.device)
        size, device = budget.model, self.device
        self.vocabulary: Vocabulary = vocabulary_of(photos)
        self.tokenizer: PreTrainedTokenizerFast = train_tokenizer(self.vocabulary)
        tokenizer_dir = run_dir / "tokenizer"
        self.tokenizer.save_pretrained(tokenizer_dir)
        self.maker = PoolMaker(budget, run_dir / "frames", tokenizer_dir, photos, run)
        self.model: SmolVLMForConditionalGeneration = build_model(size, self.tokenizer, seed=run.seed).to(device)
        self.head = WordHead(WordGroups.of(self.tokenizer, self.vocabulary, device)).to(device)
        self.mosaics = _mosaics(photos, self.vocabulary, budget, device) if photos else None
        self.generator = torch.Generator(device=device)
        image_id, pad_id = self.tokenizer.convert_tokens_to_ids(IMAGE), self.tokenizer.pad_token_id
        prefixes = {
            tiles: image_prefix(
                build_processor(self.tokenizer, size, tiles=tiles),
                size.image_size * (size.tiles_per_edge if tiles else 1),
            )
            for tiles in (False, True)
        }
        slots = {"questions": [QUESTION_SLOT] * _QUESTIONS_SHOWN, "captions": [CAPTION_SLOT, DESCRIPTION_SLOT]}
        self.layouts = {
            (tiles, name): SequenceLayout(prefix, lengths, image_id=image_id, pad_id=pad_id, device=device)
            for tiles, prefix in prefixes.items()
            for name, lengths in slots.items()
        }

    def seeded(self, stage: int, step: int) -> np.random.Generator:
        """Randomness of one step, on the device and on the host; depends on the step alone, so that runs can resume."""
        self.generator.manual_seed((self.seed * 7 + stage) * 10_000_019 + step)
        return np.random.default_rng([self.seed, stage, step])

    def tokens(self, pixels: Tensor) -> Tensor:
        """Visual tokens of normalised pixels, float32 [B, N, D]."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return visual_tokens(self.model, pixels).float()

    def dense(self, tokens: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the dense labels, and of tokens that leave the range of the language model's other inputs."""
        loss, figures = dense_loss(self.head(tokens, self.model.get_input_embeddings().weight), labels)
        return loss + 0.01 * (tokens.square().mean() - 1).square(), figures

    def mosaic_loss(self, batch: int, host: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Dense loss of mosaics of photographs."""
        if self.mosaics is None:
            raise AssertionError("mosaics need a library of photographs")
        pixels, labels = self.mosaics.draw(batch, self.generator, int(host.integers(1 << 16)))
        loss, figures = self.dense(self.tokens(jitter(pixels, self.generator)), labels)
        return loss, {"photo": figures["kind"]}

    def tower_stage(self) -> Stage:
        """Stage 1: tower, connector and word embeddings on dense labels."""
        rendered, detail = self.maker.pools["rendered"], self.maker.pools["detail"]
        budget = self.budget.tower

        def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
            host = self.seeded(1, step)
            if step % _DETAIL_EVERY == _DETAIL_EVERY - 1:
                chosen = detail.draw(max(budget.batch // 4, 1), self.generator)
                pixels = split_views(detail.frames[chosen], self.budget.model.tiles_per_edge).flatten(0, 1)
                labels = detail.labels[chosen].flatten(0, 1).long()
            else:
                chosen = rendered.draw(budget.batch, self.generator)
                pixels, labels = rendered.frames[chosen], rendered.labels[chosen, 0].long()
            total, figures = self.dense(self.tokens(jitter(normalise(pixels), self.generator)), labels)
            if self.mosaics is not None:
                extra, photo = self.mosaic_loss(max(round(budget.batch * _MOSAIC_SHARE), 1), host)
                total, figures = total + extra, {**figures, **photo}
            return total, figures

        modules = {
            "vision_model": self.model.model.vision_model,
            "connector": self.model.model.connector,
            "embedding": self.model.get_input_embeddings(),
            "head": self.head,
        }
        return Stage("tower", budget, modules, loss)

    def language_stage(self, name: str, number: int) -> Stage:
        """Stage 2 (captions) or 3 (questions): the whole model."""
        budget: StageBudget = self.budget.captions if name == "captions" else self.budget.questions

        def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
            host = self.seeded(number, step)
            texts = "captions" if name == "captions" or step % _CAPTION_EVERY == 0 else "questions"
            if step % _DETAIL_EVERY == _DETAIL_EVERY - 1:
                parts = [(self.maker.pools["detail"], max(budget.batch // 4, 1))]
            else:
                photos = self.maker.pools.get("photographs")
                shown = round(budget.batch * _PHOTO_SHARE) if photos else 0
                parts = [(self.maker.pools["rendered"], budget.batch - shown)]
                parts += [(photos, shown)] if photos else []
            return self._language_loss(parts, texts, max(round(budget.batch * _MOSAIC_SHARE / 2), 1), host)

        return Stage(name, budget, {"model": self.model, "head": self.head}, loss)

    def _language_loss(
        self, parts: list[tuple[FramePool, int]], texts: str, mosaics: int, host: np.random.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        pixels, labels, blocks = [], [], []
        tiles = parts[0][0].domain == "detail"
        for pool, count in parts:
            chosen = pool.draw(count, self.generator)
            frames = pool.frames[chosen]
            views = split_views(frames, self.budget.model.tiles_per_edge) if tiles else frames[:, None]
            pixels.append(views.flatten(0, 1))
            labels.append(pool.labels[chosen].flatten(0, 1).long())
            blocks.append(self._blocks(pool, chosen, texts))
        tokens = self.tokens(jitter(normalise(torch.cat(pixels)), self.generator))
        dense, figures = self.dense(tokens, torch.cat(labels))
        views_of_frame = 5 if tiles else 1
        by_frame = tokens.reshape(-1, views_of_frame * tokens.shape[1], tokens.shape[2])
        ids, prompt, length = (torch.cat(column) for column in zip(*blocks, strict=True))
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            total, said = answer_loss(self.model, self.layouts[tiles, texts], (ids, prompt, length), by_frame)
        figures = {**figures, **{f"{texts}_{name}": value for name, value in {**said, "loss": total.detach()}.items()}}
        total = total + _DENSE_WEIGHT * dense
        if self.mosaics is not None:
            extra, photo = self.mosaic_loss(mosaics, host)
            total, figures = total + _DENSE_WEIGHT * extra, {**figures, **photo}
        return total, figures

    def _blocks(self, pool: FramePool, chosen: Tensor, texts: str) -> tuple[Tensor, Tensor, Tensor]:
        if texts == "questions":
            order = torch.rand(len(chosen), len(KIND_MIX), generator=self.generator, device=self.device).argsort(1)
            return pool.blocks("question", chosen, order[:, :_QUESTIONS_SHOWN])
        first = torch.zeros((len(chosen), 1), dtype=torch.int64, device=self.device)
        parts = [pool.blocks(name, chosen, first) for name in ("caption", "description")]
        ids, prompt, length = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
        return ids, prompt, length

    def load(self, model_dir: Path) -> None:
        """Take over the weights of a saved model.

        Raises:
            ArtifactError: It cannot be read, has other shapes or another vocabulary.
        """
        try:
            saved = SmolVLMForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32)
            tokens = PreTrainedTokenizerFast.from_pretrained(model_dir).get_vocab()
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            problem = str(error).strip().split("\n")[0]
            raise ArtifactError(str(model_dir), f"no usable model ({problem}): save it again") from error
        mine = {name: value.shape for name, value in self.model.state_dict().items()}
        if tokens != self.tokenizer.get_vocab() or {n: v.shape for n, v in saved.state_dict().items()} != mine:
            raise ArtifactError(str(model_dir), "another size or vocabulary than this training has: start afresh")
        self.model.load_state_dict(saved.state_dict())

    def save(self, output_dir: Path) -> None:
        """Write the model and its processor in the format of `save_pretrained`; weights are rounded to bfloat16."""
        self.model.eval()
        rounded = build_model(self.budget.model, self.tokenizer, seed=self.seed)
        rounded.load_state_dict(self.model.state_dict())
        rounded.to(torch.bfloat16).save_pretrained(output_dir)
        build_processor(self.tokenizer, self.budget.model).save_pretrained(output_dir)


def _report_of(model_dir: Path) -> Any:
    """What the training of a saved model wrote beside it; None for a model that came without."""
    path = model_dir / REPORT_FILE
    try:
        return json.loads(path.read_bytes()) if path.exists() else None
    except (OSError, ValueError) as error:
        raise ArtifactError(str(path), f"not readable ({error}): remove it, or train the model again") from error


def _mosaics(photos: Path, vocabulary: Vocabulary, budget: TrainingBudget, device: torch.device) -> PhotoMosaics:
    library = library_of(photos)
    pixels, labels = library.part("train")
    kinds = torch.tensor([vocabulary.kinds.index(name) for name in library.classes], device=device)
    return PhotoMosaics(
        torch.from_numpy(pixels).to(device),
        kinds[torch.from_numpy(labels).long().to(device)],
        background=len(vocabulary.kinds),
        size=budget.model.image_size,
        grid=budget.model.grid,
    )


def train_reference_vlm(
    output_dir: Path,
    run: RunSettings,
    *,
    photos: Path | None = None,
    start_from: Path | None = None,
    budget: TrainingBudget | str = "full",
) -> dict[str, Any]:
    """Train the reference VLM: frames, tower, captions, questions, save.

    Args:
        output_dir: Where the model is written in the format of `save_pretrained`, with `training.json` beside it.
        run: Cache for frames (200 KB each) and checkpoints; seed of weights, frames and order; device, threads. Without
            `resume` the checkpoints of the same budget, seed, photographs and start are dropped.
        photos: Class folder of photographs, or a zip of one; without it the model knows rendered scenes only.
        start_from: A saved model of the same size and vocabulary to go on from.
        budget: How much of everything, or a name in `BUDGETS`; stages of no steps are left out.

    Returns:
        What is written to `training.json`: budget, seed, seconds and last figures of each stage, and of a run that goes
        on from a saved model which one that was and what its own `training.json` says.

    Raises:
        ConfigError: An unknown budget name.
        ArtifactError: The photographs cannot be read, or the model to go on from cannot or does not fit.
    """
    if isinstance(budget, str):
        if budget not in BUDGETS:
            raise ConfigError("budget", f"{budget!r} is none of {', '.join(BUDGETS)}")
        budget = BUDGETS[budget]
    torch.set_num_threads(run.threads)
    start = None if start_from is None else hash_vlm(start_from)
    run_dir = run.cache_dir / _run_name(budget, photos, start, run.seed)
    if not run.resume and run_dir.exists():
        shutil.rmtree(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    reference = ReferenceRun(budget, run_dir, photos, run)
    report: dict[str, Any] = {"seed": run.seed, "device": run.device, "budget": budget.as_dict(), "stages": {}}
    try:
        if start_from is not None:
            # Before the wait for frames, which is long: a model that does not fit is said at once.
            reference.load(start_from)
            report["start"] = {"vlm": start, "training": _report_of(start_from)}
        reference.maker.wait(budget.first_frames if budget.streaming else None)
        run.progress("first frames are ready")
        for stage in (
            reference.tower_stage(),
            reference.language_stage("captions", 2),
            reference.language_stage("questions", 3),
        ):
            if stage.budget.steps:
                report["stages"][stage.name] = run_stage(stage, run_dir, progress=run.progress)
        report["frames"] = {name: pool.ready for name, pool in reference.maker.pools.items()}
    finally:
        reference.maker.close()
    reference.save(output_dir)
    run.progress(f"{output_dir} written")
    (output_dir / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _run_name(budget: TrainingBudget, photos: Path | None, start: str | None, seed: int) -> str:
    """Folder of a run in the cache: the same for all runs that may go on from each other."""
    shown = None if photos is None else library_of(photos).sha256
    recipe = {"recipe": RECIPE, "seed": seed, "photos": shown, "start": start, **budget.as_dict()}
    return f"run-{hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]}"
