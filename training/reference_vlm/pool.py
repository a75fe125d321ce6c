"""Frames with everything that is said about them: made by several processes, kept as tensors where the model learns."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pipeline.scenes.photographs import PhotoLibrary, PhotoScene, sample_photo_scene
from pipeline.scenes.scene import Scene, sample_scene
from training.reference_vlm.config import ModelSize, TrainingBudget
from training.reference_vlm.degrade import degrade
from training.reference_vlm.dense_labels import LABELS, WHOLE, dense_labels, views
from training.reference_vlm.frames import RECIPE, SEED_STRIDE, TRAIN_SEEDS, render_degraded
from training.reference_vlm.text_blocks import (
    CAPTION_SLOT,
    DESCRIPTION_SLOT,
    KIND_MIX,
    QUESTION_SLOT,
    BlockEncoder,
    Blocks,
)
from training.reference_vlm.vocabulary import Vocabulary
from training.run import RunSettings

Domain: TypeAlias = Literal["rendered", "photographs", "detail"]

_CHUNK: Final[dict[Domain, int]] = {"rendered": 256, "photographs": 256, "detail": 64}
_FIRST_SEED: Final[dict[Domain, int]] = {"rendered": 0, "photographs": 300_000, "detail": 600_000}
"""Offsets within the range of one training seed; see `SEED_STRIDE`."""
_TEXTS: Final = {"question": QUESTION_SLOT, "caption": CAPTION_SLOT, "description": DESCRIPTION_SLOT}


@dataclass(frozen=True, slots=True)
class ChunkJob:
    """Consecutive frames of one domain.

    Attributes:
        domain: Where they come from.
        seed: Scene seed of the first.
        start: Place of the first in its pool.
        count: How many.
        size: Of the model, and so of the frames.
        tokenizer_dir: Tokenizer in `save_pretrained` format.
        photos: Library of photographs, if any.
        path: File to write.
    """

    domain: Domain
    seed: int
    start: int
    count: int
    size: ModelSize
    tokenizer_dir: Path
    photos: Path | None
    path: Path


@cache
def _encoder(tokenizer_dir: Path) -> BlockEncoder:
    return BlockEncoder(PreTrainedTokenizerFast.from_pretrained(tokenizer_dir))


@cache
def library_of(photos: Path) -> PhotoLibrary:
    """A library of photographs, read once by each process."""
    return PhotoLibrary.open(photos)


def vocabulary_of(photos: Path | None) -> Vocabulary:
    """The words of rendered scenes and of a library of photographs, if there is one."""
    if photos is None:
        return Vocabulary.of()
    library = library_of(photos)
    return Vocabulary.of((name, library.plural(name)) for name in library.classes)


def make_chunk(job: ChunkJob) -> Path:
    """Draw frames and what is said about them, and write them to the job's file; nothing is done twice."""
    if job.path.exists():
        return job.path
    vocabulary, encoder, size = vocabulary_of(job.photos), _encoder(job.tokenizer_dir), job.size
    windows = views(size.tiles_per_edge) if job.domain == "detail" else [WHOLE]
    edge = size.image_size * (size.tiles_per_edge if job.domain == "detail" else 1)
    frames = np.empty((job.count, edge, edge, 3), dtype=np.uint8)
    labels = np.empty((job.count, len(windows), len(LABELS), size.image_tokens), dtype=np.int16)
    texts: dict[str, list[Blocks]] = {name: [] for name in _TEXTS}
    scene: Scene | PhotoScene
    for row in range(job.count):
        rng = np.random.default_rng([RECIPE, job.seed + row])
        if job.domain == "photographs":
            if job.photos is None:
                raise AssertionError("frames of photographs need a library")
            frame, scene = sample_photo_scene(job.seed + row, library_of(job.photos), "train", size=edge)
            frames[row] = degrade(frame, rng)
        else:
            scene = drawn = sample_scene(job.seed + row, detail=job.domain == "detail")
            frames[row] = render_degraded(drawn, edge, rng)
        for view, window in enumerate(windows):
            labels[row, view] = dense_labels(scene, size.grid, vocabulary, window).reshape(len(LABELS), -1)
        texts["question"].append(encoder.questions(scene, rng))
        texts["caption"].append(encoder.caption(scene))
        texts["description"].append(encoder.description(scene, rng))
    arrays: dict[str, NDArray[np.generic]] = {"frames": frames, "labels": labels}
    for name, blocks in texts.items():
        arrays[f"{name}_ids"] = np.stack([block.ids for block in blocks])
        arrays[f"{name}_prompt"] = np.stack([block.prompt for block in blocks])
        arrays[f"{name}_length"] = np.stack([block.length for block in blocks])
    partial = job.path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)  # type: ignore[arg-type]
    partial.replace(job.path)
    return job.path


