"""Ablations of the Meta AutoEncoder: one choice at a time, each with the same steps on the same frames.

A run directory makes them resumable and lets several processes share the work::

    held_out/               visual tokens, questions, the model's own answers: what is measured on
    tables.npy              visual tokens that frequency tables are fitted to
    variants/<name>/        weights and checkpoint of each variant
    variants/<name>.json    its result
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from pipeline.codec.klt_torch import LatentShape
from pipeline.codec.prefix_decoder_torch import read_transform
from pipeline.codec.transform_torch import LatentTransform
from schemas.errors import ArtifactError, ConfigError
from training.codec.config import BUDGETS, CodecBudget
from training.codec.fit.learn import KLT_WEIGHTS, LEARNED, META_WEIGHTS, fitted_klt, learn_codec
from training.codec.fit.material import Material
from training.codec.fit.prompt_view import view_of
from training.codec.fit.rate_curve import CurvePoint, bytes_at, rate_curve
from training.run import Progress, RunSettings

ABLATION_BUDGETS: Final[dict[str, CodecBudget]] = {
    "full": replace(
        BUDGETS["full"], steps=300, view_from=0.4, train_frames=6_000, table_frames=1_500, asked_frames=2_000
    ),
    "gpu": replace(BUDGETS["gpu"], steps=1_000, batch=128, view_frames=48, asked_frames=16_000, train_frames=40_000),
    "smoke": replace(BUDGETS["smoke"], steps=6),
}
"""What every variant gets, but for the one thing that it changes."""
HELD_OUT: Final = "held_out"
TABLES: Final = "tables.npy"
VARIANTS_DIR: Final = "variants"
_LEVELS: Final = (0.8, 0.9, 0.95, 0.98)
_DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the ablation.

    Attributes:
        name: Names its files.
        what: What it shows.
        changes: Fields of `CodecBudget` that differ from the default.
    """

    name: str
    what: str
    changes: dict[str, Any]


VARIANTS: Final = (
    Variant(_DEFAULT, "everything as it ships, with the ablation's budget", {}),
    Variant("view-none", "feature error alone, the language model never looks on", {"view_weight": 0.0}),
    Variant("view-strong", "divergence with three times the weight", {"view_weight": 1.5}),
    Variant("view-proportional", "divergence in proportion, hopeless answers too", {"view_scale": 0.0}),
    Variant("planes-none", "every coefficient sent at once at its full precision", {"planes": 0}),
    Variant("rate-flat", "one price of a bit at every prefix length", {"rate": "flat"}),
    Variant("quantiser-noise", "uniform noise in place of rounding", {"quantiser": "noise"}),
    Variant("bytes-240", "whole latents of 240 bytes", {"target_bytes": 240.0}),
    Variant("bytes-320", "whole latents of 320 bytes", {"target_bytes": 320.0}),
    Variant("unseen-position", "questions of position never asked in training", {"unseen_kinds": ("position",)}),
    Variant("unseen-count", "questions of count never asked in training", {"unseen_kinds": ("count",)}),
    Variant("encoder-wide", "residual encoder twice as wide", {"encoder_width": 128}),
    Variant("decoder-small", "decoder of one layer, 96 wide", {"decoder_width": 96, "decoder_layers": 1}),
    Variant("decoder-large", "decoder of four layers, 256 wide", {"decoder_width": 256, "decoder_layers": 4}),
    Variant("latents-16", "16 latents of twice the symbols", {"latent_count": 16, "latent_dim": 80}),
    Variant("latents-64", "64 latents of half the symbols", {"latent_count": 64, "latent_dim": 20}),
    Variant("symbols-fewer", "32 latents of 24 symbols", {"latent_dim": 24}),
)
"""In order of what is most worth knowing, should the time not suffice for all. What lost for good is no choice any
more; docs/decisions/0010-the-codec.md keeps its numbers."""


def variants_named(names: Sequence[str]) -> tuple[Variant, ...]:
    """Variants of these names, in the order of `VARIANTS`; all of them for no name.

    Raises:
        ConfigError: an unknown name.
    """
    known = {variant.name: variant for variant in VARIANTS}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError("variants", f"{', '.join(unknown)}: none of {', '.join(known)}")
    return tuple(variant for variant in VARIANTS if not names or variant.name in names)


def save_tables(tokens: Tensor, run_dir: Path) -> None:
    """Write the visual tokens that every variant's frequency tables are fitted to [F, N, D]."""
    run_dir.mkdir(parents=True, exist_ok=True)
    np.save(run_dir / TABLES, tokens.cpu().numpy())


