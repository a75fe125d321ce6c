"""Learn both codecs from visual tokens, in one process and on one device.

This is the part of the making of a codec that an accelerator is wanted for. What it leaves in its run directory is all
that the finishing steps need (frequency tables, export, folders), which run anywhere::

    klt.safetensors                the closed form
    meta_autoencoder.pt            checkpoint: continue from here
    meta_autoencoder.safetensors   the learned codec, written at the end
    learned.json                   budget, figures, seconds
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.codec.klt_torch import KltTransform, LatentShape
from pipeline.codec.meta_autoencoder_torch import MetaAutoEncoder
from pipeline.codec.prefix_decoder_torch import read_transform, save_transform
from schemas.errors import ArtifactError, StateError
from training.codec.config import CodecBudget
from training.codec.fit.klt import fit_klt
from training.codec.fit.material import Material
from training.codec.fit.meta import MetaTrainer, start_meta
from training.codec.fit.prompt_view import view_of
from training.codec.fit.rate import prefix_prices
from training.codec.reports import read_report
from training.run import RunSettings

KLT_WEIGHTS: Final = "klt.safetensors"
META_WEIGHTS: Final = "meta_autoencoder.safetensors"
CHECKPOINT: Final = "meta_autoencoder.pt"
LEARNED: Final = "learned.json"
START_AT: Final = 1.25
"""The learned codec starts at a closed form of so many times its target: what is cut later was there to be learned
from."""
_SPREAD_FRAMES: Final = 2_000


def learn_codec(
    model: Any,
    material: Material,
    budget: CodecBudget,
    run_dir: Path,
    run: RunSettings,
    *,
    until: float | None = None,
    start_from: Path | None = None,
) -> dict[str, Any]:
    """Fit the KLT, train the Meta AutoEncoder; a second call on the same directory continues or returns at once.

    Runs on the device that the material's tokens are on.

    Args:
        model: The frozen VLM; only its language model runs.
        material: Tokens, and questions with the model's own answers: `training.codec.fit.material.ask`.
        budget: How much of everything, and in what way.
        run_dir: For weights and checkpoints; one for each VLM, budget and seed.
        run: Seed of weights, order and noise; progress.
        until: Time, as `time.time` counts it, at which to break off with a checkpoint and no weights, so that a later
            call ends the run at its full length.
        start_from: Run directory of a finished run, whose KLT and weights this one goes on from; layers of the decoder
            beyond the budget's are dropped.

    Returns:
        What `learned.json` holds: budget, seconds, last figures of the training, and the same of `start_from`.

    Raises:
        ArtifactError: there is no finished run of the same latents in `start_from`.
    """
    began = time.monotonic()
    run_dir.mkdir(parents=True, exist_ok=True)
    if (run_dir / LEARNED).exists():
        return read_report(run_dir / LEARNED)
    started_from = None if start_from is None else read_report(start_from / LEARNED)
    if material.tokens.is_cuda:
        torch.set_float32_matmul_precision("high")
    trainer = _trainer(model, material.without(budget.unseen_kinds), budget, run_dir, run, start_from)
    klt_s = time.monotonic() - began
    run.progress(f"KLT fitted in {klt_s:.1f} s")
    if trainer.resume(run_dir / CHECKPOINT):
        run.progress(f"Meta AutoEncoder: continues at step {trainer.step}")
    figures = trainer.run(run_dir / CHECKPOINT, run.progress, until=until)
    report: dict[str, Any] = {
        "seed": run.seed,
        "device": material.tokens.device.type,
        "budget": budget.as_dict(),
        "steps": trainer.step,
        "seconds": {"klt": round(klt_s, 1), "training": round(trainer.spent_s, 1)},
        "frames": len(material.tokens),
        "asked_frames": len(material.frames),
        "token_shape": list(material.tokens.shape[1:]),
        "figures": {name: round(value, 5) for name, value in figures.items()},
    }
    if started_from is not None:
        report["started_from"] = started_from
    if trainer.progress >= 1:
        save_transform(trainer.model, run_dir / META_WEIGHTS)
        (run_dir / LEARNED).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _trainer(
    model: Any, material: Material, budget: CodecBudget, run_dir: Path, run: RunSettings, start_from: Path | None
) -> MetaTrainer:
    """A training at its first step: from the closed form, or from the weights of a finished run."""
    tokens = material.tokens
    if start_from is not None and not (run_dir / KLT_WEIGHTS).exists():
        shutil.copy(start_from / KLT_WEIGHTS, run_dir / KLT_WEIGHTS)
    start = fitted_klt(tokens, budget, run_dir / KLT_WEIGHTS)
    if start_from is None:
        larger_bytes = START_AT * budget.target_bytes
        start = fit_klt(tokens, budget.latent_count, budget.latent_dim, target_bytes=larger_bytes, planes=budget.planes)
    meta = start_meta(start, tokens[:_SPREAD_FRAMES], budget, seed=run.seed)
    if start_from is not None:
        _take_over(meta, start_from)
    view = view_of(model.to(tokens.device), material.prompts)
    prices = prefix_prices(start, tokens[:_SPREAD_FRAMES])
    return MetaTrainer(meta, material, view, prices, budget, seed=run.seed)


def _take_over(meta: MetaAutoEncoder, start_from: Path) -> None:
    """Go on from the weights of a finished run.

    Raises:
        ArtifactError: they are of other sizes.
    """
    path = start_from / META_WEIGHTS
    shape = LatentShape(meta.token_count, meta.token_dim, meta.latent_count, meta.latent_dim)
    stored = read_transform(path, "meta_autoencoder", shape).to(meta.mean.device).state_dict()
    wanted = meta.state_dict()
    kept = {name: value for name, value in stored.items() if name in wanted}
    if set(kept) != set(wanted) or any(kept[name].shape != wanted[name].shape for name in wanted):
        raise ArtifactError(str(path), "its layers are not those of the budget, or fewer; only the decoder may shrink")
    meta.load_state_dict(kept)


def fitted_klt(tokens: Tensor, budget: CodecBudget, path: Path) -> KltTransform:
    """The KLT codec of a run, fitted once."""
    shape = LatentShape(int(tokens.shape[1]), int(tokens.shape[2]), budget.latent_count, budget.latent_dim)
    if not path.exists():
        klt = fit_klt(
            tokens, budget.latent_count, budget.latent_dim, target_bytes=budget.klt_bytes, planes=budget.planes
        )
        save_transform(klt, path)
    stored = read_transform(path, "klt", shape).to(tokens.device)
    if not isinstance(stored, KltTransform):
        raise StateError(f"{path} holds no KLT")
    return stored
