"""Rate against accuracy on held-out frames: every prefix of the codecs, the best possible stop, and every baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud_workers.inference.adapter import ModelAdapter
from pipeline.codec.prefix_decoder_torch import load_transform
from pipeline.codec.spec import TABLES_FILE, CodecSpec
from pipeline.codec.tables import FrequencyTables
from training.baselines.features import best_features, code_features, still_settings
from training.baselines.still_choice import ImageBaseline
from training.baselines.stills import container_bytes, full_grid, missing_formats, quick_grid
from training.baselines.tokens import token_baselines
from training.codec.answers import answers_of
from training.codec.data import AskedFrames, Domain
from training.codec.evaluate.frame_sets import EvaluationSet, drawn_set, own_set
from training.codec.evaluate.links import delay_rows, predicted_quality_rows
from training.codec.evaluate.models import open_codecs
from training.codec.evaluate.scoreboard import SHARE_OF_FULL, Point, Scoreboard, oracle_rows
from training.codec.frame_source import FrameSource
from training.codec.measure import PrefixAnswers, measure_prefixes
from training.codec.own_frames import OwnFrames
from training.codec.prefixes import encode_all, even_ladder
from training.codec.vlm import FrozenVlm
from training.run import RunSettings


@dataclass(frozen=True, slots=True)
class EvaluationSize:
    """How much is measured.

    Attributes:
        frames: Reported frames of a domain, about five questions each.
        selection: Frames on which image settings are chosen.
        prefixes: Prefixes of a codec, evenly spaced in bytes; those of its ladder come on top.
        image_settings: Image settings that are scored.
        feature_settings: Settings of coded features that are scored.
        quick: Few settings to choose from.
    """

    frames: int
    selection: int
    prefixes: int
    image_settings: int
    feature_settings: int
    quick: bool = False

    def with_frames(self, frames: int | None) -> Self:
        """The same with another number of reported frames."""
        return self if frames is None else replace(self, frames=frames)


SIZES: Final = {
    "small": EvaluationSize(300, 80, 8, 8, 6),
    "detailed": EvaluationSize(120, 32, 8, 6, 5),
}
QUICK: Final = EvaluationSize(48, 24, 4, 3, 2, quick=True)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What to evaluate.

    Attributes:
        vlm_dir: The VLM that the codecs were made for.
        codec_dirs: Folders of one operating point; the first is the one that is compared with all others, the second
            the closed form that it has to beat.
        run: Cache, seed of the frames and of the resamples, threads, progress.
        size: How much is measured.
        domain: Which frames are drawn.
        photos: Class folder of photographs, or a zip of one: a second domain.
        own: Somebody's own images and questions, instead of drawn frames.
    """

    vlm_dir: Path
    codec_dirs: Sequence[Path]
    run: RunSettings
    size: EvaluationSize
    domain: Domain = "rendered"
    photos: Path | None = None
    own: OwnFrames | None = None


def evaluate_codec(wanted: Evaluation) -> dict[str, Any]:
    """Measure codecs and baselines on frames that nothing was trained or calibrated on; one question a sequence.

    Args:
        wanted: What to evaluate.

    Returns:
        JSON-ready, the first domain at the top and further ones under `domains`; see docs/codec.md.

    Raises:
        ArtifactError: a codec, the VLM, photographs or images are not usable, or they do not belong together.
        ConfigError: the codecs are of different operating points, or questions are not usable.
    """
    torch.set_num_threads(wanted.run.threads)
    opened = open_codecs(wanted.vlm_dir, wanted.codec_dirs)
    specs, frozen = opened.specs, opened.frozen
    bench = _Bench(wanted, specs, opened.vlm, frozen)
    report: dict[str, Any] = {**opened.report(), "seed": wanted.run.seed, "not_measured": missing_formats()}
    if wanted.own:
        sets = [own_set(wanted.own, frozen.image_size_px, specs[0].fit)]
    else:
        sets = [bench.drawn(wanted.domain, None)]
    report |= bench.measure(sets[0])
    if wanted.photos is not None:
        report["domains"] = {"photographs": bench.measure(bench.drawn("photographs", wanted.photos))}
    return report


