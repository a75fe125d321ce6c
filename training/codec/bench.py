"""A codec, its VLM, and the sets of frames on which both are measured; what was measured is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from cloud_workers.vlm import TransformersVlm
from pipeline.codec.spec import TABLES_FILE, CodecSpec, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from training.codec.data import Asked, AskedFrames, Domain, Progress, cached_tokens, scene_set
from training.codec.folder import FrozenVlm, even_ladder
from training.codec.measure import PrefixAnswers, measure_prefixes
from training.codec.train import DOMAINS, open_vlm

RUNGS: Final = 6
RUNGS_DETAILED: Final = 8


@dataclass(frozen=True, slots=True)
class CodecBench:
    """What calibration and evaluation share.

    Attributes:
        codec_dir: Codec folder.
        spec: Of that folder.
        vlm: The model that it was made for.
        frozen: What the export needs of that.
        cache_dir: For frames, tokens and answers.
        seed: Of the frames.
        threads: CPU threads, and rendering processes.
        progress: Called with a line of text now and then.
    """

    codec_dir: Path
    spec: CodecSpec
    vlm: TransformersVlm
    frozen: FrozenVlm
    cache_dir: Path
    seed: int
    threads: int
    progress: Progress

    @classmethod
    def open(
        cls, vlm_dir: Path, codec_dir: Path, cache_dir: Path, *, seed: int, threads: int, progress: Progress
    ) -> CodecBench:
        """Load codec and VLM.

        Raises:
            ArtifactError: one of them is not usable, or they do not belong together.
        """
        torch.set_num_threads(threads)
        spec = load_codec_spec(codec_dir)
        spec.check_vlm(vlm_dir)
        vlm, frozen = open_vlm(vlm_dir, spec.vlm_id, tiles_per_edge=spec.tiles_per_edge)
        return cls(codec_dir, spec, vlm, frozen, cache_dir, seed, threads, progress)

    @property
    def domain(self) -> Domain:
        """Frames that this operating point is made for."""
        return DOMAINS["small" if self.spec.tiles_per_edge == 1 else "detailed"][0]

    def rungs(self) -> tuple[int, ...]:
        """Prefix lengths that ladders are built from, evenly spaced in bytes.

        Raises:
            ArtifactError: the tables are damaged.
        """
        tables = FrequencyTables.load(self.codec_dir / TABLES_FILE)
        return even_ladder(tables.mean_latent_bits(), RUNGS if self.spec.tiles_per_edge == 1 else RUNGS_DETAILED)

    def frames(
        self, name: str, count: int, *, domain: Domain | None = None, photos: Path | None = None
    ) -> tuple[AskedFrames, Tensor]:
        """Frames of a set with their visual tokens.

        Args:
            name: A key of `training.codec.data.FIRST_SEEDS`.
            count: Number of frames.
            domain: What they show; that of the operating point unless given.
            photos: Class folder or zip, for photographs.
        """
        shown = domain or self.domain
        data = scene_set(
            name,
            self.cache_dir,
            count=count,
            size=self.spec.image_size_px,
            seed=self.seed,
            processes=self.threads,
            progress=self.progress,
            domains=(shown,),
            photos=photos,
        )
        stem = f"{name}-{shown}-{self.spec.image_size_px}-{self.seed}-{count}.npy"
        folder = self.cache_dir / f"tokens-{self.frozen.sha256[:12]}"
        return data, cached_tokens(self.frozen.image_path, data.frames, folder / stem)

    def measure(self, name: str, count: int, lengths: Sequence[int]) -> tuple[tuple[Asked, ...], PrefixAnswers]:
        """Questions of a set, and the answers from prefixes of these lengths."""
        data, tokens = self.frames(name, count)
        self.progress(f"{self.spec.name}: {name} set, {count} frames, {len(data.asked)} questions")
        return data.asked, self.answers(tokens, data.asked, lengths)

    def answers(self, tokens: Tensor, asked: Sequence[Asked], lengths: Sequence[int]) -> PrefixAnswers:
        """Answers from prefixes of these lengths."""
        return measure_prefixes(
            self.vlm, self.codec_dir, tokens, asked, lengths, self.progress, cache_dir=self.cache_dir
        )
