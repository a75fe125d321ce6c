"""Trains a Meta AutoEncoder for a model on somebody's own pictures, stage by stage.

::

    pictures       which can be used (shared with `latentbus codec calibrate`)
    tokens         what the tower makes of them (likewise)
    closed-form    the KLT that it starts from, and is compared with
    answers        the model's own answers, which it learns from
    learned        weights; goes on from checkpoints
    learned-codec  tables, tables of key frames, encoder
    learned-stop   ladder and thresholds
    learned-report what to expect, beside the KLT

The result is a directory as of a calibration, with the training's logs::

    codec/   for edges and workers
    vlm      link to the model's folder
    logs/    for TensorBoard
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from pipeline.codec.bundled import OWN_CODEC
from pipeline.codec.klt_torch import LatentShape
from pipeline.codec.prefix_decoder_torch import read_transform
from training.codec.calibrate.card import model_card
from training.codec.calibrate.make import RUNGS, finish_codec, latent_size
from training.codec.calibrate.picture_work import (
    FIGURES,
    TOKENS,
    CodecCalibration,
    OpenedWork,
    PictureWork,
    open_work,
)
from training.codec.calibrate.sets import SetPlan
from training.codec.chunks import frames_at_once
from training.codec.config import CodecBudget
from training.codec.fit.folder import CodecParts, write_codec
from training.codec.fit.klt import fit_klt
from training.codec.fit.learn import START_AT
from training.codec.fit.material import LearningSet, to_ask
from training.codec.fit.meta import start_meta
from training.codec.fit.rate import prefix_prices
from training.codec.train.answers import answered
from training.codec.train.compare import compare, compared_lines
from training.codec.train.feature_cache import make_room, pictures_that_fit
from training.codec.train.looks import Looks
from training.codec.train.loop import BEST, CHECKPOINT, LOOKS, START, LearnJob
from training.codec.train.plan import ANSWER_TOKENS, LEARNED, VIEW_QUESTIONS, CodecTraining
from training.codec.train.processes import learn_together
from training.codec.train.questions import learning_questions
from training.run import RunSettings
from training.stages import Stage, StagedWork

LOGS: Final = "logs"
_KLT, _ANSWERS, _LEARNED = "closed-form", "answers", "learned"
_CODEC, _STOP, _REPORT = "learned-codec", "learned-stop", "learned-report"
_WEIGHTS: Final = "meta_autoencoder.safetensors"
_SPREAD_FRAMES: Final = 2_000
_HELD_OUT_SEED: Final = 1


def train_on_pictures(
    vlm: str, images: Path, output: Path, run: RunSettings, wanted: CodecTraining | None = None
) -> dict[str, Any]:
    """Train a Meta AutoEncoder with stop rule and key frame tables for any model, on pictures of one's own.

    Args:
        vlm: Folder in `save_pretrained` format, or hub id.
        images: Folder or zip of pictures, or a video.
        output: Gets `codec`, `vlm` and `logs`.
        run: Cache, seed, threads, device, progress.
        wanted: What to make.

    Returns:
        What `calibration.json` holds; `training` in it says how it learned, and compares with the KLT.

    Raises:
        TooFewPicturesError: there are fewer pictures than the promise needs.
        ConfigError: an option, a question or the output folder is wrong, or a process was ended.
        ArtifactError: the model is not usable.
        SourceError: no frame of a video decodes.
    """
    wanted = wanted or CodecTraining()
    opened = open_work(vlm, images, output, run, wanted.calibration, LEARNED)
    shape = (opened.adapter.token_count, opened.adapter.token_dim)
    count = pictures_that_fit(wanted.calibration.max_pictures, shape, wanted.cache_gb)
    if not opened.source.video and count < min(len(opened.source.names), wanted.calibration.max_pictures):
        run.progress(f"visual tokens of {count:,} pictures fit --cache-gb {wanted.cache_gb:g}: others are left out")
    calibration = replace(wanted.calibration, max_pictures=count)
    work = _Training(calibration, run, opened, LEARNED, wanted, output / LOGS)
    pictures = count if opened.source.video else min(count, len(opened.source.names))
    make_room(run.cache_dir, work.root, 2 * pictures * shape[0] * shape[1], wanted.cache_gb, run.progress)
    spent_s = StagedWork(work.root, work.stages(), run.progress).run()
    report: dict[str, Any] = json.loads((work.root / _REPORT / FIGURES).read_bytes())
    work.lay_out(output, _STOP, _REPORT)
    run.progress(f"{output / OWN_CODEC} written, {sum(spent_s.values()) / 60:.1f} min")
    return report


class _Training(PictureWork):
    """Stages of one training.

    Args:
        calibration: As of `PictureWork`.
        run: Likewise.
        opened: Likewise.
        plan: Likewise.
        training: What is made.
        logs: Folder for TensorBoard.
    """

    def __init__(
        self,
        calibration: CodecCalibration,
        run: RunSettings,
        opened: OpenedWork,
        plan: SetPlan,
        training: CodecTraining,
        logs: Path,
    ) -> None:
        super().__init__(calibration, run, opened, plan)
        self._learning, self._logs = training.learning, logs
        self._size = latent_size(*self.token_shape, calibration.size_bytes)

    def stages(self) -> list[Stage]:
        """All of them, each after what it reads."""
        asked = {"questions": self.questions_sha256, "a_picture": VIEW_QUESTIONS, "tokens": ANSWER_TOKENS}
        sizes = {"width": self._learning.decoder_width, "layers": self._learning.decoder_layers}
        learned = {**self._learning.settings, "budget": replace(self._budget(0), asked_frames=0).as_dict()}
        return [
            *self.first_stages(),
            Stage(_KLT, "the KLT to start from", {**self.codec_settings, **sizes}, (TOKENS,), self._fit, 0.05),
            Stage(_ANSWERS, "the model's own answers", {**self.codec_settings, **asked}, (TOKENS,), self._ask, 1.0),
            Stage(_LEARNED, "training", learned, (_KLT, _ANSWERS), self._learn, 10.0),
            Stage(_CODEC, "tables, encoder", self.codec_settings, (_LEARNED,), self._finish, 0.05),
            Stage(_STOP, "ladder and thresholds", self.stop_settings, (_CODEC,), self._calibrate, 0.3),
            Stage(_REPORT, "what to expect, beside the KLT", {}, (_STOP, _KLT), self._report, 0.1),
        ]

    def _budget(self, train_frames: int) -> CodecBudget:
        return self._learning.budget(self._size, train_frames, self.wanted.tiles_per_edge)

    def _fit(self, folder: Path) -> None:
        """Two of them: one of the target's size, and a larger one to learn from."""
        material, size = self.material(), self._size
        tokens, target = material.tokens_of("train"), float(size.target_bytes)
        budget = self._budget(len(tokens))
        klt = fit_klt(tokens, size.count, size.dim, target_bytes=target, planes=budget.planes)
        parts = CodecParts(klt, "klt", self.wanted.version, material.tokens_of("tables"), None, RUNGS)
        write_codec(folder, material.frozen, parts)
        start = fit_klt(tokens, size.count, size.dim, target_bytes=START_AT * target, planes=budget.planes)
        sample = tokens[: frames_at_once(tokens[0].numel(), _SPREAD_FRAMES)]
        model = start_meta(start, sample, budget, seed=self.run.seed)
        content = {"model": model.state_dict(), "prices": prefix_prices(start, sample)}
        torch.save(content, folder / START)
        self.run.progress(f"KLTs of {target:.0f} and {START_AT * target:.0f} bytes fitted on {len(tokens):,} pictures")

    def _ask(self, folder: Path) -> None:
        material, names, opened = self.material(), self.gathered().names, self.opened
        train, selection = material.tokens_of("train"), material.tokens_of("selection")
        count = self._budget(len(train)).asked_frames
        # Without a truth, any text may be asked about any picture. Held out is what a fleet asks.
        texts = learning_questions(opened.questions, count, VIEW_QUESTIONS, self.run.seed)
        own = opened.questions.of([names[row] for row in material.sets.rows("selection")])
        held_out: list[list[str]] = [[] for _ in range(len(selection))]
        for item in own:
            held_out[item.frame].append(item.text)
        rng = np.random.default_rng([self.run.seed, _HELD_OUT_SEED])
        for asked in held_out:
            rng.shuffle(asked)
        with self.on_device():
            for name, tokens, questions in (("train", train, texts), ("selection", selection, held_out)):
                chosen = to_ask(
                    opened.adapter.model,
                    opened.adapter.processor,
                    LearningSet(tokens, questions, questions),
                    frames=len(questions),
                    questions=VIEW_QUESTIONS,
                    tiles_per_edge=self.wanted.tiles_per_edge,
                    frame_size_px=self.opened.frozen.tile_px,
                )
                found = answered(chosen, tokens, ANSWER_TOKENS, self.root / "cache" / _ANSWERS, self.run.progress)
                found.save(folder / name, with_tokens=False)

    def _learn(self, folder: Path) -> None:
        run_dir = self.root / "cache" / f"learn-{self._identity()}"
        run_dir.mkdir(parents=True, exist_ok=True)
        sets = self.sets()
        budget = self._budget(sets.sizes["train"])
        job = LearnJob(
            vlm_dir=self.opened.found.folder.resolve(),
            tiles_per_edge=self.wanted.tiles_per_edge,
            frame_size_px=self.opened.frozen.tile_px,
            tokens=self.tokens_file,
            ranges=dict(sets.ranges),
            klt=self.root / _KLT,
            asked=self.root / _ANSWERS,
            run_dir=run_dir,
            logs=self._logs,
            budget=budget,
            learning=self._learning,
            seed=self.run.seed,
            threads=self.run.threads,
            device=self.run.device,
        )
        self.tokens()
        if self._learning.processes == 1:
            with self.on_device():
                learn_together(job, self.run.progress, self.opened.adapter.model)
        else:
            learn_together(job, self.run.progress, None)
        state = torch.load(run_dir / CHECKPOINT, weights_only=True, map_location="cpu")
        looks = Looks(run_dir / LOOKS, self._learning.patience)
        (folder / _WEIGHTS).write_bytes((run_dir / BEST).read_bytes())
        best = looks.best
        content = {
            "budget": budget.as_dict(),
            "steps": int(state["step"]),
            "spent_s": round(float(state["spent_s"]), 1),
            "best_step": None if best is None else best.step,
            "held_out": sets.sizes["selection"],
            "processes": self._learning.processes,
            "accumulate": self._learning.accumulate,
            "precision": self._learning.precision,
            "device": self.run.device,
            **looks.as_dict(),
        }
        (folder / FIGURES).write_text(json.dumps(content), encoding="utf-8")

    def _identity(self) -> str:
        """Of a training: what it starts from, learns from, and how."""
        stamps = [(self.root / "stamps" / f"{name}.json").read_bytes() for name in (_KLT, _ANSWERS)]
        outputs = [json.loads(stamp)["outputs"] for stamp in stamps]
        how = [self._learning.settings, self._budget(0).as_dict(), self.run.seed]
        return hashlib.sha256(json.dumps([outputs, how], sort_keys=True).encode()).hexdigest()[:12]

    def _finish(self, folder: Path) -> None:
        shape = LatentShape(*self.token_shape, self._size.count, self._size.dim)
        transform = read_transform(self.root / _LEARNED / _WEIGHTS, "meta_autoencoder", shape)
        made = finish_codec(
            folder, self.material(), transform, "meta_autoencoder", self.wanted.version, self.run.progress
        )
        (folder / FIGURES).write_text(json.dumps(made), encoding="utf-8")

    def _calibrate(self, folder: Path) -> None:
        self.calibrate(folder, _CODEC)

    def _report(self, folder: Path) -> None:
        sets = self.token_sets()
        with self.on_device():
            beside = compare(self.bench(self.root / _STOP, sets), self.bench(self.root / _KLT, sets))
        training = json.loads((self.root / _LEARNED / FIGURES).read_bytes())
        self.report(folder, _STOP, {"training": {**training, "beside_klt": beside}}, _card)


def _card(report: Mapping[str, Any]) -> str:
    return model_card(report, compared_lines(report))
