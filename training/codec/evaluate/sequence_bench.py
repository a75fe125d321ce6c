"""Sequences of a camera that stands still: ours with key frames against stills, inter-coded video and features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prefix_decoder_torch import load_transform
from pipeline.codec.spec import TABLES_FILE, CodecSpec
from pipeline.codec.tables import FrequencyTables
from pipeline.codec.wire_bytes import key_frame_wire_bytes
from training.baselines.features import FeatureSetting, best_features, code_features, still_settings, video_settings
from training.baselines.fronts import best_of_each_size
from training.baselines.packet_loss import LossCost, loss_cost
from training.baselines.still_choice import ImageBaseline
from training.baselines.stills import container_bytes, full_grid, missing_formats, quick_grid
from training.baselines.tokens import token_baselines
from training.baselines.trivial import first_answers
from training.baselines.video import VideoCodec, VideoSetting, missing_codecs, through_video, video_codecs
from training.codec.answers import answers_of
from training.codec.data import AskedFrames
from training.codec.evaluate.models import OpenedCodecs
from training.codec.evaluate.scoreboard import SHARE_OF_FULL, Measure, Point, Scoreboard, Sizes
from training.codec.evaluate.sequences import Sequences
from training.codec.key_frames import coded_by_policy
from training.codec.measure import PrefixAnswers, measure_prefixes
from training.codec.prefixes import encode_all, even_ladder
from training.run import RunSettings

KEY_INTERVAL: Final = 30
"""Pictures between two key frames of video: at one a second a late receiver waits half a minute at most."""
_OTHER_INTERVALS: Final = (10, 0)
"""Key frames more often, and only the first one."""
_CRFS: Final[dict[VideoCodec, tuple[int, ...]]] = {"x265": (24, 30, 36, 42, 48), "SVT-AV1": (30, 38, 46, 54, 63)}
_BLOCK: Final = 8
"""Frames that are drawn together for intervals: what a camera sees next is much like what it sees now."""


@dataclass(frozen=True, slots=True)
class VideoSize:
    """How much is measured of sequences.

    Attributes:
        frames: Of a video, at most.
        clips: Rendered cameras.
        clip_frames: Of each.
        known: Drawn frames that feature baselines learn on, as codecs did.
        selection: Frames on which settings are chosen.
        prefixes: Prefixes of a codec; those of its ladder come on top.
        settings: Settings of images, of video and of each kind of features that are scored.
        losses: Packets that are dropped of each video.
        quick: Few settings to choose from.
    """

    frames: int
    clips: int
    clip_frames: int
    known: int
    selection: int
    prefixes: int
    settings: int
    losses: int
    quick: bool = False


@dataclass(frozen=True, slots=True)
class _Ours:
    """A codec on sequences: points of its prefixes, the whole latent last."""

    answers: PrefixAnswers
    with_keys: list[Point]
    by_itself: list[Point]
    key_frames_share: float

    @property
    def blind(self) -> NDArray[np.str_]:
        return self.answers.blind.texts


class SequenceBench:
    """Models and sequences, and what is measured with them.

    Args:
        sequences: Frames and questions.
        opened: Codecs of one operating point, and their VLM.
        size: How much is measured.
        run: Cache of answers, seed of resamples and of lost packets, image files that are written at once, progress.
    """

    def __init__(self, sequences: Sequences, opened: OpenedCodecs, size: VideoSize, run: RunSettings) -> None:
        frozen = opened.frozen
        self._sequences, self._data = sequences, sequences.data
        self._specs, self._vlm, self._frozen = opened.specs, opened.vlm, frozen
        self._tiles = opened.specs[0].tiles_per_edge
        self._size, self._run, self._progress = size, run, run.progress
        self._tokens = frozen.image_path.of_frames(self._data.frames).half()
        self._board = Scoreboard(
            self._data,
            self._answer(self._tokens, self._data),
            run.seed,
            block=_BLOCK,
            values=self._tokens[0].numel(),
        )
        run.progress(f"{sequences.name}: {len(self._data)} frames, {len(self._data.asked)} questions")

    def measure(self, codec_dirs: Sequence[Path], known: Tensor) -> dict[str, Any]:
        """Everything, with no frame left out.

        Args:
            codec_dirs: Folders of the opened codecs; the first is compared with all others.
            known: Tokens of drawn frames that feature baselines learn on, as codecs did [G, N, D].
        """
        scoreboard, size = self._board, self._size
        full = scoreboard.point(scoreboard.reference, np.full(len(self._data), 2 * self._tokens[0].numel()))
        ours = [self._codec(*each) for each in zip(codec_dirs, self._specs, strict=True)]
        trivial = self._trivial(ours[0].blind)
        images = self._images()
        tokens = list(self._token_baselines(known))
        stills = self._features(still_settings(known.shape[2], few=size.quick), known, "features")
        moving = self._features(video_settings(known.shape[2], KEY_INTERVAL, few=size.quick), known, "feature_video")
        video, losses = self._video(full)
        first = ours[0]
        baselines = {"image": images, "video": video, "features": [*tokens, *stills, *moving]}
        others = {spec.name: found for spec, found in zip(self._specs[1:], ours[1:], strict=True)}
        if "klt" in others:
            baselines["klt"] = others["klt"].with_keys
        return {
            "sequences": self._sequences.name,
            "source": self._sequences.source,
            "every_s": self._sequences.every_s,
            "frames": len(self._data),
            "questions": len(self._data.asked),
            "not_measured": missing_formats() | missing_codecs(),
            "full": full.row,
            **{name: point.row for name, point in trivial.items()},
            "key_frames_share": first.key_frames_share,
            "prefixes": [point.row for point in first.with_keys],
            "prefixes_by_themselves": [point.row for point in first.by_itself],
            "others": {name: [point.row for point in found.with_keys] for name, found in others.items()},
            "baselines": [point.row for point in (*images, *video, *tokens, *stills, *moving)],
            "packet_loss": [self._loss_row(cost) for cost in losses],
            "ratios": list(self._ratios(first.with_keys, baselines, full, list(trivial.values()))),
        }

    def _trivial(self, nothing: NDArray[np.str_]) -> dict[str, Point]:
        """What needs no byte, or one frame and nothing more: constant is one answer to each question of each camera."""
        scoreboard = self._board
        texts = np.array([item.text for item in self._data.asked], dtype=np.str_)
        cameras = np.searchsorted(self._sequences.starts, scoreboard.owner, side="right")
        groups = np.array([f"{camera} {text}" for camera, text in zip(cameras, texts, strict=True)], dtype=np.str_)
        first = first_answers(scoreboard.reference, groups)
        none = np.zeros(len(self._data))
        return scoreboard.trivial(nothing, groups) | {"first_answer": scoreboard.point(first, none, wire_bytes=none)}

    def _answer(self, tokens: Tensor, data: AskedFrames) -> NDArray[np.str_]:
        return answers_of(self._vlm, tokens, data.asked).texts

    def _codec(self, folder: Path, spec: CodecSpec) -> _Ours:
        symbols = encode_all(load_transform(folder, spec), self._tokens)
        tables = FrequencyTables.load(folder / TABLES_FILE)
        bits = tables.symbol_bits(symbols, 0, spec.latent_count).sum(axis=2).mean(axis=0)
        lengths = even_ladder(bits, min(self._size.prefixes, spec.latent_count))
        ladder = () if self._size.quick else spec.ladder
        answers = measure_prefixes(
            self._vlm,
            folder,
            self._tokens,
            self._data.asked,
            [*lengths, *ladder],
            self._progress,
            cache_dir=self._run.cache_dir,
        )
        coded = [
            frame
            for first, last in self._sequences.bounds
            for frame in coded_by_policy(EncodedLatent(each, tables) for each in symbols[first:last])
        ]
        keys = np.array([frame.key_bytes for frame in coded])
        key_wire = np.array([key_frame_wire_bytes(size) if size else 0 for size in keys.tolist()])
        with_keys, by_itself = [], []
        for row, length in enumerate(answers.lengths):
            sent = np.array([frame.sent.size_bytes(length) for frame in coded])
            with_keys.append(
                self._board.point(
                    answers.texts[row],
                    sent + keys,
                    wire_bytes=self._board.wire_bytes(sent) + key_wire,
                    latents=length,
                )
            )
            by_itself.append(self._board.point(answers.texts[row], answers.payload_bytes[row], latents=length))
        whole = with_keys[-1].row
        self._progress(
            f"{spec.name}, whole latents: {whole['payload_bytes']} bytes with key frames, "
            f"{by_itself[-1].row['payload_bytes']} without, agreement {whole['agreement']}"
        )
        return _Ours(answers, with_keys, by_itself, float(np.mean(keys > 0)))

    def _images(self) -> list[Point]:
        size, pixels = self._size, self._frozen.image_size_px
        baseline = ImageBaseline(self._frozen.image_path, self._answer, self._run.threads)
        chosen_on = self._sequences.spread(size.selection)
        tokens = self._frozen.image_path.of_frames(chosen_on.frames).half()
        selection_scores = Scoreboard(chosen_on, self._answer(tokens, chosen_on))
        settings = baseline.choose(
            quick_grid(pixels) if size.quick else full_grid(pixels),
            chosen_on,
            tokens,
            selection_scores.criteria(),
            keep=size.settings,
            progress=self._progress,
        )
        points = []
        for setting in settings:
            found = baseline.measure(setting, self._data)
            points.append(
                self._board.point(
                    found.texts,
                    found.payload_bytes,
                    container_bytes=container_bytes(setting),
                    family="images",
                    setting=str(setting),
                )
            )
            self._said(points[-1])
        return points

    def _token_baselines(self, known: Tensor) -> Iterable[Point]:
        mean = known.float().mean(0)
        for found in token_baselines(self._tokens, mean, tiles_per_edge=self._tiles, few=self._size.quick):
            texts = self._answer(found.tokens, self._data)
            point = self._board.point(texts, found.payload_bytes, family="tokens", setting=found.name)
            self._said(point)
            yield point

    def _features(self, settings: Sequence[FeatureSetting], known: Tensor, family: str) -> list[Point]:
        starts, tiles = self._sequences.starts, self._tiles
        chosen = best_features(
            settings, self._tokens, known, keep=self._size.settings, starts=starts, tiles_per_edge=tiles
        )
        points = []
        for setting in chosen:
            found = code_features(self._tokens, setting, known, starts=starts, tiles_per_edge=tiles)
            texts = self._answer(found.tokens, self._data)
            points.append(self._board.point(texts, found.payload_bytes, family=family, setting=str(setting)))
            self._said(points[-1])
        return points

    def _video(self, full: Point) -> tuple[list[Point], list[LossCost]]:
        """Settings by the error of their tokens, then by their answers; other key frames and loss near the target."""
        size = self._size
        settings = _video_grid(self._frozen.image_size_px, quick=size.quick)
        if not settings:
            return [], []
        seen = [self._through(setting) for setting in settings]
        kept = self._worth_asking(settings, seen)
        self._progress(f"video: {len(kept)} of {len(settings)} settings after a look at their tokens")
        points = {settings[row]: self._scored(settings[row], *seen[row]) for row in kept}
        target = SHARE_OF_FULL * full.agreement[0]
        losses = []
        for name in video_codecs():
            nearest = min(
                (setting for setting in points if setting.codec == name),
                key=lambda setting: abs(points[setting].agreement[0] - target),
            )
            for interval in (KEY_INTERVAL,) if size.quick else (KEY_INTERVAL, *_OTHER_INTERVALS):
                setting = replace(nearest, key_interval=interval)
                if setting not in points:
                    points[setting] = self._scored(setting, *self._through(setting))
                cost = loss_cost(
                    self._data.frames,
                    self._sequences.starts,
                    setting,
                    self._agree,
                    losses=size.losses,
                    seed=self._run.seed,
                )
                if cost is not None:
                    losses.append(cost)
                    self._progress(
                        f"{setting}: after a lost packet agreement {cost.agreement_after:.3f} instead of "
                        f"{cost.agreement_before:.3f} for {cost.frames_hit:.1f} frames"
                    )
        return list(points.values()), losses

    def _worth_asking(
        self, settings: Sequence[VideoSetting], seen: Sequence[tuple[Tensor, NDArray[np.int64]]]
    ) -> list[int]:
        """Rows with the best tokens of each size, over all and of each codec, in order of size."""
        sizes = [float(payload_bytes.mean()) for _, payload_bytes in seen]
        errors = [float((tokens.float() - self._tokens.float()).square().mean()) for tokens, _ in seen]
        kept = set(best_of_each_size(sizes, errors, ranges=self._size.settings))
        for name in video_codecs():
            mine = [row for row, setting in enumerate(settings) if setting.codec == name]
            best = best_of_each_size(
                [sizes[row] for row in mine], [errors[row] for row in mine], ranges=self._size.settings
            )
            kept |= {mine[row] for row in best}
        return sorted(kept, key=sizes.__getitem__)

    def _through(self, setting: VideoSetting) -> tuple[Tensor, NDArray[np.int64]]:
        """Tokens of what the far end sees, and bytes of each frame."""
        parts = [through_video(self._data.frames[first:last], setting) for first, last in self._sequences.bounds]
        tokens = torch.cat([self._frozen.image_path.of_frames(shown).half() for shown, _, _ in parts])
        return tokens, np.concatenate([sizes for _, sizes, _ in parts])

    def _scored(self, setting: VideoSetting, tokens: Tensor, payload_bytes: NDArray[np.int64]) -> Point:
        texts = self._answer(tokens, self._data)
        point = self._board.point(texts, payload_bytes, family="video", setting=str(setting))
        self._said(point)
        return point

    def _agree(self, pictures: NDArray[np.uint8], frames: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `training.baselines.packet_loss.Agree`."""
        owner = self._board.owner
        places = [np.flatnonzero(owner == frame) for frame in frames]
        asked = [
            replace(self._data.asked[place], frame=row) for row, mine in enumerate(places) for place in mine.tolist()
        ]
        texts = answers_of(self._vlm, self._frozen.image_path.of_frames(pictures), asked).texts
        same = texts == self._board.reference[np.concatenate(places)]
        counts = np.array([len(mine) for mine in places])
        row = np.repeat(np.arange(len(frames)), counts)
        shares: NDArray[np.float64] = np.bincount(row, weights=same, minlength=len(frames)) / np.maximum(counts, 1)
        return shares

    def _ratios(
        self, ours: Sequence[Point], baselines: dict[str, list[Point]], full: Point, trivial: Sequence[Point]
    ) -> Iterable[dict[str, Any]]:
        """Against the best of each family: at a share of the full agreement, and at what our whole latents reach."""
        measures: tuple[Measure, ...] = ("agreement", "balanced_agreement")
        if self._board.measure == "accuracy":
            measures = ("accuracy", *measures)
        sizes: tuple[Sizes, ...] = ("payload_bytes", "wire_bytes")
        for family, points in baselines.items():
            for measure in measures:
                for at, of, share in (
                    (f"{SHARE_OF_FULL:.0%} of full", full, SHARE_OF_FULL),
                    ("our whole latents", ours[-1], 1.0),
                ):
                    ratio = partial(self._board.ratio, ours, points, of, trivial=trivial, measure=measure, share=share)
                    for size in sizes:
                        yield {"baseline": family, "at": at, "measure": measure, "bytes": size, **ratio(size=size)}

    def _loss_row(self, cost: LossCost) -> dict[str, Any]:
        every_s = self._sequences.every_s
        return {
            "setting": str(cost.setting),
            "key_interval": cost.setting.key_interval,
            "payload_bytes": round(cost.payload_bytes, 1),
            "key_frame_bytes": round(cost.key_frame_bytes, 1),
            "packets_lost": cost.losses,
            "seconds_to_key_frame": round(cost.frames_hit * every_s, 2),
            "frames_unchanged": round(cost.frames_unchanged, 4),
            "agreement_before": round(cost.agreement_before, 4),
            "agreement_after": round(cost.agreement_after, 4),
            "late_receiver_waits_s": round(cost.late_wait_frames * every_s, 2),
        }

    def _said(self, point: Point) -> None:
        row = point.row
        self._progress(
            f"{row['setting']}: {row['payload_bytes']} bytes, agreement {row['agreement']}, "
            f"balanced {row['balanced_agreement']}"
        )


def _video_grid(size_px: int, *, quick: bool) -> list[VideoSetting]:
    """Settings that are looked at, with the usual interval of key frames."""
    sizes = sorted(
        {max(min(32, size_px), size_px * share // 8 // 2 * 2) for share in ((4,) if quick else (2, 3, 4, 6, 8))}
    )
    return [
        VideoSetting(name, crf, KEY_INTERVAL, size)
        for name in video_codecs()
        for size in sizes
        for crf in (_CRFS[name][::2] if quick else _CRFS[name])
    ]
