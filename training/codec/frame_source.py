"""Frames of one operating point with their questions and visual tokens, drawn and computed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from training.codec.data import AskedFrames, Domain, cached_tokens, scene_set
from training.codec.vlm import FrozenVlm
from training.run import RunSettings


@dataclass(frozen=True, slots=True)
class FrameSource:
    """Frames and their visual tokens for one VLM, kept in the run's cache.

    Attributes:
        frozen: The VLM.
        run: Cache, seed, rendering processes, progress.
        domains: What the frames show.
        photos: Photographs, if these are among them.
    """

    frozen: FrozenVlm
    run: RunSettings
    domains: tuple[Domain, ...]
    photos: Path | None = None

    def frames(self, name: str, count: int) -> AskedFrames:
        """A set of `training.codec.data.FIRST_SEEDS`.

        Raises:
            ConfigError: Photographs are wanted and none are given.
            ArtifactError: They cannot be read.
        """
        return scene_set(name, count, self.frozen.image_size_px, self.run, domains=self.domains, photos=self.photos)

    def with_tokens(self, name: str, count: int) -> tuple[AskedFrames, Tensor]:
        """A set, and its uncompressed visual tokens, float16 [F, N, D]; see `frames`."""
        frames = self.frames(name, count)
        size = self.frozen.image_size_px
        stem = f"{name}-{'-'.join(self.domains)}-{size}-{self.run.seed}-{count}.npy"
        path = self.run.cache_dir / f"tokens-{self.frozen.sha256[:12]}" / stem
        return frames, cached_tokens(self.frozen.image_path, frames.frames, path)
