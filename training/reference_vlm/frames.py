"""Training frames: rendered once by several processes into a memory map, shared by all stages."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.scenes.renderer import render
from pipeline.scenes.scene import Scene, sample_scene
from training.reference_vlm.degrade import degrade, recompress_video, resize

RECIPE: Final = 1
"""Raised whenever scenes, renderer or degradations change, so that an old cache is never reused."""

TRAIN_SEEDS: Final = 10_000_000
HELD_OUT_SEEDS: Final = 1_000_000_000
"""First scene seeds of two disjoint sets; a run's own seed moves it by `seed * SEED_STRIDE` inside its set."""
SEED_STRIDE: Final = 1_000_000

_CHUNK: Final = 256
_VIDEO_SHARE: Final = 0.25


@dataclass(frozen=True, slots=True)
class FrameSet:
    """Rendered frames and the seeds of their scenes.

    Attributes:
        frames: uint8 [count, size, size, 3], memory-mapped.
        first_seed: Scene seed of frame 0; frame i shows `sample_scene(first_seed + i)`.
    """

    frames: NDArray[np.uint8]
    first_seed: int

    def __len__(self) -> int:
        return len(self.frames)

    def scene(self, index: int) -> Scene:
        """The scene that frame `index` shows."""
        return sample_scene(self.first_seed + index)


def _render_chunk(first_seed: int, count: int, size: int) -> NDArray[np.uint8]:
    """Render consecutive seeds and degrade them at random, uint8 [count, size, size, 3]."""
    rng = np.random.default_rng([RECIPE, first_seed])
    scenes = [sample_scene(first_seed + index) for index in range(count)]
    out = np.empty((count, size, size, 3), dtype=np.uint8)
    in_video = rng.random(count) < _VIDEO_SHARE
    for source_size in (size, 2 * size):
        # A camera's own resolution is larger than the model's: half of the clips are downsized after decoding.
        chosen = [i for i in np.flatnonzero(in_video) if (i % 2 == 0) == (source_size == size)]
        if chosen:
            clip = [render(scenes[i], source_size) for i in chosen]
            for i, frame in zip(chosen, recompress_video(clip, crf=int(rng.integers(18, 35))), strict=True):
                out[i] = frame if source_size == size else resize(frame, size, rng)
    for i in np.flatnonzero(~in_video):
        frame = render(scenes[i], size) if i % 4 else resize(render(scenes[i], 2 * size), size, rng)
        out[i] = degrade(frame, rng)
    return out


def prepare_frames(
    cache_dir: Path,
    *,
    first_seed: int,
    count: int,
    size: int,
    processes: int,
    progress: Callable[[str], None],
) -> FrameSet:
    """Render a set of frames, recompressed, resized or blurred at random, or open it when it is already there.

    Args:
        cache_dir: Where the memory map is kept.
        first_seed: Scene seed of the first frame.
        count: Number of frames.
        size: Height and width in pixels.
        processes: Rendering processes.
        progress: Called with a line now and then.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    name = f"frames-{RECIPE}-{first_seed}-{count}-{size}"
    path, done = cache_dir / f"{name}.npy", cache_dir / f"{name}.json"
    if not done.exists():
        frames = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
        starts = range(0, count, _CHUNK)
        lengths = [min(_CHUNK, count - start) for start in starts]
        seeds = [first_seed + start for start in starts]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            chunks = pool.map(_render_chunk, seeds, lengths, [size] * len(lengths))
            for start, chunk in zip(starts, chunks, strict=True):
                frames[start : start + len(chunk)] = chunk
                if (start // _CHUNK) % 40 == 0:
                    progress(f"frames: {start + len(chunk)} of {count} rendered")
        frames.flush()
        del frames
        done.write_text(json.dumps({"recipe": RECIPE, "first_seed": first_seed, "count": count, "size": size}))
    return FrameSet(np.load(path, mmap_mode="r"), first_seed)
