"""What calibrating and training on somebody's own pictures share: the pictures, their tokens, the sets, the result.

Stages lie side by side in one folder for each set of pictures and model, so that what one command has done the other
need not do again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from training.codec.calibrate.make import Material
from training.codec.calibrate.model import FoundVlm, find_vlm
from training.codec.calibrate.pictures import Gathered, Gathering, gather, open_fitted
from training.codec.calibrate.questions import PictureQuestions
from training.codec.calibrate.sets import PictureSets, SetPlan, check_size_of, divide, order_of
from training.codec.calibrate.source import PictureSource, open_pictures
from training.codec.calibrate.tokens import fill_tokens, kept_tokens
from training.codec.data import Asked
from training.codec.fit.folder import check_output
from training.codec.stop.bench import CodecBench, TokenSet
from training.codec.stop.calibrate import StopCalibration, calibrate_on
from training.codec.stop.learn_then_test import Promise
from training.codec.vlm import FrozenVlm, open_vlm
from training.run import RunSettings
from training.stages import Stage

CARD: Final = "README.md"
FIGURES: Final = "calibration.json"
PICTURES: Final = "pictures"
TOKENS: Final = "tokens"
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


@dataclass(frozen=True, slots=True)
class OpenedWork:
    """Model, pictures and questions, looked at and found usable.

    Attributes:
        source: The pictures.
        questions: About them.
        found: The model's folder and name.
        adapter: The model.
        frozen: What codecs need of it.
    """

    source: PictureSource
    questions: PictureQuestions
    found: FoundVlm
    adapter: ModelAdapter
    frozen: FrozenVlm


def open_work(
    vlm: str, images: Path, output: Path, run: RunSettings, wanted: CodecCalibration, plan: SetPlan
) -> OpenedWork:
    """Look at everything that a command was given before anything takes long.

    Args:
        vlm: Folder in `save_pretrained` format, or hub id.
        images: Folder or zip of pictures, or a video.
        output: Gets `codec` and `vlm`.
        run: Threads and progress.
        wanted: What is to be made.
        plan: The sets.

    Raises:
        TooFewPicturesError: there are fewer pictures than the promise needs.
        ConfigError: an option, a question or the output folder is wrong.
        ArtifactError: the model is not usable.
    """
    torch.set_num_threads(run.threads)
    check_output(output / OWN_CODEC, overwrite=wanted.overwrite)
    if (output / OWN_VLM).exists() and not (output / OWN_VLM).is_symlink():
        raise ConfigError("--output", f"{output / OWN_VLM} is in the way: name another folder")
    source = open_pictures(images)
    questions = PictureQuestions.read(wanted.questions)
    questions.check_names(source)
    if not source.video:
        check_size_of(min(len(source.names), wanted.max_pictures), wanted.promise, str(images), plan)
    found = find_vlm(vlm, wanted.vlm_id, run.progress)
    adapter, frozen = open_vlm(
        found.folder, found.vlm_id, tiles_per_edge=wanted.tiles_per_edge, frame_size_px=wanted.frame_px
    )
    return OpenedWork(source, questions, found, adapter, frozen)


class PictureWork:
    """Stages that a calibration and a training have in common.

    Args:
        wanted: What is made.
        run: Cache, seed, threads, device, progress.
        opened: Model, pictures and questions.
        plan: The sets.

    Attributes:
        root: Folder of the stages.
    """

    def __init__(self, wanted: CodecCalibration, run: RunSettings, opened: OpenedWork, plan: SetPlan) -> None:
        self.wanted, self.run, self.opened, self.plan = wanted, run, opened, plan
        frozen, source = opened.frozen, opened.source
        # What decides about visual tokens; everything else may change without the tower running again.
        key: dict[str, Any] = {
            "vlm": hash_vlm(opened.found.folder),
            "pictures": source.sha256,
            "frame_px": frozen.image_size_px,
            "tiles": frozen.tiles_per_edge,
            "fit": frozen.fit.model_dump(),
            "limit": wanted.max_pictures if source.video else min(wanted.max_pictures, len(source.names)),
            "every_s": wanted.every_s if source.video else None,
            "asked": sorted(opened.questions.by_name),
            "seed": run.seed,
        }
        self._key = key
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        self.root = run.cache_dir / f"pictures-{name}"

    @property
    def codec_settings(self) -> dict[str, Any]:
        """What decides about a transform beside the pictures, JSON-ready."""
        promise, wanted = self.wanted.promise, self.wanted
        return {
            "risk": promise.risk,
            "delta": promise.delta,
            "by_type": promise.by_type,
            "sets": [dict(self.plan.shares), dict(self.plan.fewest), dict(self.plan.most)],
            "bytes": wanted.size_bytes,
            "version": wanted.version,
            "vlm_id": self.opened.found.vlm_id,
        }

    @property
    def questions_sha256(self) -> str:
        """Of everything that is asked."""
        questions = self.opened.questions
        asked = [_plain(questions.of_all), {name: _plain(own) for name, own in sorted(questions.by_name.items())}]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    @property
    def stop_settings(self) -> dict[str, Any]:
        """What decides about a stop rule beside the codec, JSON-ready."""
        asked = {"questions_a_frame": self.wanted.questions_a_frame, "questions": self.questions_sha256}
        return {**self.codec_settings, **asked}

    def first_stages(self) -> list[Stage]:
        """Pictures and their tokens."""
        return [
            Stage(PICTURES, "reading pictures", self._key, (), self._gather, 0.01),
            Stage(TOKENS, "visual tokens", {}, (PICTURES,), self._encode, 0.1),
        ]

    def lay_out(self, output: Path, codec: str, report: str) -> None:
        """Write the result into its directory.

        Args:
            output: The directory.
            codec: Stage with the codec.
            report: Stage with card and figures.
        """
        output.mkdir(parents=True, exist_ok=True)
        partial = output / f".{OWN_CODEC}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(self.root / codec, partial)
        for name in (CARD, FIGURES):
            shutil.copy(self.root / report / name, partial / name)
        target = output / OWN_CODEC
        if self.wanted.overwrite:
            shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
        link = output / OWN_VLM
        link.unlink(missing_ok=True)
        link.symlink_to(self.opened.found.folder.resolve(), target_is_directory=True)

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Let the model compute on the run's device meanwhile."""
        adapter, image_path, device = self.opened.adapter, self.opened.frozen.image_path, self.run.device
        adapter.model.to(device)
        image_path.to(device)
        try:
            yield
        finally:
            image_path.to("cpu")
            adapter.model.to("cpu")

    @property
    def how(self) -> Gathering:
        """How pictures are gathered."""
        frozen, wanted = self.opened.frozen, self.wanted
        return Gathering(frozen.image_size_px, frozen.fit, wanted.max_pictures, wanted.every_s)

    def _gather(self, folder: Path) -> None:
        asked = frozenset(self.opened.questions.by_name)
        found = gather(self.opened.source, folder, self.how, self.run.progress, asked=asked)
        self.run.progress(
            f"{counted(len(found), 'picture')} of {self.opened.source.path.name}, {len(found.skipped)} cannot be read, "
            f"{len(found.repeated)} repeated, {found.left_out} over the limit"
        )

    def gathered(self) -> Gathered:
        """The pictures that can be used."""
        return Gathered.load(self.root / PICTURES)

    def sets(self) -> PictureSets:
        """Which picture is for what.

        Raises:
            TooFewPicturesError: a set would have less than it needs.
        """
        gathered, wanted = self.gathered(), self.wanted
        rows = self.opened.questions.rows(gathered.names)
        order = order_of(len(gathered), video=gathered.video, seed=self.run.seed, asked=rows)
        asked, where = None if rows is None else len(rows), str(self.opened.source.path)
        return divide(order, wanted.promise, where, video=gathered.video, asked=asked, plan=self.plan)

    @property
    def tokens_file(self) -> Path:
        """Visual tokens of all pictures, in the order of the sets."""
        return self.root / "cache" / "tokens.npy"

    @property
    def token_shape(self) -> tuple[int, int]:
        """Visual tokens of a picture and their values, N and D."""
        return self.opened.adapter.token_count, self.opened.adapter.token_dim

    def _encode(self, folder: Path) -> None:
        self.sets()  # asked before hours of work: too few pictures end here
        self.tokens()
        (folder / "shape.json").write_text(json.dumps([len(self.gathered()), *self.token_shape]), encoding="utf-8")

    def tokens(self) -> torch.Tensor:
        """Visual tokens in the order of the sets, float16 [F, N, D]; made again where somebody has deleted them."""
        order, opened = self.sets().order, self.opened
        found = kept_tokens(self.tokens_file, (len(order), *self.token_shape))
        if found is not None:
            return found
        pictures = open_fitted(opened.source, self.root / PICTURES, self.how)
        with self.on_device():
            return fill_tokens(
                self.tokens_file,
                opened.frozen.image_path,
                pictures,
                order,
                self.token_shape,
                self.run.progress,
                source=opened.found.vlm_id,
            )

    def material(self) -> Material:
        """What codecs are made from."""
        pictures = open_fitted(self.opened.source, self.root / PICTURES, self.how)
        video = self.gathered().video
        return Material(self.opened.frozen, pictures, self.tokens(), self.sets(), video, self.run.seed)

    def token_sets(self) -> dict[str, TokenSet]:
        """Tokens of each set, with the questions that are asked about it."""
        material, names = self.material(), self.gathered().names
        return {
            name: TokenSet(
                self.opened.questions.of([names[row] for row in material.sets.rows(name)]), material.tokens_of(name)
            )
            for name in material.sets.ranges
        }

    def bench(self, codec: Path, sets: Mapping[str, TokenSet]) -> CodecBench:
        """A codec with sets to measure it on; answers are kept in the cache."""
        run = self.run
        settings = RunSettings(self.root / "cache", run.seed, run.threads, run.device, True, run.progress)
        return CodecBench(codec, load_codec_spec(codec), self.opened.adapter, self.opened.frozen, settings, sets)

    def calibrate(self, folder: Path, codec: str) -> None:
        """Give a codec its stop rule.

        Args:
            folder: Of the stage.
            codec: Stage with a codec that has none.
        """
        _carry(self.root / codec, folder)
        wanted = StopCalibration(self.wanted.promise, questions_a_frame=self.wanted.questions_a_frame)
        with self.on_device():
            found = calibrate_on(self.bench(folder, self.token_sets()), wanted)
        figures = json.loads((folder / FIGURES).read_bytes())
        kept = {name: found[name] for name in ("ladder", "thresholds", "provable", "best_fixed_latents", "at_once")}
        (folder / FIGURES).write_text(json.dumps({**figures, "stop": kept}), encoding="utf-8")

    def report(
        self,
        folder: Path,
        codec: str,
        further: Mapping[str, Any] | None = None,
        card: Callable[[Mapping[str, Any]], str] = model_card,
    ) -> None:
        """Write figures and model card.

        Args:
            folder: Of the stage.
            codec: Stage with the calibrated codec.
            further: What else the figures hold.
            card: Writes the model card.
        """
        sets = self.token_sets()
        bench, wanted, gathered = self.bench(self.root / codec, sets), self.wanted, self.gathered()
        figures = json.loads((self.root / codec / FIGURES).read_bytes())
        spec, questions = bench.spec, self.opened.questions
        with self.on_device():
            expected = expectations(bench, sets, wanted.promise, wanted.questions_a_frame)
        report = {
            "codec": {
                **json.loads(spec.model_dump_json()),
                "fingerprint": spec.fingerprint.hex(),
                "fingerprint4": spec.fingerprint4.hex(),
                "vlm_sha256": spec.vlm_sha256,
            },
            "promise": {"risk": wanted.promise.risk, "delta": wanted.promise.delta},
            "pictures": {
                "source": self.opened.source.path.name,
                "usable": len(gathered),
                "skipped": [{"name": name, "problem": problem} for name, problem in gathered.skipped],
                "repeated": len(gathered.repeated),
                "left_out": gathered.left_out,
                "video": gathered.video,
                "every_s": gathered.every_s,
                "sets": self.sets().sizes,
            },
            "questions": {
                "file": None if questions.file is None else questions.file.name,
                "texts": questions.texts,
                "a_frame": wanted.questions_a_frame,
            },
            **figures,
            "expect": expected,
            **(further or {}),
            "seed": self.run.seed,
        }
        (folder / FIGURES).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (folder / CARD).write_text(card(report), encoding="utf-8")


def _plain(items: tuple[Asked, ...]) -> list[list[str | None]]:
    return [[str(item.answer_type), item.text, item.truth] for item in items]


def _carry(source: Path, target: Path) -> None:
    """Take over the files of an earlier stage."""
    for path in source.iterdir():
        if path.name in _LINKED:
            os.link(path, target / path.name)
        else:
            shutil.copy(path, target / path.name)
