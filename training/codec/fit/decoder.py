"""Learn another decoder for a codec whose symbols stay what they are.

The decoder runs in the cloud and may be sized for its machines. Encoder, frequency tables and tables of key frames are
kept, so edges only need the new ``codec.json``; the stop rule has to be calibrated again, since answers change.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.codec.meta_autoencoder_torch import MetaAutoEncoder
from pipeline.codec.prefix_decoder_torch import load_transform, save_transform
from pipeline.codec.spec import ENCODER_FILE, TABLES_FILE, WEIGHTS_FILE, CodecSpec, hash_file, load_codec_spec
from pipeline.codec.stop_file import StopFile, save_stop_file
from schemas.errors import ArtifactError, ConfigError
from training.codec.config import CodecBudget
from training.codec.data import Progress
from training.codec.fit.folder import check_output
from training.codec.fit.language_view import LanguageView
from training.codec.fit.learn import CHECKPOINT
from training.codec.fit.meta import MetaTrainer, keep_analysis
from training.codec.fit.rate import PrefixPrices
from training.codec.fit.train import FrameSource, budget_of, domains_of, open_vlm
from training.codec.reports import read_report

REPORT: Final = "training.json"


def learn_decoder(
    vlm_dir: Path,
    codec_dir: Path,
    output_dir: Path,
    cache_dir: Path,
    *,
    layers: int | None = None,
    width: int | None = None,
    budget: CodecBudget | str = "full",
    seed: int = 0,
    device: str = "cpu",
    max_seconds: float | None = None,
    photos: Path | None = None,
    resume: bool = True,
    threads: int = 2,
    overwrite: bool = False,
    progress: Progress = print,
) -> dict[str, Any]:
    """Learn a decoder of other sizes for a learned codec, and write the codec with it.

    What the new decoder has in common with the old one goes on from there: with the same width, its first layers.

    Args:
        vlm_dir: The VLM that the codec was made for.
        codec_dir: The codec; left as it is.
        output_dir: Folder of the codec with the new decoder, without calibration.
        cache_dir: Frames, tokens and checkpoints; can be deleted afterwards.
        layers: Layers of the decoder; as many as before unless given.
        width: Its width; as before unless given.
        budget: How much of everything else, or a name among the budgets of the codec's operating point; the sizes are
            the codec's own.
        seed: Seed of frames, weights and order.
        device: Where to learn.
        max_seconds: Ends the learning early, its schedule drawn in.
        photos: Class folder of photographs, or a zip of one, which then make up half of the small point's frames.
        resume: Continue from the checkpoint of the same run.
        threads: CPU threads, and rendering processes.
        overwrite: Replace a codec of another model in `output_dir`.
        progress: Called with a line of text now and then.

    Returns:
        What `training.json` of the new folder holds: that of the old one, and budget and figures of the decoder.

    Raises:
        ConfigError: an unknown budget, sizes that no decoder has, or the output is the codec itself.
        ArtifactError: the codec is not a learned one, is damaged, or was made for another VLM.
    """
    torch.set_num_threads(threads)
    if output_dir.resolve() == codec_dir.resolve():
        raise ConfigError("output", "the new codec needs a folder of its own; the old one is read until the end")
    spec = load_codec_spec(codec_dir)
    spec.check_vlm(vlm_dir)
    check_output(output_dir, spec.vlm_sha256, overwrite=overwrite)
    before = load_transform(codec_dir, spec)
    before_report: dict[str, Any] = read_report(codec_dir / REPORT) if (codec_dir / REPORT).exists() else {}
    if not isinstance(before, MetaAutoEncoder):
        raise ArtifactError(str(codec_dir), f"{spec.name} has no decoder to learn; only a meta_autoencoder has")
    point = "small" if spec.tiles_per_edge == 1 else "detailed"
    plan = _plan(before, budget_of(point, budget), layers, width, max_seconds)
    model = _with_decoder_of(before, plan, seed).to(device)

    vlm, frozen = open_vlm(vlm_dir, spec.vlm_id, tiles_per_edge=spec.tiles_per_edge)
    domains = domains_of(point, photos)
    source = FrameSource(frozen, cache_dir, domains, photos, seed, threads, progress)
    material = source.material(vlm, vlm_dir, plan, device)
    recipe = json.dumps(
        {"seed": seed, "codec": spec.codec_sha256, "domains": domains, **plan.as_dict()}, sort_keys=True
    )
    checkpoint = cache_dir / f"decoder-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}" / CHECKPOINT
    if not resume:
        checkpoint.unlink(missing_ok=True)
    view = LanguageView(vlm.model.eval().requires_grad_(False), material.prefix)
    prices = PrefixPrices.free(spec.latent_count, material.tokens.device)
    trainer = MetaTrainer(model, material, view, prices, plan, seed=seed)
    if trainer.resume(checkpoint):
        progress(f"decoder: continues at step {trainer.step}")
    figures = trainer.run(checkpoint, progress)

    report = before_report
    # A decoder that went on from one learned in this way keeps the record of that one.
    earlier = report.pop("decoder", None)
    report["decoder"] = {
        "seed": seed,
        "device": device,
        "budget": plan.as_dict(),
        "steps": trainer.step,
        "training_s": round(trainer.spent_s, 1),
        "figures": {name: round(value, 5) for name, value in figures.items()},
        **({} if earlier is None else {"started_from": earlier}),
    }
    _write(codec_dir, spec, model, output_dir)
    (output_dir / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _write(codec_dir: Path, spec: CodecSpec, model: MetaAutoEncoder, output_dir: Path) -> None:
    """The codec with other weights; all that belongs to its symbols is copied."""
    output_dir.mkdir(parents=True, exist_ok=True)
    save_transform(model, output_dir / WEIGHTS_FILE)
    for name in (TABLES_FILE, ENCODER_FILE):
        if (codec_dir / name).exists():
            shutil.copy(codec_dir / name, output_dir / name)
    changed = {"base_latents": spec.latent_count, "codec_sha256": hash_file(output_dir / WEIGHTS_FILE)}
    spec.model_copy(update=changed).save(output_dir)
    save_stop_file(output_dir, StopFile.uncalibrated(spec.ladder))


def _plan(
    before: MetaAutoEncoder, base: CodecBudget, layers: int | None, width: int | None, max_seconds: float | None
) -> CodecBudget:
    """A budget with the sizes of a codec."""
    config = before.config
    return replace(
        base,
        latent_count=config.latent_count,
        latent_dim=config.latent_dim,
        planes=config.planes,
        encoder_width=config.encoder_width,
        decoder_width=config.decoder_width if width is None else width,
        decoder_layers=config.decoder_layers if layers is None else layers,
        own_embedding=config.own_embedding,
        tail=config.tail,
        latents=config.latents,
        quantiser="fsq" if config.fsq_levels else "rounding",
        fsq_levels=config.fsq_levels or base.fsq_levels,
        rate="none",
        max_seconds=max_seconds if max_seconds is not None else base.max_seconds,
    )


def _with_decoder_of(before: MetaAutoEncoder, plan: CodecBudget, seed: int) -> MetaAutoEncoder:
    """The same analysis with a decoder of other sizes, which begins as the old one where the two agree.

    Raises:
        ConfigError: sizes that no decoder has.
    """
    torch.manual_seed(seed)
    try:
        config = replace(before.config, decoder_width=plan.decoder_width, decoder_layers=plan.decoder_layers)
    except ValueError as error:
        raise ConfigError("decoder", str(error)) from error
    model = MetaAutoEncoder(config)
    stored, wanted = before.state_dict(), model.state_dict()
    same_width = config.decoder_width == before.config.decoder_width
    model.load_state_dict(
        {name: stored[name] for name in wanted if name in stored and (same_width or not name.startswith("decoder."))},
        strict=False,
    )
    keep_analysis(model)
    return model
