"""The command that makes both codecs for a vision-language model."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoProcessor

from cloud_workers.vlm import TransformersVlm
from pipeline.codec.prefix_decoder_torch import load_transform
from pipeline.codec.spec import ENCODER_FILE, hash_file, hash_vlm, load_codec_spec
from schemas.errors import ConfigError
from training.codec.config import BUDGETS, CodecBudget
from training.codec.data import AskedFrames, Progress, cached_tokens, scene_set
from training.codec.export import Parity, export_encoder
from training.codec.folder import FrozenVlm, write_codec
from training.codec.image_path import PixelsToTokens
from training.codec.klt import fit_klt
from training.codec.language_view import LanguageView
from training.codec.meta import Material, start_meta, train_meta

PARITY_FRAMES: Final = 64
_ANSWER_BATCH: Final = 48


def open_vlm(vlm_dir: Path, vlm_id: str) -> tuple[TransformersVlm, FrozenVlm]:
    """Load a VLM as workers do, and what the export needs of it.

    Args:
        vlm_dir: Folder in `save_pretrained` format.
        vlm_id: Name under which codecs refer to it.

    Raises:
        ArtifactError: it is not a usable model.
    """
    vlm = TransformersVlm.load(vlm_dir)
    frozen = FrozenVlm(
        image_path=PixelsToTokens(vlm.model, AutoProcessor.from_pretrained(vlm_dir).image_processor).eval(),
        vlm_id=vlm_id,
        sha256=hash_vlm(vlm_dir),
        image_size_px=int(vlm.model.config.vision_config.image_size),
    )
    return vlm, frozen


def train_codec(
    vlm_dir: Path,
    output_dir: Path,
    cache_dir: Path,
    *,
    vlm_id: str = "reference-vlm",
    version: int = 1,
    seed: int = 0,
    budget: CodecBudget | str = "full",
    resume: bool = True,
    threads: int = 2,
    progress: Progress = print,
) -> dict[str, Any]:
    """Fit the KLT codec and train the Meta AutoEncoder for a frozen VLM.

    Args:
        vlm_dir: The VLM, in `save_pretrained` format.
        output_dir: Gets the folders `klt` and `meta_autoencoder`.
        cache_dir: Frames (48 KiB each), tokens (16 KiB each) and checkpoints; can be deleted afterwards.
        vlm_id: Name under which the codecs refer to the VLM.
        version: Version of the weights that are written.
        seed: Seed of frames, weights and order.
        budget: How much of everything, or a name in `BUDGETS`.
        resume: Continue a run of the same VLM, budget and seed; otherwise its checkpoints are dropped.
        threads: CPU threads, and rendering processes.
        progress: Called with a line of text now and then.

    Returns:
        Budget, seconds of each stage, last figures of the training, mean bytes of whole latents, parity of the exports.

    Raises:
        ConfigError: an unknown budget name.
        ArtifactError: the VLM is not usable.
    """
    if isinstance(budget, str):
        if budget not in BUDGETS:
            raise ConfigError("budget", f"{budget!r} is none of {', '.join(BUDGETS)}")
        budget = BUDGETS[budget]
    torch.set_num_threads(threads)
    vlm, frozen = open_vlm(vlm_dir, vlm_id)
    recipe = json.dumps({"seed": seed, "vlm": frozen.sha256, **budget.as_dict()}, sort_keys=True)
    run_dir = cache_dir / f"codec-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not resume and run_dir.exists():
        shutil.rmtree(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    tokens_dir = cache_dir / f"tokens-{frozen.sha256[:12]}"
    sets: dict[str, AskedFrames] = {
        name: scene_set(
            name,
            cache_dir,
            count=count,
            size=frozen.image_size_px,
            seed=seed,
            processes=threads,
            progress=progress,
        )
        for name, count in (("train", budget.train_frames), ("tables", budget.table_frames))
    }
    tokens = {
        name: cached_tokens(frozen.image_path, frames.frames, tokens_dir / f"{name}-{seed}-{len(frames)}.npy")
        for name, frames in sets.items()
    }
    progress(f"tokens of {sum(map(len, sets.values()))} frames are ready")
    report: dict[str, Any] = {"seed": seed, "vlm_sha256": frozen.sha256, "budget": budget.as_dict(), "seconds": {}}
    began = time.monotonic()

    def finish(stage: str) -> None:
        nonlocal began
        now = time.monotonic()
        report["seconds"][stage] = round(now - began, 1)
        began = now

    fitted = tokens["train"][:6000].float()
    klt = fit_klt(fitted, budget.latent_count, budget.latent_dim, budget.klt_step)
    sample = sets["tables"].frames[:PARITY_FRAMES]
    spec, parity = write_codec(
        output_dir / "klt",
        klt,
        "klt",
        frozen,
        version=version,
        table_tokens=tokens["tables"],
        sample=sample,
        rungs=budget.rungs,
    )
    report["klt"] = {"parity": parity.as_dict(), "ladder": spec.ladder}
    finish("klt")
    progress(f"KLT codec written: {parity}")

    start = fit_klt(fitted, budget.latent_count, budget.latent_dim, budget.meta_step)
    model = start_meta(start, fitted[:2000], budget, seed=seed)
    checkpoint = run_dir / "meta_autoencoder.pt"
    blind = Material(tokens["train"], [[]] * len(sets["train"]), [])
    view_step = round(budget.view_from * budget.steps)
    train_meta(model, blind, None, budget, seed=seed, checkpoint=checkpoint, progress=progress, stop=view_step)
    finish("meta_autoencoder_features")
    view = LanguageView(vlm.model, vlm_dir)
    material = _material(view, sets["train"], tokens["train"], budget, run_dir / "answers.pt")
    finish("answers")
    progress("the model's own answers on the training frames are ready")
    figures = train_meta(model, material, view, budget, seed=seed, checkpoint=checkpoint, progress=progress)
    finish("meta_autoencoder_view")
    spec, parity = write_codec(
        output_dir / "meta_autoencoder",
        model,
        "meta_autoencoder",
        frozen,
        version=version,
        table_tokens=tokens["tables"],
        sample=sample,
        rungs=budget.rungs,
    )
    report["meta_autoencoder"] = {"parity": parity.as_dict(), "ladder": spec.ladder, "training": figures}
    progress(f"Meta AutoEncoder written: {parity}")
    for name in ("klt", "meta_autoencoder"):
        text = json.dumps(report, indent=2) + "\n"
        (output_dir / name / "training.json").write_text(text, encoding="utf-8")
    return report


def export_codec(
    vlm_dir: Path, codec_dir: Path, cache_dir: Path, *, seed: int = 0, threads: int = 2, progress: Progress = print
) -> Parity:
    """Write a codec's ``encoder.onnx`` anew from its weights and the VLM, and compare the two.

    Args:
        vlm_dir: The VLM that the codec was made for.
        codec_dir: Codec folder.
        cache_dir: For the frames of the comparison.
        seed: Of those frames.
        threads: CPU threads.
        progress: Called with a line of text now and then.

    Raises:
        ArtifactError: another VLM, a damaged folder, or an export that does not agree with torch.
    """
    torch.set_num_threads(threads)
    spec = load_codec_spec(codec_dir)
    spec.check_vlm(vlm_dir)
    _, frozen = open_vlm(vlm_dir, spec.vlm_id)
    sample = scene_set(
        "tables",
        cache_dir,
        count=PARITY_FRAMES,
        size=spec.image_size_px,
        seed=seed,
        processes=threads,
        progress=progress,
    )
    path = codec_dir / ENCODER_FILE
    partial = path.with_suffix(".partial.onnx")
    transform = load_transform(codec_dir, spec)
    parity = export_encoder(frozen.image_path, transform, partial, sample.frames)
    partial.replace(path)
    spec.model_copy(update={"encoder_sha256": hash_file(path)}).save(codec_dir)
    return parity


def _material(
    view: LanguageView, frames: AskedFrames, tokens: torch.Tensor, budget: CodecBudget, path: Path
) -> Material:
    """Questions and the model's own answers for the training frames; the answers are computed once."""
    count = min(budget.asked_frames, len(frames))
    questions: list[list[str]] = [[] for _ in range(len(frames))]
    for item in frames.asked:
        if item.frame < count and len(questions[item.frame]) < budget.view_questions:
            questions[item.frame].append(item.text)
    if path.exists():
        return Material(tokens, questions, torch.load(path, weights_only=True))
    answers: list[torch.Tensor] = []
    for first in range(0, count, _ANSWER_BATCH):
        stop = min(first + _ANSWER_BATCH, count)
        answers += view.greedy_answers(tokens[first:stop].float(), questions[first:stop])
    torch.save(answers, path)
    return Material(tokens, questions, answers)
