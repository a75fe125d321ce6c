"""A codec, its VLM, and the sets of frames on which both are measured; what was measured is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from cloud_workers.inference.adapter import ModelAdapter
from pipeline.codec.spec import TABLES_FILE, CodecSpec, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from schemas.errors import StateError
from training.codec.data import Asked
from training.codec.frame_source import FrameSource
from training.codec.measure import PrefixAnswers, measure_prefixes
from training.codec.own_frames import OwnFrames
from training.codec.points import DOMAINS, POINTS, point_of
from training.codec.prefixes import even_ladder
from training.codec.vlm import FrozenVlm, open_vlm
from training.run import RunSettings


@dataclass(frozen=True, slots=True)
class TokenSet:
    """Frames of which only the visual tokens are needed.

    Attributes:
        asked: Questions about them.
        tokens: Uncompressed, of any float type [F, N, D]; may be mapped from a file.
    """

    asked: tuple[Asked, ...]
    tokens: Tensor


OWN_SHARES: Final = {"score": 0.15, "policy": 0.15, "calibration": 0.4, "report": 0.3}
"""Of somebody's own frames."""


@dataclass(frozen=True, slots=True)
class CodecBench:
    """What calibration and evaluation share.

    Attributes:
        codec_dir: Codec folder.
        spec: Of that folder.
        vlm: The model that it was made for.
        frozen: What the export needs of that.
        run: Cache, seed of the frames, threads, progress.
        own: Somebody's own images and questions instead of drawn frames, or sets of their visual tokens by name; None
            draws.
    """

    codec_dir: Path
    spec: CodecSpec
    vlm: ModelAdapter
    frozen: FrozenVlm
    run: RunSettings
    own: OwnFrames | Mapping[str, TokenSet] | None

    @classmethod
    def open(cls, vlm_dir: Path, codec_dir: Path, run: RunSettings, own: OwnFrames | None = None) -> CodecBench:
        """Load codec and VLM.

        Raises:
            ArtifactError: one of them is not usable, or they do not belong together.
        """
        torch.set_num_threads(run.threads)
        spec = load_codec_spec(codec_dir)
        spec.check_vlm(vlm_dir)
        vlm, frozen = open_vlm(vlm_dir, spec.vlm_id, tiles_per_edge=spec.tiles_per_edge, frame_size_px=spec.tile_px)
        return cls(codec_dir, spec, vlm, frozen, run, own)

    @property
    def domain(self) -> str:
        """What the frames show: what the operating point is made for, or somebody's own images."""
        return "own" if self.own is not None else self._source.domains[0]

    @property
    def _source(self) -> FrameSource:
        return FrameSource(self.frozen, self.run, (DOMAINS[point_of(self.frozen)],))

    def count(self, name: str, wanted: int) -> int:
        """Frames of a set: as many as wanted if they are drawn, its share of somebody's own.

        Raises:
            ConfigError: there are so few own frames that a set would be empty.
        """
        if self.own is None:
            return wanted
        if isinstance(self.own, Mapping):
            return len(self.own[name].tokens)
        return self.own.sizes(list(OWN_SHARES.values()))[list(OWN_SHARES).index(name)]

    def rungs(self) -> tuple[int, ...]:
        """Prefix lengths that ladders are built from, evenly spaced in bytes.

        Raises:
            ArtifactError: the tables are damaged.
        """
        tables = FrequencyTables.load(self.codec_dir / TABLES_FILE)
        return even_ladder(tables.mean_latent_bits(), POINTS[point_of(self.frozen)]["full"].rungs)

    def measure(self, name: str, wanted: int, lengths: Sequence[int]) -> tuple[tuple[Asked, ...], PrefixAnswers]:
        """Questions of a set, and the answers from prefixes of these lengths.

        Args:
            name: A key of `OWN_SHARES`; the sets have no frame in common.
            wanted: Number of frames, see `count`.
            lengths: Prefix lengths; the whole latent is added.

        Raises:
            ConfigError: there are too few own frames.
            ArtifactError: an image cannot be read.
        """
        count = self.count(name, wanted)
        found = self._set(name, count)
        self.run.progress(f"{self.spec.name}: {name} set, {count} frames, {len(found.asked)} questions")
        return found.asked, measure_prefixes(
            self.vlm,
            self.codec_dir,
            found.tokens,
            found.asked,
            lengths,
            self.run.progress,
            cache_dir=self.run.cache_dir,
        )

    def tokens(self, name: str) -> Tensor:
        """Visual tokens of a set of somebody's own pictures [F, N, D].

        Raises:
            StateError: frames are drawn here, or read one by one.
        """
        if not isinstance(self.own, Mapping):
            raise StateError(f"the set {name!r} is not given by its tokens")
        return self.own[name].tokens

    def _set(self, name: str, count: int) -> TokenSet:
        if self.own is None:
            drawn, tokens = self._source.with_tokens(name, count)
            return TokenSet(drawn.asked, tokens)
        if isinstance(self.own, Mapping):
            return self.own[name]
        return self._own_frames(self.own, name)

    def _own_frames(self, own: OwnFrames, name: str) -> TokenSet:
        edges = [0, *accumulate(own.sizes(list(OWN_SHARES.values())))]
        at = list(OWN_SHARES).index(name)
        data = own.part(edges[at], edges[at + 1], self.spec.image_size_px, self.spec.fit)
        return TokenSet(data.asked, self.frozen.image_path.of_frames(data.frames).half())