class FramePool:
    """Frames of one domain on the device of the training; grows while it is used.

    Args:
        domain: Of its frames.
        capacity: How many it will hold.
        size: Of the model.
        device: Where they live.

    Attributes:
        ready: How many are there.
    """

    def __init__(self, domain: Domain, capacity: int, size: ModelSize, device: torch.device) -> None:
        self.domain = domain
        self.capacity = capacity
        self.ready = 0
        tiles = size.tiles_per_edge if domain == "detail" else 1
        edge, view_count = size.image_size * tiles, tiles * tiles + 1 if tiles > 1 else 1
        self.frames = torch.empty((capacity, edge, edge, 3), dtype=torch.uint8, device=device)
        self.labels = torch.empty(
            (capacity, view_count, len(LABELS), size.image_tokens), dtype=torch.int16, device=device
        )
        self.texts: dict[str, Tensor] = {}
        for name, slot in _TEXTS.items():
            slots = len(KIND_MIX) if name == "question" else 1
            self.texts[f"{name}_ids"] = torch.zeros((capacity, slots, slot), dtype=torch.int16, device=device)
            for part in ("prompt", "length"):
                self.texts[f"{name}_{part}"] = torch.zeros((capacity, slots), dtype=torch.uint8, device=device)

    def load(self, path: Path, start: int) -> None:
        """Take over a chunk."""
        with np.load(path, allow_pickle=False) as arrays:
            count = len(arrays["labels"])
            for name, target in (("frames", self.frames), ("labels", self.labels), *self.texts.items()):
                target[start : start + count].copy_(torch.from_numpy(arrays[name]))
        self.ready = max(self.ready, start + count)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Indices of random frames, int64 [count]."""
        return torch.randint(self.ready, (count,), generator=generator, device=self.frames.device)

    def blocks(self, name: str, chosen: Tensor, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Texts of chosen frames: ids int64 [B, slots * slot length], prompt and whole lengths [B, slots].

        Args:
            name: `question`, `caption` or `description`.
            chosen: Frames, int64 [B].
            slots: Which slots of each, int64 [B, slots].
        """
        rows = chosen[:, None]
        ids = self.texts[f"{name}_ids"][rows, slots].long().flatten(1)
        return ids, self.texts[f"{name}_prompt"][rows, slots].long(), self.texts[f"{name}_length"][rows, slots].long()


class PoolMaker:
    """Fills pools from worker processes, in the background.

    Args:
        budget: How many frames of each domain.
        cache_dir: Chunks are kept there: 50 MB for 256 frames.
        tokenizer_dir: Tokenizer in `save_pretrained` format.
        photos: Library of photographs, if any.
        run: Seed, number of processes, the device where frames go, progress.
    """

    def __init__(
        self, budget: TrainingBudget, cache_dir: Path, tokenizer_dir: Path, photos: Path | None, run: RunSettings
    ) -> None:
        device = torch.device(run.device)
        wanted: dict[Domain, int] = {
            "rendered": budget.rendered,
            "photographs": budget.photographs if photos else 0,
            "detail": budget.detail,
        }
        self.pools = {name: FramePool(name, count, budget.model, device) for name, count in wanted.items() if count}
        self._progress = run.progress
        cache_dir.mkdir(parents=True, exist_ok=True)
        jobs = interleaved(
            [
                ChunkJob(
                    domain,
                    TRAIN_SEEDS + run.seed * SEED_STRIDE + _FIRST_SEED[domain] + start,
                    start,
                    min(_CHUNK[domain], count - start),
                    budget.model,
                    tokenizer_dir,
                    photos,
                    cache_dir / f"{domain}-{start:06d}.npz",
                )
                for start in range(0, count, _CHUNK[domain])
            ]
            for domain, count in wanted.items()
        )
        self._executor = ProcessPoolExecutor(run.threads, mp_context=multiprocessing.get_context("spawn"))
        self._work = [(job, self._submitted(job)) for job in jobs]
        self._problem: BaseException | None = None
        self._grown = threading.Condition()
        self._thread = threading.Thread(target=self._collect, args=(self._work,), name="pools", daemon=True)
        self._thread.start()

    def _submitted(self, job: ChunkJob) -> Future[Path]:
        """A chunk of an earlier run is taken as it is: no process, which takes seconds to start, is needed for it."""
        if not job.path.exists():
            return self._executor.submit(make_chunk, job)
        there: Future[Path] = Future()
        there.set_result(job.path)
        return there

    def _collect(self, work: Sequence[tuple[ChunkJob, Future[Path]]]) -> None:
        try:
            for number, (job, future) in enumerate(work, start=1):
                path = future.result()
                self.pools[job.domain].load(path, job.start)
                with self._grown:
                    self._grown.notify_all()
                if number % 40 == 0 or number == len(work):
                    ready = ", ".join(f"{pool.ready} {name}" for name, pool in self.pools.items())
                    self._progress(f"frames: {ready}")
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            with self._grown:
                self._problem = error
                self._grown.notify_all()

    def wait(self, frames: int | None) -> None:
        """Wait until every pool has a share of its frames.

        Args:
            frames: Rendered frames that suffice, with the like share of the others; None waits for all.

        Raises:
            RuntimeError: A process failed.
        """
        share = 1.0 if frames is None else frames / self.pools["rendered"].capacity

        def enough() -> bool:
            return self._problem is not None or all(
                pool.ready >= min(share, 1.0) * pool.capacity for pool in self.pools.values()
            )

        with self._grown:
            self._grown.wait_for(enough)
        if self._problem is not None:
            raise RuntimeError("rendering failed") from self._problem

    def close(self) -> None:
        """End the processes; chunks that are not started are left out."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def interleaved(queues: Iterable[Sequence[ChunkJob]]) -> list[ChunkJob]:
    """Jobs of several domains so that all domains grow in proportion."""
    ordered = [(index / len(jobs), job) for jobs in queues for index, job in enumerate(jobs)]
    return [job for _, job in sorted(ordered, key=lambda pair: pair[0])]
