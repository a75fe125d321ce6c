"""The command that makes both codecs for a vision-language model."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.codec.klt_torch import LatentShape
from pipeline.codec.prefix_decoder_torch import load_transform, read_transform
from pipeline.codec.spec import ENCODER_FILES, hash_file, load_codec_spec
from schemas.errors import ArtifactError, ConfigError
from training.codec.config import CodecBudget
from training.codec.data import Domain
from training.codec.fit.answer_parity import (
    COMPARED_FRAMES,
    AnswerParity,
    EncoderFile,
    run_encoders,
    symbols_of_torch,
)
from training.codec.fit.export import PixelsToSymbols, export_encoder
from training.codec.fit.folder import CodecParts, check_output, write_codec
from training.codec.fit.int8 import CALIBRATION_FRAMES, quantise_encoder
from training.codec.fit.learn import CHECKPOINT, KLT_WEIGHTS, LEARNED, META_WEIGHTS, fitted_klt, learn_codec
from training.codec.fit.material import training_material
from training.codec.frame_source import FrameSource
from training.codec.own_frames import read_images
from training.codec.points import DOMAINS, FOLDERS, CodecName, budget_of, domains_of, point_of
from training.codec.reports import read_report
from training.codec.vlm import FrozenVlm, open_vlm, open_vlm_at
from training.run import RunSettings

PARITY_FRAMES: Final = 64
_WEIGHTS: Final[dict[CodecName, str]] = {"klt": KLT_WEIGHTS, "meta_autoencoder": META_WEIGHTS}


@dataclass(frozen=True, slots=True)
class CodecTraining:
    """What `train_codec` makes.

    Attributes:
        kinds: Which codecs; the closed form alone needs neither questions nor training.
        vlm_id: Name under which the codecs refer to the VLM.
        version: Version of the weights that are written.
        point: Operating point, a key of `POINTS`.
        budget: How much of everything, or a name among the point's budgets.
        max_seconds: Ends the learning early, its schedule drawn in.
        run_dir: Weights and checkpoints of one run; a finished one, from another machine too, is only written out.
            In the cache unless given.
        start_from: Run directory of a finished run of the same point to go on from, see `learn_codec`.
        photos: Class folder of photographs, or a zip of one, which then make up half of the small point's frames.
        export_klt: Write the KLT's ``encoder.onnx`` as well.
        overwrite: Replace codecs in the output folder.
    """

    kinds: Sequence[CodecName] = ("klt", "meta_autoencoder")
    vlm_id: str = "reference-vlm"
    version: int = 1
    point: str = "small"
    budget: CodecBudget | str = "full"
    max_seconds: float | None = None
    run_dir: Path | None = None
    start_from: Path | None = None
    photos: Path | None = None
    export_klt: bool = True
    overwrite: bool = False


def train_codec(
    vlm_dir: Path, output_dir: Path, run: RunSettings, wanted: CodecTraining | None = None
) -> dict[str, Any]:
    """Fit the KLT codec and train the Meta AutoEncoder for a frozen VLM.

    Args:
        vlm_dir: The VLM, in `save_pretrained` format.
        output_dir: Gets the folders of the operating point, see `FOLDERS`.
        run: Cache, seed, threads, device; without `resume` the checkpoints of this run are dropped.
        wanted: What to make.

    Returns:
        Budget, seconds of each stage, last figures of the training, parity of the exports.

    Raises:
        ConfigError: an unknown point or budget name, or a codec in the way.
        ArtifactError: the VLM is not usable, or the run directory holds codecs for tokens of another shape.
    """
    began = time.monotonic()
    wanted = wanted or CodecTraining()
    budget = budget_of(wanted.point, wanted.budget, wanted.max_seconds)
    torch.set_num_threads(run.threads)
    vlm, frozen = open_vlm_at(vlm_dir, wanted.vlm_id, budget.frame_scale)
    folders = {name: output_dir / FOLDERS[wanted.point][name] for name in wanted.kinds}
    for folder in folders.values():
        check_output(folder, overwrite=wanted.overwrite)
    domains = domains_of(wanted.point, wanted.photos)
    source = FrameSource(frozen, run, domains, wanted.photos)
    run_dir = wanted.run_dir or run.cache_dir / f"codec-{_recipe(frozen, domains, budget, run.seed)}"
    if not run.resume:
        _drop_run(run_dir)
    if (run_dir / LEARNED).exists():
        run.progress(f"{run_dir} is learned already")
        learned = read_report(run_dir / LEARNED)
    elif tuple(wanted.kinds) == ("klt",):
        learned = _closed_form(source, budget, run_dir)
    else:
        material = training_material(source, vlm, budget)
        learned = learn_codec(vlm.model, material, budget, run_dir, run, start_from=wanted.start_from)
        vlm.model.to("cpu")
    report: dict[str, Any] = {"vlm_sha256": frozen.sha256, "learned": learned}
    report |= _write_out(folders, source, budget, run_dir, learned, wanted)
    report["seconds"] = round(time.monotonic() - began, 1)
    for folder in folders.values():
        (folder / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _recipe(frozen: FrozenVlm, domains: tuple[Domain, ...], budget: CodecBudget, seed: int) -> str:
    """Short name of what a run learns."""
    recipe = json.dumps({"seed": seed, "vlm": frozen.sha256, "domains": domains, **budget.as_dict()}, sort_keys=True)
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def _drop_run(run_dir: Path) -> None:
    """Forget a run.

    Raises:
        ConfigError: the folder holds something else.
    """
    if not run_dir.exists():
        return
    if any(run_dir.iterdir()) and not any((run_dir / name).exists() for name in (LEARNED, CHECKPOINT, KLT_WEIGHTS)):
        raise ConfigError("--run-dir", f"{run_dir} holds no run that could begin anew: name another folder")
    shutil.rmtree(run_dir)


def _closed_form(source: FrameSource, budget: CodecBudget, run_dir: Path) -> dict[str, Any]:
    """Fit the KLT alone; a later run of the same recipe goes on from it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    _, tokens = source.with_tokens("train", budget.train_frames)
    fitted_klt(tokens.to(source.run.device), budget, run_dir / KLT_WEIGHTS)
    return {"seed": source.run.seed, "budget": budget.as_dict(), "token_shape": list(tokens.shape[1:])}


