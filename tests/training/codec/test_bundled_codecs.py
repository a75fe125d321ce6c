"""The codecs that ship with the project do what their cards say, on frames that they were not made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cloud_workers.inference.adapter import ModelAdapter
from edge_nodes.encoder import OnnxEncoder
from pipeline.codec.bundled import bundled_codec_dir, bundled_vlm_dir
from pipeline.codec.latent import EncodedLatent, PrefixAssembler
from pipeline.codec.prefix_decoder_torch import PrefixDecoder, load_prefix_decoder, load_transform
from pipeline.codec.spec import ENCODER_FILE, TABLES_FILE, CodecSpec, load_codec_spec
from pipeline.codec.stop_file import load_stop_rule
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.stop_rule import NEVER
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import sample_scene
from training.codec.answers import answers_of
from training.codec.data import Asked, scene_set
from training.codec.vlm import open_vlm
from training.run import RunSettings, silent

FRAMES = 40
SEED = 5
"""Moves the report set to frames of its own."""
NAMES = ("klt", "meta_autoencoder")


@dataclass(frozen=True)
class Measured:
    """A codec on a few frames."""

    spec: CodecSpec
    tables: FrequencyTables
    decoder: PrefixDecoder
    latents: list[EncodedLatent]

    def size_bytes(self, length: int) -> float:
        """Mean size of prefixes of this length."""
        return float(np.mean([latent.size_bytes(length) for latent in self.latents]))


@dataclass(frozen=True)
class Bench:
    """Frames, questions, what the model says to uncompressed tokens, and both codecs."""

    frames: NDArray[np.uint8]
    asked: tuple[Asked, ...]
    tokens: torch.Tensor
    reference: NDArray[np.str_]
    codecs: dict[str, Measured]
    vlm: ModelAdapter

    def same(self, tokens: torch.Tensor) -> float:
        """Share of answers that are those from uncompressed tokens."""
        return float((answers_of(self.vlm, tokens, self.asked).texts == self.reference).mean())

    def agreement(self, codec: Measured, length: int) -> float:
        """Share of answers from prefixes of this length that are those from uncompressed tokens."""
        symbols = np.stack([latent.symbols for latent in codec.latents])
        return self.same(codec.decoder.decode(symbols, np.full(len(symbols), length)))


def encoded(folder: Path, frames: NDArray[np.uint8], tokens: torch.Tensor) -> list[EncodedLatent]:
    """What the edge makes of frames; the closed form ships without an encoder and is computed from tokens."""
    if (folder / ENCODER_FILE).is_file():
        return OnnxEncoder(folder).encode(list(frames))
    symbols = load_transform(folder).encode(tokens).numpy()
    return [EncodedLatent(frame, FrequencyTables.load(folder / TABLES_FILE)) for frame in symbols]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cache = tmp_path_factory.mktemp("frames")
    vlm, frozen = open_vlm(bundled_vlm_dir(), "bundled")
    size = frozen.image_size_px
    data = scene_set("report", FRAMES, size, RunSettings(cache, SEED, 1, progress=silent))
    tokens = frozen.image_path.of_frames(data.frames)
    codecs = {}
    for name in NAMES:
        folder = bundled_codec_dir(name)
        codecs[name] = Measured(
            load_codec_spec(folder),
            FrequencyTables.load(folder / TABLES_FILE),
            load_prefix_decoder(folder),
            encoded(folder, data.frames, tokens),
        )
    yield Bench(data.frames, data.asked, tokens, answers_of(vlm, tokens, data.asked).texts, codecs, vlm)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NAMES)
def test_codec_stop_rule_and_model_belong_together(name: str) -> None:
    folder = bundled_codec_dir(name)
    spec, rule = load_codec_spec(folder), load_stop_rule(folder)
    # A stricter risk never has a lower threshold.
    rows = [rows for _, rows in sorted({rule.risk: rule.thresholds, **rule.by_risk}.items())]
    assert rows == sorted(rows, key=lambda row: [-max(limits) for _, limits in sorted(row.items())])
    spec.check_vlm(bundled_vlm_dir())
    assert rule.ladder == spec.ladder
    assert spec.base_latents == spec.ladder[0] < spec.latent_count
    assert any(limit < NEVER for row in rule.thresholds.values() for limit in row[:-1]), "no answer can ever be early"


def test_bundled_files_stay_small() -> None:
    folders = [bundled_vlm_dir(), *map(bundled_codec_dir, NAMES)]
    size_bytes = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
    assert size_bytes < 40_000_000


def test_the_learned_codec_beats_the_closed_form_at_every_size(bench: Bench) -> None:
    """The longest prefix of the learned codec that is no larger than one of the closed form answers more as the whole
    does."""
    klt, meta = (bench.codecs[name] for name in NAMES)
    sizes = [meta.size_bytes(length) for length in range(1, meta.spec.latent_count + 1)]
    for length, margin in ((3, 0.05), (5, 0.05), (8, 0.03), (12, 0.0), (klt.spec.latent_count, -0.02)):
        baseline = sum(size <= klt.size_bytes(length) for size in sizes)
        found, expected = bench.agreement(meta, baseline), bench.agreement(klt, length)
        assert found > expected + margin, f"{baseline} latents against {length} of the closed form"


@pytest.mark.parametrize(("name", "least", "most_bytes"), [("klt", 0.85, 215), ("meta_autoencoder", 0.87, 180)])
def test_answers_from_whole_latents_agree_with_uncompressed_ones(
    bench: Bench, name: str, least: float, most_bytes: float
) -> None:
    """Through the whole path: ONNX Runtime, bytes, range decoder, synthesis, language model."""
    codec = bench.codecs[name]
    count = codec.spec.latent_count
    symbols = []
    for latent in codec.latents:
        assembler = PrefixAssembler(codec.tables)
        assembler.add(0, codec.spec.base_latents, latent.payload(0, codec.spec.base_latents))
        assembler.add(codec.spec.base_latents, count, latent.payload(codec.spec.base_latents, count))
        symbols.append(assembler.prefix()[0])
    decoded = codec.decoder.decode(np.stack(symbols), np.full(FRAMES, count))
    assert bench.same(decoded) >= least
    assert codec.size_bytes(count) <= most_bytes


@pytest.mark.parametrize("name", NAMES)
def test_longer_prefixes_are_better_on_average(bench: Bench, name: str) -> None:
    codec = bench.codecs[name]
    symbols = np.stack([latent.symbols for latent in codec.latents])
    variance = (bench.tokens - bench.tokens.mean(0)).square().mean()
    errors = [
        float((codec.decoder.decode(symbols, np.full(FRAMES, length)) - bench.tokens).square().mean() / variance)
        for length in range(codec.spec.latent_count + 1)
    ]
    assert all(later < earlier + 0.002 for earlier, later in pairwise(errors))
    assert errors[-1] < 0.6 * errors[codec.spec.latent_count // 4]


@pytest.mark.parametrize("name", NAMES)
def test_bytes_depend_on_the_boundaries_alone(bench: Bench, name: str) -> None:
    """A prefix sent at once, or in chunks of a refinement, is the first symbols of the whole."""
    codec = bench.codecs[name]
    latent, count = codec.latents[0], codec.spec.latent_count
    for boundaries in ((0, 3, 7, count), (0, count), (0, 1, 2, 3)):
        assembler = PrefixAssembler(codec.tables)
        for start, stop in pairwise(boundaries):
            payload = latent.payload(start, stop)
            assert payload == EncodedLatent(latent.symbols.copy(), codec.tables).payload(start, stop)
            bits = codec.tables.symbol_bits(latent.symbols[None, start:stop], start, stop).sum()
            assert len(payload) < bits / 8 + 1
            assembler.add(start, stop, payload)
        symbols, length = assembler.prefix()
        assert length == boundaries[-1]
        np.testing.assert_array_equal(symbols[:length], latent.symbols[:length])


def test_the_number_of_threads_changes_no_byte(bench: Bench) -> None:
    folder = bundled_codec_dir()
    one, two = (OnnxEncoder(folder, threads=threads).encode(list(bench.frames[:8])) for threads in (1, 2))
    count = one[0].latent_count
    differing = sum(a.payload(0, count) != b.payload(0, count) for a, b in zip(one, two, strict=True))
    assert differing <= 1, "more than what sits on a rounding boundary"


def test_the_encoder_gives_the_same_bytes_for_the_same_frame_in_any_company(bench: Bench) -> None:
    folder: Path = bundled_codec_dir()
    frame = render(sample_scene(1_234_567_890), load_codec_spec(folder).image_size_px)
    encoder = OnnxEncoder(folder)
    alone = encoder.encode([frame])[0]
    among = encoder.encode([bench.frames[0], frame, bench.frames[1]])[1]
    differing = np.count_nonzero(alone.symbols != among.symbols)
    assert differing <= 2, "batching moves more than what sits on a rounding boundary"
