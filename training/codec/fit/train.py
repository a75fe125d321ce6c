"""The command that makes both codecs for a vision-language model."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoProcessor

from cloud_workers.vlm import TransformersVlm
from pipeline.codec.klt_torch import LatentShape
from pipeline.codec.prefix_decoder_torch import load_transform, read_transform
from pipeline.codec.spec import ENCODER_FILE, hash_file, hash_vlm, load_codec_spec
from schemas.errors import ArtifactError, ConfigError
from training.codec.config import BUDGETS, DETAILED_BUDGETS, CodecBudget
from training.codec.data import AskedFrames, Domain, Progress, cached_tokens, scene_set
from training.codec.fit.export import Parity, export_encoder
from training.codec.fit.folder import CodecName, FrozenVlm, check_output, write_codec
from training.codec.fit.learn import CHECKPOINT, KLT_WEIGHTS, LEARNED, META_WEIGHTS, learn_codec
from training.codec.fit.material import LearningSet, Material, ask
from training.codec.image_path import PixelsToTokens
from training.codec.reports import read_report

PARITY_FRAMES: Final = 64
POINTS: Final = {"small": BUDGETS, "detailed": DETAILED_BUDGETS}
"""Budgets of the two operating points."""
FOLDERS: Final[dict[str, dict[CodecName, str]]] = {
    "small": {"klt": "klt", "meta_autoencoder": "meta_autoencoder"},
    "detailed": {"klt": "klt_detailed", "meta_autoencoder": "meta_autoencoder_detailed"},
}
DOMAINS: Final[dict[str, tuple[Domain, ...]]] = {"small": ("rendered",), "detailed": ("detail",)}
"""What their frames show."""
_WEIGHTS: Final[dict[CodecName, str]] = {"klt": KLT_WEIGHTS, "meta_autoencoder": META_WEIGHTS}


def open_vlm(vlm_dir: Path, vlm_id: str, *, tiles_per_edge: int = 1) -> tuple[TransformersVlm, FrozenVlm]:
    """Load a VLM as workers do, and what the export needs of it.

    Args:
        vlm_dir: Folder in `save_pretrained` format.
        vlm_id: Name under which codecs refer to it.
        tiles_per_edge: As in `CodecSpec`.

    Raises:
        ArtifactError: it is not a usable model.
    """
    vlm = TransformersVlm.load(vlm_dir, tiles_per_edge=tiles_per_edge)
    images = AutoProcessor.from_pretrained(vlm_dir).image_processor
    frozen = FrozenVlm(
        image_path=PixelsToTokens(vlm.model, images, tiles_per_edge=tiles_per_edge).eval(),
        vlm_id=vlm_id,
        sha256=hash_vlm(vlm_dir),
        image_size_px=tiles_per_edge * int(vlm.model.config.vision_config.image_size),
        tiles_per_edge=tiles_per_edge,
    )
    return vlm, frozen


def budget_of(point: str, budget: CodecBudget | str) -> CodecBudget:
    """A budget by its name at an operating point, or itself.

    Raises:
        ConfigError: an unknown name.
    """
    if not isinstance(budget, str):
        return budget
    if budget not in POINTS[point]:
        raise ConfigError("budget", f"{budget!r} is none of {', '.join(POINTS[point])}")
    return POINTS[point][budget]


def domains_of(point: str, photos: Path | None) -> tuple[Domain, ...]:
    """What the frames of an operating point show; photographs only at the small one."""
    return DOMAINS[point] if photos is None or point != "small" else (*DOMAINS[point], "photographs")


@dataclass(frozen=True, slots=True)
class FrameSource:
    """Frames and their visual tokens for one VLM, kept in a cache.

    Attributes:
        frozen: The VLM.
        cache_dir: Where frames and tokens are kept.
        domains: What the frames show.
        photos: Photographs, if these are among them.
        seed: Seed of the frames.
        threads: Rendering processes.
        progress: Called with a line of text now and then.
    """

    frozen: FrozenVlm
    cache_dir: Path
    domains: tuple[Domain, ...]
    photos: Path | None
    seed: int
    threads: int
    progress: Progress

    def frames(self, name: str, count: int) -> tuple[AskedFrames, torch.Tensor]:
        """A set of `training.codec.data.FIRST_SEEDS` and its tokens, float16 [F, N, D]."""
        size = self.frozen.image_size_px
        frames = scene_set(
            name,
            self.cache_dir,
            count=count,
            size=size,
            seed=self.seed,
            processes=self.threads,
            progress=self.progress,
            domains=self.domains,
            photos=self.photos,
        )
        stem = f"{name}-{'-'.join(self.domains)}-{size}-{self.seed}-{count}.npy"
        path = self.cache_dir / f"tokens-{self.frozen.sha256[:12]}" / stem
        return frames, cached_tokens(self.frozen.image_path, frames.frames, path)

    def material(self, vlm: TransformersVlm, vlm_dir: Path, budget: CodecBudget, device: str) -> Material:
        """Training frames with the model's own answers, on a device; the model is moved there."""
        frames, tokens = self.frames("train", budget.train_frames)
        self.progress(f"tokens of {len(tokens)} frames are ready")
        material = ask(
            vlm.model.to(device),
            AutoProcessor.from_pretrained(vlm_dir),
            LearningSet.of(tokens.to(device), frames),
            frames=budget.asked_frames,
            questions=budget.view_questions,
            answer_tokens=budget.answer_tokens,
            tiles_per_edge=budget.tiles_per_edge,
        )
        self.progress(f"the model's own answers about {len(material.frames)} frames are ready")
        return material


