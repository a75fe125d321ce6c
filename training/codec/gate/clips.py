"""Clips of fixed cameras that the change gate is calibrated on, encoded and asked."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_workers.inference.adapter import ModelAdapter
from pipeline.codec.prefix_decoder_torch import load_transform
from pipeline.codec.spec import CodecSpec
from pipeline.codec.transform_torch import LatentTransform
from pipeline.scenes.fixed_camera import FixedCamera
from pipeline.scenes.motion import standing_questions
from pipeline.scenes.renderer import render
from schemas.types import AnswerType
from training.codec.answers import answers_of
from training.codec.data import ANSWER_TYPES, Asked
from training.codec.prefixes import decode_prefixes, encode_all
from training.codec.vlm import FrozenVlm
from training.run import RunSettings

ClipSet = Literal["still", "calibration", "report"]
_FIRST_SEEDS: Final[dict[ClipSet, int]] = {"still": 700_000_000, "calibration": 800_000_000, "report": 900_000_000}
"""First scene seed of each set; none overlaps another, nor the seeds of other sets of scenes."""
_SEED_STRIDE: Final = 1_000_000
_EVERY_S: Final = (1.0, 5.0, 30.0)
"""Time between two frames of a clip: light drifts the further the longer that is."""
_BEFORE_S: Final = 0.01
"""Events begin and end this long before a frame."""
_VERSION: Final = 1
"""Of the kept files."""


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """Which clips.

    Attributes:
        name: of the set; the sets have no scene in common.
        count: clips.
        frames: of each.
    """

    name: ClipSet
    count: int
    frames: int


@dataclass(frozen=True, slots=True)
class Clip:
    """What is measured of one clip of F frames.

    Attributes:
        symbols: of the frames, int16 [F, K, d].
        texts: answers from whole latents, str [F, Q]; Q is 0 where nobody asked.
        types: of the Q questions.
        event: in which frames something happens, bool [F].
    """

    symbols: NDArray[np.int16]
    texts: NDArray[np.str_]
    types: tuple[AnswerType, ...]
    event: NDArray[np.bool_]

    def save(self, path: Path) -> None:
        """Keep it in an ``.npz`` without pickles."""
        partial = path.with_suffix(".partial.npz")
        types = np.array([str(kind) for kind in self.types], dtype=np.str_)
        np.savez_compressed(partial, symbols=self.symbols, texts=self.texts, types=types, event=self.event)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            types = tuple(AnswerType(kind) for kind in data["types"].tolist())
            return cls(data["symbols"], data["texts"], types, data["event"])


def event_times_s(rng: np.random.Generator, frames: int, every_s: float) -> list[tuple[float, float]]:
    """When something happens in a clip: every few frames, for one to six of them.

    Args:
        rng: Source of randomness.
        frames: Of the clip.
        every_s: Time between two of them.
    """
    times: list[tuple[float, float]] = []
    at = int(rng.integers(2, 7))
    while at < frames:
        last = at + int(rng.integers(1, 7))
        times.append((at * every_s - _BEFORE_S, last * every_s - _BEFORE_S))
        at = last + int(rng.integers(2, 7))
    return times


class ClipBench:
    """Measures clips with one codec and its VLM.

    Args:
        vlm: Answers questions.
        frozen: The same model, as codecs see it.
        codec_dir: Codec folder.
        spec: Of that folder.
        run: Cache, seed of the clips, threads, progress.
    """

    def __init__(
        self, vlm: ModelAdapter, frozen: FrozenVlm, codec_dir: Path, spec: CodecSpec, run: RunSettings
    ) -> None:
        self._vlm, self._frozen, self._spec, self._run = vlm, frozen, spec, run
        self.transform: LatentTransform = load_transform(codec_dir, spec)

    def measure(self, plan: ClipPlan, *, asks: bool = True) -> Iterator[Clip]:
        """The clips of a set; what was measured before comes from the cache.

        Args:
            plan: Which.
            asks: The VLM is asked as well.
        """
        identity = json.dumps([_VERSION, asdict(plan) | {"count": 0}, asks, self._run.seed, self._spec.vlm_sha256,
                               self._spec.codec_sha256, self._frozen.image_size_px])  # fmt: skip
        folder = self._run.cache_dir / f"gate-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        first = _FIRST_SEEDS[plan.name] + self._run.seed * _SEED_STRIDE
        missing = [number for number in range(plan.count) if not (folder / f"{number}.npz").exists()]
        jobs = [(first + number, plan.frames, self._frozen.image_size_px, asks) for number in missing]
        if jobs:
            with ProcessPoolExecutor(self._run.threads, mp_context=multiprocessing.get_context("spawn")) as pool:
                drawn = pool.map(_draw, jobs, chunksize=4)
                for done, (number, job, (pixels, event)) in enumerate(zip(missing, jobs, drawn, strict=True)):
                    self._clip(job[0], pixels, event, asks).save(folder / f"{number}.npz")
                    if done % 50 == 49:
                        self._run.progress(f"{plan.name} clips: {done + 1} of {len(jobs)} measured")
        for number in range(plan.count):
            yield Clip.load(folder / f"{number}.npz")

    def _clip(self, seed: int, pixels: NDArray[np.uint8], event: NDArray[np.bool_], asks: bool) -> Clip:
        questions = standing_questions(seed) if asks else []
        kinds = [question.kind for question in questions]
        with torch.no_grad():
            symbols = encode_all(self.transform, self._frozen.image_path.of_frames(pixels))
        texts = np.empty((len(pixels), 0), dtype=np.str_)
        if questions:
            tokens = decode_prefixes(self.transform, symbols, self._spec.latent_count)
            asked = [
                Asked(frame, question.text, ANSWER_TYPES[question.kind], question.kind, None)
                for frame in range(len(pixels))
                for question in questions
            ]
            texts = answers_of(self._vlm, tokens, asked).texts.reshape(len(pixels), -1)
        return Clip(symbols.astype(np.int16), texts, tuple(ANSWER_TYPES[kind] for kind in kinds), event)


def _draw(job: tuple[int, int, int, bool]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Frames of one clip, uint8 [F, size, size, 3], and in which of them something happens."""
    seed, frames, size, has_events = job
    rng = np.random.default_rng([seed, 99])
    every_s = float(rng.choice(_EVERY_S))
    times_s = event_times_s(rng, frames, every_s) if has_events else []
    camera = FixedCamera(seed, standing_questions(seed), times_s)
    pixels = np.stack([render(camera.scene_at(number * every_s), size) for number in range(frames)])
    return pixels, np.array([camera.event_at(number * every_s) is not None for number in range(frames)])
