"""Learn another decoder for a codec whose symbols stay what they are.

The decoder runs in the cloud and may be sized for its machines. Encoder, frequency tables and tables of key frames are
kept, so edges only need the new ``codec.json``; the stop rule has to be calibrated again, since answers change.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from cloud_workers.inference.adapter import ModelAdapter
from pipeline.codec.meta_autoencoder_torch import MetaAutoEncoder
from pipeline.codec.prefix_decoder_torch import load_transform, save_transform
from pipeline.codec.spec import ENCODER_FILE, TABLES_FILE, WEIGHTS_FILE, CodecSpec, hash_file, load_codec_spec
from pipeline.codec.stop_file import StopFile, save_stop_file
from schemas.errors import ArtifactError, ConfigError
from training.codec.config import CodecBudget
from training.codec.fit.folder import check_output
from training.codec.fit.learn import CHECKPOINT
from training.codec.fit.material import Material, training_material
from training.codec.fit.meta import MetaTrainer, keep_analysis
from training.codec.fit.prompt_view import view_of
from training.codec.frame_source import FrameSource
from training.codec.points import budget_of, domains_of, point_of
from training.codec.reports import read_report
from training.codec.vlm import open_vlm
from training.run import RunSettings

REPORT: Final = "training.json"


@dataclass(frozen=True, slots=True)
class DecoderTraining:
    """What decoder `learn_decoder` makes.

    Attributes:
        layers: Its layers; as many as before unless given.
        width: Its width; as before unless given.
        budget: How much of everything else, or a name among the budgets of the codec's operating point; the sizes are
            the codec's own.
        max_seconds: Ends the learning early, its schedule drawn in.
        photos: Class folder of photographs, or a zip of one, which then make up half of the small point's frames.
        overwrite: Replace a codec in the output folder.
    """

    layers: int | None = None
    width: int | None = None
    budget: CodecBudget | str = "full"
    max_seconds: float | None = None
    photos: Path | None = None
    overwrite: bool = False


def learn_decoder(
    vlm_dir: Path, codec_dir: Path, output_dir: Path, run: RunSettings, wanted: DecoderTraining
) -> dict[str, Any]:
    """Learn a decoder of other sizes, or one that has seen other frames, for the symbols of a codec.

    Args:
        vlm_dir: The VLM that the codec was made for.
        codec_dir: The codec; left as it is.
        output_dir: Folder of the codec with the new decoder, without calibration.
        run: Cache, seed, threads, device; without `resume` the checkpoint of this run is dropped.
        wanted: What to learn.

    Returns:
        What `training.json` of the new folder holds: that of the old one, and budget and figures of the decoder.

    Raises:
        ConfigError: an unknown budget, sizes that no decoder has, or the output is the codec itself.
        ArtifactError: the codec is not a learned one, is damaged, or was made for another VLM.
    """
    torch.set_num_threads(run.threads)
    if output_dir.resolve() == codec_dir.resolve():
        raise ConfigError("output", "the new codec needs a folder of its own; the old one is read until the end")
    spec = load_codec_spec(codec_dir)
    spec.check_vlm(vlm_dir)
    check_output(output_dir, overwrite=wanted.overwrite)
    report: dict[str, Any] = read_report(codec_dir / REPORT) if (codec_dir / REPORT).exists() else {}
    before = load_transform(codec_dir, spec)
    if not isinstance(before, MetaAutoEncoder):
        raise ArtifactError(str(codec_dir), f"{spec.name} has no decoder to learn; only a meta_autoencoder has")
    vlm, frozen = open_vlm(vlm_dir, spec.vlm_id, tiles_per_edge=spec.tiles_per_edge, frame_size_px=spec.tile_px)
    plan = _plan(before, budget_of(point_of(frozen), wanted.budget, wanted.max_seconds), wanted)
    source = FrameSource(frozen, run, domains_of(point_of(frozen), wanted.photos), wanted.photos)
    material = training_material(source, vlm, plan)
    trainer, checkpoint = _trainer(vlm, material, spec, _with_decoder_of(before, plan, run.seed), source, plan)
    if trainer.resume(checkpoint):
        run.progress(f"decoder: continues at step {trainer.step}")
    figures = trainer.run(checkpoint, run.progress)
    # A decoder that went on from one learned in this way keeps the record of that one.
    earlier = report.pop("decoder", None)
    report["decoder"] = {
        "seed": run.seed,
        "device": run.device,
        "budget": plan.as_dict(),
        "steps": trainer.step,
        "training_s": round(trainer.spent_s, 1),
        "figures": {name: round(value, 5) for name, value in figures.items()},
        **({} if earlier is None else {"started_from": earlier}),
    }
    _write(codec_dir, spec, trainer.model, output_dir)
    run.progress(f"{output_dir} written")
    (output_dir / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _trainer(
    vlm: ModelAdapter,
    material: Material,
    spec: CodecSpec,
    model: MetaAutoEncoder,
    source: FrameSource,
    plan: CodecBudget,
) -> tuple[MetaTrainer, Path]:
    """A training at its first step, and where its checkpoint is."""
    run, domains = source.run, source.domains
    recipe = json.dumps(
        {"seed": run.seed, "codec": spec.codec_sha256, "domains": domains, **plan.as_dict()}, sort_keys=True
    )
    checkpoint = run.cache_dir / f"decoder-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}" / CHECKPOINT
    if not run.resume:
        checkpoint.unlink(missing_ok=True)
    view = view_of(vlm.model, material.prompts)
    free = torch.zeros(spec.latent_count + 1, device=material.tokens.device)
    return MetaTrainer(model.to(run.device), material, view, free, plan, seed=run.seed), checkpoint


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


def _plan(before: MetaAutoEncoder, base: CodecBudget, wanted: DecoderTraining) -> CodecBudget:
    """A budget with the sizes of a codec."""
    config = before.config
    return replace(
        base,
        latent_count=config.latent_count,
        latent_dim=config.latent_dim,
        planes=config.planes,
        encoder_width=config.encoder_width,
        decoder_width=config.decoder_width if wanted.width is None else wanted.width,
        decoder_layers=config.decoder_layers if wanted.layers is None else wanted.layers,
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