@dataclass(frozen=True, slots=True)
class _Bench:
    """Models, and what is measured with them."""

    wanted: Evaluation
    specs: Sequence[CodecSpec]
    vlm: ModelAdapter
    frozen: FrozenVlm
    baseline: ImageBaseline = field(init=False)

    def __post_init__(self) -> None:
        baseline = ImageBaseline(self.frozen.image_path, self.answer, self.wanted.run.threads)
        object.__setattr__(self, "baseline", baseline)

    def progress(self, line: str) -> None:
        self.wanted.run.progress(line)

    def drawn(self, domain: Domain, photos: Path | None) -> EvaluationSet:
        size = self.wanted.size
        source = FrameSource(self.frozen, self.wanted.run, (domain,), photos)
        return drawn_set(source, frames=size.frames, selection=size.selection)

    def answer(self, tokens: Tensor, data: AskedFrames) -> NDArray[np.str_]:
        return answers_of(self.vlm, tokens, data.asked).texts

    def measure(self, frames: EvaluationSet) -> dict[str, Any]:
        """Everything about one domain."""
        report = frames.report
        tokens = self.frozen.image_path.of_frames(report.frames).half()
        chosen = self.frozen.image_path.of_frames(frames.selection.frames).half()
        scoreboard = Scoreboard(report, self.answer(tokens, report), self.wanted.run.seed, values=tokens[0].numel())
        whole = np.full(len(report), 2 * tokens[0].numel())
        full = scoreboard.point(scoreboard.reference, whole)
        mean = chosen.float().mean(0)
        blind = scoreboard.point(self.answer(mean.expand(len(report), -1, -1), report), np.zeros(len(report)))
        self.progress(f"{frames.domain}: {len(report)} frames, {len(report.asked)} questions")

        codecs = [
            self._codec(folder, spec, tokens, chosen, report, scoreboard)
            for folder, spec in zip(self.wanted.codec_dirs, self.specs, strict=True)
        ]
        trivial = scoreboard.trivial(codecs[0][0].blind.texts)
        baselines = [
            *self._tokens(tokens, mean, report, scoreboard),
            *self._features(tokens, chosen, report, scoreboard),
        ]
        images = self._images(frames.selection, chosen, report, scoreboard)

        answers, prefixes, oracle = codecs[0]
        others = {spec.name: points for spec, (_, points, _) in zip(self.specs[1:], codecs[1:], strict=True)}
        klt = others.get("klt", [])
        ratio = partial(scoreboard.ratio, trivial=list(trivial.values()))
        result: dict[str, Any] = {
            "domain": frames.domain,
            "frames": len(report),
            "questions": len(report.asked),
            "ratios_measured_at": f"{SHARE_OF_FULL:.0%} of the full {scoreboard.measure}",
            "full": full.row,
            "nothing": blind.row,
            **{name: point.row for name, point in trivial.items()},
            "prefixes": [point.row for point in prefixes],
            "baselines": [point.row for point in (*baselines, *images)],
            "klt": [point.row for point in klt],
            "oracle": {name: point.row for name, point in oracle.items()},
            "ratio_vs_best_image_at_95": ratio(prefixes, images, full),
            "ratio_vs_best_image_without_container_at_95": ratio(prefixes, images, full, size="bare_bytes"),
            "ratio_vs_best_image_wire_at_95": ratio(prefixes, images, full, size="wire_bytes"),
            "ratio_vs_best_features_at_95": ratio(prefixes, baselines, full),
            "ratio_vs_klt_at_95": ratio(prefixes, klt, full),
            "delay": delay_rows(scoreboard, answers, self.specs[0].ladder, images),
            "predicted_quality": predicted_quality_rows(
                scoreboard, answers, self._fidelity_only(self.wanted.codec_dirs[0], chosen, answers.lengths)
            ),
        }
        for name, points in others.items():
            if name != "klt":
                result[name] = [point.row for point in points]
        return result

    def _codec(
        self, folder: Path, spec: CodecSpec, tokens: Tensor, chosen: Tensor, data: AskedFrames, scoreboard: Scoreboard
    ) -> tuple[PrefixAnswers, list[Point], dict[str, Point]]:
        symbols = encode_all(load_transform(folder, spec), chosen)
        bits = FrequencyTables.load(folder / TABLES_FILE).symbol_bits(symbols, 0, spec.latent_count)
        lengths = even_ladder(bits.sum(axis=2).mean(axis=0), min(self.wanted.size.prefixes, spec.latent_count))
        ladder = () if self.wanted.size.quick else spec.ladder
        answers = measure_prefixes(
            self.vlm,
            folder,
            tokens,
            data.asked,
            [*lengths, *ladder],
            self.progress,
            cache_dir=self.wanted.run.cache_dir,
        )
        points = [
            scoreboard.point(
                answers.texts[row],
                answers.payload_bytes[row],
                latents=length,
                feature_cosine=round(float(answers.cosines[row].mean()), 4),
                feature_error=round(float(answers.errors[row].mean()), 4),
            )
            for row, length in enumerate(answers.lengths)
        ]
        return answers, points, oracle_rows(scoreboard, answers.texts, answers.payload_bytes, answers.lengths)

    def _fidelity_only(self, folder: Path, tokens: Tensor, lengths: Sequence[int]) -> PrefixAnswers:
        """Errors and code lengths on the selection, for the model that predicts one from the other."""
        return measure_prefixes(self.vlm, folder, tokens, (), lengths, lambda _: None)

    def _tokens(self, tokens: Tensor, mean: Tensor, data: AskedFrames, scoreboard: Scoreboard) -> list[Point]:
        points = []
        tiles = self.specs[0].tiles_per_edge
        for found in token_baselines(tokens, mean, tiles_per_edge=tiles, few=self.wanted.size.quick):
            texts = self.answer(found.tokens, data)
            points.append(scoreboard.point(texts, found.payload_bytes, family="tokens", setting=found.name))
            self._said(points[-1], scoreboard)
        return points

    def _features(self, tokens: Tensor, chosen: Tensor, data: AskedFrames, scoreboard: Scoreboard) -> list[Point]:
        """Planes are learned and settings chosen on the selection."""
        size, tiles = self.wanted.size, self.specs[0].tiles_per_edge
        settings = still_settings(tokens.shape[2], few=size.quick)
        points = []
        for setting in best_features(settings, chosen, chosen, keep=size.feature_settings, tiles_per_edge=tiles):
            found = code_features(tokens, setting, chosen, tiles_per_edge=tiles)
            texts = self.answer(found.tokens, data)
            points.append(scoreboard.point(texts, found.payload_bytes, family="features", setting=str(setting)))
            self._said(points[-1], scoreboard)
        return points

    def _said(self, point: Point, scoreboard: Scoreboard) -> None:
        row = point.row
        self.progress(f"{row['setting']}: {row['payload_bytes']} bytes, {scoreboard.measure} {row[scoreboard.measure]}")

    def _images(self, selection: AskedFrames, tokens: Tensor, data: AskedFrames, scoreboard: Scoreboard) -> list[Point]:
        size = self.wanted.size
        pixels = self.frozen.image_size_px
        selection_scores = Scoreboard(selection, self.answer(tokens, selection))
        settings = self.baseline.choose(
            quick_grid(pixels) if size.quick else full_grid(pixels),
            selection,
            tokens,
            selection_scores.criteria(),
            keep=size.image_settings,
            progress=self.progress,
        )
        points = []
        for setting in settings:
            found = self.baseline.measure(setting, data)
            points.append(
                scoreboard.point(
                    found.texts,
                    found.payload_bytes,
                    container_bytes=container_bytes(setting),
                    family="images",
                    setting=str(setting),
                )
            )
            self._said(points[-1], scoreboard)
        return points
