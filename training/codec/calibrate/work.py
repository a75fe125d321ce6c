"""Calibrates a codec for a model on somebody's own pictures, stage by stage; what was done before is not done again.

::

    pictures   decoded and fitted
    tokens     what the tower makes of them (kept in the cache beside the stages)
    codec      transform, tables, encoder
    stop       ladder and thresholds
    report     what to expect

The result is one directory::

    codec/   for edges and workers: codec.json, encoder.onnx, ..., README.md (model card), calibration.json (figures)
    vlm      link to the model's folder
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from cloud_workers.inference.adapter import ModelAdapter
from pipeline.codec.bundled import OWN_CODEC, OWN_VLM
from pipeline.codec.spec import ENCODER_FILE, WEIGHTS_FILE, hash_vlm, load_codec_spec
from schemas.counting import counted
from schemas.errors import ConfigError
from training.codec.calibrate.card import model_card
from training.codec.calibrate.expect import expectations
from training.codec.calibrate.make import Material, latent_size, make_codec
from training.codec.calibrate.model import FoundVlm, find_vlm
from training.codec.calibrate.pictures import Gathered, Gathering, gather, open_frames
from training.codec.calibrate.questions import PictureQuestions
from training.codec.calibrate.sets import PictureSets, check_size_of, divide, order_of
from training.codec.calibrate.source import PictureSource, open_pictures
from training.codec.calibrate.tokens import fill_tokens, open_tokens
from training.codec.fit.folder import check_output
from training.codec.stop.bench import CodecBench, TokenSet
from training.codec.stop.calibrate import StopCalibration, calibrate_on
from training.codec.stop.learn_then_test import Promise
from training.codec.vlm import FrozenVlm, open_vlm
from training.run import RunSettings
from training.stages import Stage, StagedWork

CARD: Final = "README.md"
FIGURES: Final = "calibration.json"
_LINKED: Final = frozenset({ENCODER_FILE, WEIGHTS_FILE})
"""Large, and never changed in place: stages share them."""


@dataclass(frozen=True, slots=True)
class CodecCalibration:
    """What `calibrate_codec` makes.

    Attributes:
        questions: File of questions; None asks `training.codec.calibrate.questions.DEFAULT_QUESTIONS`.
        promise: What the stop rule has to keep.
        questions_a_frame: How many questions of a frame the promise covers; 0 for all.
        size_bytes: Mean size of whole latents; by the number of visual tokens unless given.
        tiles_per_edge: As in `CodecSpec`.
        frame_px: Edge of a tile, for models that read any; None for the family's usual one.
        every_s: Seconds between two frames of a video.
        max_pictures: Most pictures.
        vlm_id: What the codec calls the model; its own name unless given.
        version: Of the weights.
        overwrite: Replace a codec in the output folder.
    """

    questions: Path | None = None
    promise: Promise = field(default_factory=lambda: Promise(0.05))
    questions_a_frame: int = 3
    size_bytes: int | None = None
    tiles_per_edge: int = 1
    frame_px: int | None = None
    every_s: float = 1.0
    max_pictures: int = 400
    vlm_id: str | None = None
    version: int = 1
    overwrite: bool = False


def calibrate_codec(
    vlm: str, images: Path, output: Path, run: RunSettings, wanted: CodecCalibration | None = None
) -> dict[str, Any]:
    """Make a KLT codec with stop rule and key frame tables for any model, from pictures of one's own.

    Args:
        vlm: Folder in `save_pretrained` format, or hub id.
        images: Folder or zip of pictures, or a video.
        output: Gets `codec` and `vlm`.
        run: Cache, seed, threads, progress.
        wanted: What to make.

    Returns:
        What `calibration.json` holds.

    Raises:
        TooFewPicturesError: there are fewer pictures than the promise needs.
        ConfigError: an option, a question or the output folder is wrong.
        ArtifactError: the model is not usable.
        SourceError: no frame of a video decodes.
    """
    wanted = wanted or CodecCalibration()
    torch.set_num_threads(run.threads)
    check_output(output / OWN_CODEC, overwrite=wanted.overwrite)
    if (output / OWN_VLM).exists() and not (output / OWN_VLM).is_symlink():
        raise ConfigError("--output", f"{output / OWN_VLM} is in the way: name another folder")
    source = open_pictures(images)
    questions = PictureQuestions.read(wanted.questions)
    questions.check_names(source)
    if not source.video:
        check_size_of(min(len(source.names), wanted.max_pictures), wanted.promise, str(images))
    found = find_vlm(vlm, wanted.vlm_id, run.progress)
    adapter, frozen = open_vlm(
        found.folder, found.vlm_id, tiles_per_edge=wanted.tiles_per_edge, frame_size_px=wanted.frame_px
    )
    work = _Work(wanted, run, source, questions, found, adapter, frozen)
    spent_s = StagedWork(work.root, work.stages(), run.progress).run()
    report: dict[str, Any] = json.loads((work.root / "report" / FIGURES).read_bytes())
    work.lay_out(output, overwrite=wanted.overwrite)
    run.progress(f"{output / OWN_CODEC} written, {sum(spent_s.values()) / 60:.1f} min")
    return report


class _Work:
    """Stages of one calibration."""

    def __init__(
        self,
        wanted: CodecCalibration,
        run: RunSettings,
        source: PictureSource,
        questions: PictureQuestions,
        found: FoundVlm,
        adapter: ModelAdapter,
        frozen: FrozenVlm,
    ) -> None:
        self._wanted, self._run, self._source, self._questions = wanted, run, source, questions
        self._found, self._adapter, self._frozen = found, adapter, frozen
        # What decides about visual tokens; everything else may change without the tower running again.
        self._key: dict[str, Any] = {
            "vlm": hash_vlm(found.folder),
            "pictures": source.sha256,
            "frame_px": frozen.image_size_px,
            "tiles": frozen.tiles_per_edge,
            "fit": frozen.fit.model_dump(),
            "limit": wanted.max_pictures,
            "every_s": wanted.every_s,
            "asked": sorted(questions.by_name),
            "seed": run.seed,
        }
        name = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()[:12]
        self.root = run.cache_dir / f"calibrate-{name}"

    def stages(self) -> list[Stage]:
        """All of them, each after what it reads."""
        wanted, promise = self._wanted, self._wanted.promise
        sets = {"risk": promise.risk, "delta": promise.delta, "by_type": promise.by_type}
        codec = {**sets, "bytes": wanted.size_bytes, "version": wanted.version, "vlm_id": self._found.vlm_id}
        asked = json.dumps([[str(item.answer_type), item.text, item.truth] for item in self._questions.of_all])
        named = json.dumps(
            {
                name: [[str(item.answer_type), item.text, item.truth] for item in items]
                for name, items in sorted(self._questions.by_name.items())
            }
        )
        stop = {
            **codec,
            "questions_a_frame": wanted.questions_a_frame,
            "questions": hashlib.sha256(f"{asked}{named}".encode()).hexdigest(),
        }
        return [
            Stage("pictures", "reading pictures", self._key, (), self._gather, 0.01),
            Stage("tokens", "visual tokens", {}, ("pictures",), self._encode, 0.1),
            Stage("codec", "transform, tables, encoder", codec, ("tokens",), self._make, 0.05),
            Stage("stop", "ladder and thresholds", stop, ("codec",), self._calibrate, 0.3),
            Stage("report", "what to expect", {}, ("stop",), self._report, 0.05),
        ]

    def lay_out(self, output: Path, *, overwrite: bool) -> None:
        """Write the result into its directory."""
        output.mkdir(parents=True, exist_ok=True)
        partial = output / f".{OWN_CODEC}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(self.root / "stop", partial)
        for name in (CARD, FIGURES):
            shutil.copy(self.root / "report" / name, partial / name)
        target = output / OWN_CODEC
        if overwrite:
            shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
        link = output / OWN_VLM
        link.unlink(missing_ok=True)
        link.symlink_to(self._found.folder.resolve(), target_is_directory=True)

    def _gather(self, folder: Path) -> None:
        frozen, wanted = self._frozen, self._wanted
        how = Gathering(frozen.image_size_px, frozen.fit, wanted.max_pictures, wanted.every_s)
        asked = frozenset(self._questions.by_name)
        found = gather(self._source, folder, how, self._run.progress, asked=asked)
        self._run.progress(
            f"{counted(len(found), 'picture')} of {self._source.path.name}, {len(found.skipped)} cannot be read, "
            f"{len(found.repeated)} repeated, {found.left_out} over the limit"
        )

    def _gathered(self) -> Gathered:
        return Gathered.load(self.root / "pictures")

    @property
    def _tokens(self) -> Path:
        return self.root / "cache" / "tokens.npy"

    def _sets(self) -> PictureSets:
        gathered = self._gathered()
        rows = self._questions.rows(gathered.names)
        order = order_of(len(gathered), video=gathered.video, seed=self._run.seed, asked=rows)
        asked = None if rows is None else len(rows)
        return divide(order, self._wanted.promise, str(self._source.path), video=gathered.video, asked=asked)

    def _encode(self, folder: Path) -> None:
        shape = (self._adapter.token_count, self._adapter.token_dim)
        fill_tokens(
            self._tokens,
            self._frozen.image_path,
            open_frames(self.root / "pictures"),
            self._sets().order,  # asked before hours of work: too few pictures end here
            shape,
            self._run.progress,
            source=self._found.vlm_id,
        )
        (folder / "shape.json").write_text(json.dumps([len(self._gathered()), *shape]), encoding="utf-8")

    def _material(self) -> Material:
        return Material(
            self._frozen,
            open_frames(self.root / "pictures"),
            open_tokens(self._tokens),
            self._sets(),
            self._gathered().video,
            self._run.seed,
        )

    def _make(self, folder: Path) -> None:
        size = latent_size(self._adapter.token_count, self._adapter.token_dim, self._wanted.size_bytes)
        made = make_codec(folder, self._material(), size, self._wanted.version, self._run.progress)
        (folder / FIGURES).write_text(json.dumps(made), encoding="utf-8")

    def _token_sets(self) -> dict[str, TokenSet]:
        material, names = self._material(), self._gathered().names
        return {
            name: TokenSet(
                self._questions.of([names[row] for row in material.sets.rows(name)]), material.tokens_of(name)
            )
            for name in material.sets.ranges
        }

    def _bench(self, codec: Path, sets: Mapping[str, TokenSet]) -> CodecBench:
        run = RunSettings(
            self.root / "cache", self._run.seed, self._run.threads, self._run.device, True, self._run.progress
        )
        return CodecBench(codec, load_codec_spec(codec), self._adapter, self._frozen, run, sets)

    def _calibrate(self, folder: Path) -> None:
        _carry(self.root / "codec", folder)
        wanted = StopCalibration(self._wanted.promise, questions_a_frame=self._wanted.questions_a_frame)
        found = calibrate_on(self._bench(folder, self._token_sets()), wanted)
        figures = json.loads((folder / FIGURES).read_bytes())
        kept = {name: found[name] for name in ("ladder", "thresholds", "provable", "best_fixed_latents", "at_once")}
        (folder / FIGURES).write_text(json.dumps({**figures, "stop": kept}), encoding="utf-8")

    def _report(self, folder: Path) -> None:
        codec = self.root / "stop"
        sets = self._token_sets()
        bench, wanted, gathered = self._bench(codec, sets), self._wanted, self._gathered()
        figures = json.loads((codec / FIGURES).read_bytes())
        spec = bench.spec
        report = {
            "codec": {
                **json.loads(spec.model_dump_json()),
                "fingerprint": spec.fingerprint.hex(),
                "fingerprint4": spec.fingerprint4.hex(),
                "vlm_sha256": spec.vlm_sha256,
            },
            "promise": {"risk": wanted.promise.risk, "delta": wanted.promise.delta},
            "pictures": {
                "source": self._source.path.name,
                "usable": len(gathered),
                "skipped": [{"name": name, "problem": problem} for name, problem in gathered.skipped],
                "repeated": len(gathered.repeated),
                "left_out": gathered.left_out,
                "video": gathered.video,
                "every_s": gathered.every_s,
                "sets": self._sets().sizes,
            },
            "questions": {
                "file": None if self._questions.file is None else self._questions.file.name,
                "texts": self._questions.texts,
                "a_frame": wanted.questions_a_frame,
            },
            **figures,
            "expect": expectations(bench, sets, wanted.promise, wanted.questions_a_frame),
            "seed": self._run.seed,
        }
        (folder / FIGURES).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (folder / CARD).write_text(model_card(report), encoding="utf-8")


def _carry(source: Path, target: Path) -> None:
    """Take over the files of an earlier stage."""
    for path in source.iterdir():
        if path.name in _LINKED:
            os.link(path, target / path.name)
        else:
            shutil.copy(path, target / path.name)