def _write_out(
    folders: Mapping[CodecName, Path],
    source: FrameSource,
    budget: CodecBudget,
    run_dir: Path,
    learned: dict[str, Any],
    wanted: CodecTraining,
) -> dict[str, Any]:
    """Write the codecs of a finished run.

    Raises:
        ArtifactError: they were made for tokens of another shape.
    """
    made = CodecBudget.from_dict(learned["budget"])
    if made.frame_scale != budget.frame_scale:
        raise ArtifactError(str(run_dir), f"made for frames of scale {made.frame_scale}, not {budget.frame_scale}")
    data, table_tokens = source.with_tokens("tables", budget.table_frames)
    if list(table_tokens.shape[1:]) != learned["token_shape"]:
        raise ArtifactError(str(run_dir), f"made for tokens {learned['token_shape']}, not {table_tokens.shape[1:]}")
    shape = LatentShape(int(table_tokens.shape[1]), int(table_tokens.shape[2]), made.latent_count, made.latent_dim)
    report: dict[str, Any] = {}
    for name, folder in folders.items():
        parts = CodecParts(
            read_transform(run_dir / _WEIGHTS[name], name, shape),
            name,
            wanted.version,
            table_tokens,
            data.frames[:PARITY_FRAMES] if name != "klt" or wanted.export_klt else None,
            made.rungs,
        )
        spec, parity = write_codec(folder, source.frozen, parts)
        report[name] = {"ladder": list(spec.ladder), "parity": parity.as_dict() if parity else None}
        source.run.progress(f"{folder} written: {parity or 'without encoder'}")
    return report


def export_codec(
    vlm_dir: Path, codec_dir: Path, run: RunSettings, *, int8: bool = False, frames: Path | None = None
) -> dict[str, Any]:
    """Write a codec's ``encoder.onnx`` anew from its weights and the VLM, and compare the two.

    Args:
        vlm_dir: The VLM that the codec was made for.
        codec_dir: Codec folder.
        run: Cache and seed of the frames of the comparison, threads, progress.
        int8: Write ``encoder.int8.onnx`` as well, see `training.codec.fit.int8`; else one from before is removed, since
            it belongs to the encoder from before.
        frames: Images that its ranges are calibrated on, instead of drawn frames.

    Returns:
        Parity of the float encoder with torch, in symbols and in answers; with `int8` the same for both encoders.

    Raises:
        ArtifactError: another VLM, a damaged folder or image, or an export that does not agree with torch.
        ConfigError: `int8` for a tower in which nothing can be quantised, or a folder without images.
    """
    torch.set_num_threads(run.threads)
    spec = load_codec_spec(codec_dir)
    spec.check_vlm(vlm_dir)
    vlm, frozen = open_vlm(vlm_dir, spec.vlm_id, tiles_per_edge=spec.tiles_per_edge, frame_size_px=spec.tile_px)
    source = FrameSource(frozen, run, (DOMAINS[point_of(frozen)],))
    sample = source.frames("tables", PARITY_FRAMES)
    compared = source.frames("selection", COMPARED_FRAMES)
    transform = load_transform(codec_dir, spec)
    with tempfile.TemporaryDirectory(dir=codec_dir, prefix=".export-") as name:
        made = {precision: Path(name) / file for precision, file in ENCODER_FILES.items()}
        report: dict[str, Any] = export_encoder(frozen.image_path, transform, made["fp32"], sample.frames).as_dict()
        if int8:
            calibration = (
                source.frames("train", CALIBRATION_FRAMES).frames
                if frames is None
                else read_images(frames, CALIBRATION_FRAMES, spec.image_size_px, spec.fit)
            )
            quantise_encoder(made["fp32"], made["int8"], calibration)
        found = run_encoders([path for path in made.values() if path.exists()], compared.frames)
        torch_symbols = symbols_of_torch(PixelsToSymbols(frozen.image_path, transform).eval(), compared.frames)
        report["answers"] = AnswerParity.of(vlm, transform, (torch_symbols, found[0].symbols), compared).as_dict()
        if int8:
            report["int8"] = _beside(found, AnswerParity.of(vlm, transform, [each.symbols for each in found], compared))
        update = {"encoder_sha256": hash_file(made["fp32"]), "encoder_int8_sha256": None}
        if int8:
            update["encoder_int8_sha256"] = hash_file(made["int8"])
        for precision, path in made.items():
            target = codec_dir / ENCODER_FILES[precision]
            if path.exists():
                path.replace(target)
                run.progress(f"{target} written")
            else:
                target.unlink(missing_ok=True)
    spec.model_copy(update=update).save(codec_dir)
    return report


def _beside(found: Sequence[EncoderFile], parity: AnswerParity) -> dict[str, Any]:
    """Float and 8-bit integers, as plain data."""
    in_float, in_int8 = found
    return {
        **parity.as_dict(),
        "float_ms": in_float.ms_p50,
        "int8_ms": in_int8.ms_p50,
        "time_ratio": round(in_int8.ms_p50 / in_float.ms_p50, 3),
        "float_bytes": in_float.size_bytes,
        "int8_bytes": in_int8.size_bytes,
    }