@dataclass(frozen=True, slots=True)
class AblationRun:
    """What the variants of an ablation share.

    Attributes:
        vlm_dir: The VLM, in `save_pretrained` format.
        material_dir: From `Material.save`: what every variant learns from.
        run_dir: With material in `HELD_OUT`, which is measured on, and `TABLES` from `save_tables`.
        budget: The default's.
        device: Where to compute.
        seed: Of weights, order and noise.
        deadline: Time, as `time.time` counts it, after which nothing goes on; what is unfinished can be continued.
    """

    vlm_dir: Path
    material_dir: Path
    run_dir: Path
    budget: CodecBudget
    device: str = "cpu"
    seed: int = 0
    deadline: float | None = None


def run_variants(wanted: AblationRun, variants: Sequence[Variant] = VARIANTS, progress: Progress = print) -> None:
    """Train and measure variants that nobody has begun, one after the other; several processes may do so at once.

    Args:
        wanted: What they share.
        variants: Which ones.
        progress: Called with a line of text now and then.
    """
    device = wanted.device
    model = AutoModelForImageTextToText.from_pretrained(wanted.vlm_dir, dtype=torch.float32).to(device).eval()
    material = Material.load(wanted.material_dir, device)
    held_out = Material.load(wanted.run_dir / HELD_OUT, device)
    tables = torch.from_numpy(np.load(wanted.run_dir / TABLES)).to(device)
    view = view_of(model, material.prompts)
    measure = partial(rate_curve, table_tokens=tables, held_out=held_out, view=view)
    folder = wanted.run_dir / VARIANTS_DIR
    folder.mkdir(exist_ok=True)
    klt_file = folder / "klt.json"
    if _claim(klt_file):
        klt = fitted_klt(material.tokens, wanted.budget, folder / KLT_WEIGHTS)
        _write(klt_file, {"curve": [point.as_dict() for point in measure(klt)]})
    for variant in variants:
        result_file = folder / f"{variant.name}.json"
        if (wanted.deadline is not None and time.time() > wanted.deadline) or not _claim(result_file):
            continue
        result = _run_variant(variant, wanted, model, material, measure, progress)
        if result is None:
            _release(result_file)
        else:
            _write(result_file, result)


def _run_variant(
    variant: Variant,
    wanted: AblationRun,
    model: Any,
    material: Material,
    measure: Callable[[LatentTransform], list[CurvePoint]],
    progress: Progress,
) -> dict[str, Any] | None:
    """Train and measure one variant; None if the deadline came first."""
    own = replace(wanted.budget, **variant.changes)
    own_dir = wanted.run_dir / VARIANTS_DIR / variant.name
    say = partial(_say, progress, variant.name)
    # Nothing is drawn or cached here: the material is given.
    run = RunSettings(wanted.run_dir, seed=wanted.seed, device=wanted.device, progress=say)
    report = learn_codec(model, material, own, own_dir, run, until=wanted.deadline)
    if not (own_dir / LEARNED).exists():
        return None
    _, count, dim = material.tokens.shape
    shape = LatentShape(count, dim, own.latent_count, own.latent_dim)
    codec = read_transform(own_dir / META_WEIGHTS, "meta_autoencoder", shape).to(wanted.device)
    curve = measure(codec)
    agreed = {str(level): _rounded(bytes_at(curve, level)) for level in _LEVELS}
    progress(f"{variant.name}: bytes at agreement {agreed}")
    return {
        "name": variant.name,
        "what": variant.what,
        "changes": variant.changes,
        "steps": report["steps"],
        "seconds": report["seconds"]["training"],
        "parameters": sum(parameter.numel() for parameter in codec.parameters()),
        "bytes_at_agreement": agreed,
        "curve": [point.as_dict() for point in curve],
    }


def collect_results(run_dir: Path, variants: Sequence[Variant] = VARIANTS) -> dict[str, Any]:
    """Results so far, in the order of the variants.

    Raises:
        ArtifactError: there is no such run.
    """
    folder = run_dir / VARIANTS_DIR
    if not folder.is_dir():
        raise ArtifactError(str(run_dir), "no ablation was begun here: latentbus codec ablate")
    rows = [folder / f"{variant.name}.json" for variant in variants]
    done = [json.loads(row.read_text(encoding="utf-8")) for row in rows if row.is_file()]
    klt = folder / "klt.json"
    return {
        "klt": json.loads(klt.read_text(encoding="utf-8")) if klt.is_file() else None,
        "variants": done,
        "missing": [variant.name for variant, row in zip(variants, rows, strict=True) if not row.is_file()],
    }


def drop_claims(run_dir: Path) -> None:
    """Forget who was at work on which variant, when nobody is."""
    for claim in (run_dir / VARIANTS_DIR).glob("*.claim"):
        claim.unlink()


def _say(progress: Progress, name: str, line: str) -> None:
    progress(f"{name}: {line}")


def _claim(result: Path) -> bool:
    """Whether this process is the one that makes a result."""
    if result.exists():
        return False
    try:
        os.close(os.open(result.with_suffix(".claim"), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def _release(result: Path) -> None:
    result.with_suffix(".claim").unlink(missing_ok=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