def train_codec(
    vlm_dir: Path,
    output_dir: Path,
    cache_dir: Path,
    *,
    vlm_id: str = "reference-vlm",
    version: int = 1,
    seed: int = 0,
    point: str = "small",
    budget: CodecBudget | str = "full",
    device: str = "cpu",
    max_seconds: float | None = None,
    run_dir: Path | None = None,
    start_from: Path | None = None,
    photos: Path | None = None,
    resume: bool = True,
    threads: int = 2,
    export_klt: bool = True,
    overwrite: bool = False,
    progress: Progress = print,
) -> dict[str, Any]:
    """Fit the KLT codec and train the Meta AutoEncoder for a frozen VLM.

    Args:
        vlm_dir: The VLM, in `save_pretrained` format.
        output_dir: Gets the folders of the operating point, see `FOLDERS`.
        cache_dir: Frames, tokens and checkpoints; can be deleted afterwards.
        vlm_id: Name under which the codecs refer to the VLM.
        version: Version of the weights that are written.
        seed: Seed of frames, weights and order.
        point: Operating point, a key of `POINTS`.
        budget: How much of everything, or a name among the point's budgets.
        device: Where to learn; everything else runs on the CPU.
        max_seconds: Ends the learning early, its schedule drawn in.
        run_dir: Weights and checkpoints of one run; a finished one, from another machine too, is only written out.
            In the cache unless given.
        start_from: Run directory of a finished run of the same point to go on from, see `learn_codec`.
        photos: Class folder of photographs, or a zip of one, which then make up half of the small point's frames.
        resume: Continue a run of the same VLM, budget and seed; otherwise its checkpoints are dropped.
        threads: CPU threads, and rendering processes.
        export_klt: Write the KLT's ``encoder.onnx`` as well.
        overwrite: Replace codecs of other models in `output_dir`.
        progress: Called with a line of text now and then.

    Returns:
        Budget, seconds of each stage, last figures of the training, parity of the exports.

    Raises:
        ConfigError: an unknown point or budget name, an id that is too long, or a codec of another model in the way.
        ArtifactError: the VLM is not usable, or the run directory holds codecs for tokens of another shape.
    """
    if point not in POINTS:
        raise ConfigError("point", f"{point!r} is none of {', '.join(POINTS)}")
    budget = budget_of(point, budget)
    if max_seconds is not None:
        budget = replace(budget, max_seconds=max_seconds)
    torch.set_num_threads(threads)
    vlm, frozen = open_vlm(vlm_dir, vlm_id, tiles_per_edge=budget.tiles_per_edge)
    for folder in FOLDERS[point].values():
        check_output(output_dir / folder, frozen.sha256, overwrite=overwrite)
    domains = domains_of(point, photos)
    source = FrameSource(frozen, cache_dir, domains, photos, seed, threads, progress)
    if run_dir is None:
        recipe = json.dumps(
            {"seed": seed, "vlm": frozen.sha256, "domains": domains, **budget.as_dict()}, sort_keys=True
        )
        run_dir = cache_dir / f"codec-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not resume and run_dir.exists():
        if any(run_dir.iterdir()) and not any((run_dir / name).exists() for name in (LEARNED, CHECKPOINT, KLT_WEIGHTS)):
            raise ConfigError("--run-dir", f"{run_dir} holds no run that could begin anew: name another folder")
        shutil.rmtree(run_dir)
    began = time.monotonic()

    if (run_dir / LEARNED).exists():
        progress(f"{run_dir} is learned already")
        learned = read_report(run_dir / LEARNED)
    else:
        material = source.material(vlm, vlm_dir, budget, device)
        learned = learn_codec(vlm.model, material, budget, run_dir, seed=seed, start_from=start_from, progress=progress)
        vlm.model.to("cpu")
    made = CodecBudget.from_dict(learned["budget"])
    if made.tiles_per_edge != budget.tiles_per_edge:
        raise ArtifactError(str(run_dir), f"made for {made.tiles_per_edge} tiles an edge, not {budget.tiles_per_edge}")
    data, table_tokens = source.frames("tables", budget.table_frames)
    if list(table_tokens.shape[1:]) != learned["token_shape"]:
        raise ArtifactError(str(run_dir), f"made for tokens {learned['token_shape']}, not {table_tokens.shape[1:]}")
    report: dict[str, Any] = {"vlm_sha256": frozen.sha256, "learned": learned}
    shape = LatentShape(int(table_tokens.shape[1]), int(table_tokens.shape[2]), made.latent_count, made.latent_dim)
    for name, folder in FOLDERS[point].items():
        spec, parity = write_codec(
            output_dir / folder,
            read_transform(run_dir / _WEIGHTS[name], name, shape),
            name,
            frozen,
            version=version,
            table_tokens=table_tokens,
            sample=data.frames[:PARITY_FRAMES] if name != "klt" or export_klt else None,
            rungs=made.rungs,
        )
        report[name] = {"ladder": list(spec.ladder), "parity": parity.as_dict() if parity else None}
        progress(f"{output_dir / folder} written: {parity or 'without encoder'}")
    report["seconds"] = round(time.monotonic() - began, 1)
    for folder in FOLDERS[point].values():
        (output_dir / folder / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
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
    _, frozen = open_vlm(vlm_dir, spec.vlm_id, tiles_per_edge=spec.tiles_per_edge)
    sample = scene_set(
        "tables",
        cache_dir,
        count=PARITY_FRAMES,
        size=spec.image_size_px,
        seed=seed,
        processes=threads,
        progress=progress,
        domains=DOMAINS["small" if spec.tiles_per_edge == 1 else "detailed"],
    )
    path = codec_dir / ENCODER_FILE
    partial = path.with_suffix(".partial.onnx")
    transform = load_transform(codec_dir, spec)
    parity = export_encoder(frozen.image_path, transform, partial, sample.frames)
    partial.replace(path)
    spec.model_copy(update={"encoder_sha256": hash_file(path)}).save(codec_dir)
    return parity
