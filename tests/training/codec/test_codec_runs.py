"""The commands end to end, on a tiny model of the real class: train, export, calibrate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cloud_workers.inference.registry import adapt
from edge_nodes.encoder import OnnxEncoder
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder, load_transform
from pipeline.codec.spec import ENCODER_FILES, INT8_ENCODER_FILE, load_codec_spec
from pipeline.codec.stop_file import load_stop_rule
from schemas.errors import ArtifactError, ConfigError
from schemas.types import AnswerType
from tests.cloud.tiny_codec import write_vlm
from tests.cloud.tiny_models import FAMILIES, IMAGE_SIZE_PX
from training.codec.config import BUDGETS
from training.codec.data import FIRST_SEEDS, scene_set
from training.codec.fit.decoder import DecoderTraining, learn_decoder
from training.codec.fit.export import export_encoder
from training.codec.fit.klt import fit_klt
from training.codec.fit.train import CodecTraining, export_codec, train_codec
from training.codec.image_path import PixelsToTokens
from training.codec.own_frames import OwnFrames
from training.codec.stop.calibrate import StopCalibration, calibrate_stop
from training.codec.stop.learn_then_test import Promise
from training.codec.stop.verify import StopVerification, verify_stop
from training.codec.vlm import open_vlm
from training.reference_vlm.frames import SEED_STRIDE
from training.run import RunSettings, silent

BUDGET = replace(BUDGETS["smoke"], train_frames=48, table_frames=16, steps=6, batch=4, view_frames=2, asked_frames=8)
NAMES = ("klt", "meta_autoencoder")


def run(cache: Path) -> RunSettings:
    """One thread, without lines."""
    return RunSettings(cache, threads=1, progress=silent)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and lose much to waiting for them on a busy machine."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `vlm`, `cache` and both trained codecs."""
    root = tmp_path_factory.mktemp("made")
    write_vlm(root / "vlm")
    report = train_codec(root / "vlm", root, run(root / "cache"), CodecTraining(vlm_id="tiny", budget=BUDGET))
    assert json.loads((root / "klt" / "training.json").read_text())["vlm_sha256"] == report["vlm_sha256"]
    return root


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_image_path_is_the_models_own_and_can_be_exported(family: str, tmp_path: Path) -> None:
    model, processor = FAMILIES[family]()
    # Its usual size takes the exporter long; it reads any.
    vlm = adapt(model, processor, source=family, frame_size_px=IMAGE_SIZE_PX if family == "qwen2_5_vl" else None)
    edge_px = vlm.frame_size_px
    frames = np.random.default_rng(0).integers(0, 256, (20, edge_px, edge_px, 3), dtype=np.uint8)
    image_path = PixelsToTokens(model, processor.image_processor, tile_px=edge_px)
    tokens = image_path.of_frames(frames)
    assert tokens.shape == (20, vlm.token_count, vlm.token_dim)
    torch.testing.assert_close(tokens, vlm.encode_pixels(frames), atol=1e-5, rtol=1e-5)
    parity = export_encoder(image_path, fit_klt(tokens, 4, 16, step=0.5), tmp_path / "encoder.onnx", frames)
    assert parity.unexplained == 0
    assert parity.differing < 0.005 * parity.symbols
    assert (parity.graph.opset, parity.graph.pixels[1:], parity.graph.symbols[1:]) == (
        20,
        (edge_px, edge_px, 3),
        (4, 16),
    )
    assert isinstance(parity.graph.pixels[0], str), "the batch is free"


def test_weights_that_16_bits_hold_take_two_bytes_and_lose_nothing(tmp_path: Path) -> None:
    """Those of the VLM are bfloat16; others are kept as they are."""
    model, processor = FAMILIES["smolvlm"]()
    frames = np.random.default_rng(0).integers(0, 256, (4, IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), dtype=np.uint8)
    image_path = PixelsToTokens(model, processor.image_processor)
    transform = fit_klt(image_path.of_frames(frames), 4, 16, step=0.5)
    full = export_encoder(image_path, transform, tmp_path / "full.onnx", frames)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    small = export_encoder(image_path, transform, tmp_path / "small.onnx", frames)
    large = sum(parameter.numel() for parameter in image_path.parameters() if parameter.numel() >= 1024)
    assert full.size_bytes - small.size_bytes > 1.8 * large
    assert small.differing == small.unexplained == 0


def test_an_export_tells_nothing_about_the_machine_that_made_it(tmp_path: Path) -> None:
    model, processor = FAMILIES["smolvlm"]()
    frames = np.random.default_rng(0).integers(0, 256, (4, IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), dtype=np.uint8)
    image_path = PixelsToTokens(model, processor.image_processor)
    export_encoder(image_path, fit_klt(image_path.of_frames(frames), 4, 16, step=0.5), tmp_path / "e.onnx", frames)
    content = (tmp_path / "e.onnx").read_bytes()
    assert str(Path(__file__).parents[3]).encode() not in content
    assert b"site-packages" not in content


def test_a_model_of_another_family_is_refused() -> None:
    model, processor = FAMILIES["llava"]()
    del model.model.multi_modal_projector
    with pytest.raises(ArtifactError, match=r"no whole llava model: .*multi_modal_projector"):
        PixelsToTokens(model, processor.image_processor)
    model.config.model_type = "vipllava"
    with pytest.raises(ArtifactError, match="'vipllava', which is not supported"):
        PixelsToTokens(model, processor.image_processor)


@pytest.mark.parametrize("name", NAMES)
def test_the_edge_and_the_cloud_agree(made: Path, name: str) -> None:
    """Pixels through ONNX Runtime, bytes, and back: the tokens are those of torch alone."""
    folder = made / name
    spec = load_codec_spec(folder)
    spec.check_vlm(made / "vlm")
    frames = np.random.default_rng(0).integers(0, 256, (4, spec.image_size_px, spec.image_size_px, 3), dtype=np.uint8)
    latents = OnnxEncoder(folder).encode(list(frames))
    _, frozen = open_vlm(made / "vlm", "tiny")
    expected = load_transform(folder).encode(frozen.image_path.of_frames(frames)).numpy()
    symbols = np.stack([latent.symbols for latent in latents])
    assert np.abs(symbols - expected).max() <= 1
    assert (symbols != expected).mean() < 0.005
    decoded = load_prefix_decoder(folder).decode(symbols, np.full(4, spec.latent_count))
    assert decoded.shape == (4, spec.token_count, spec.token_dim)
    assert torch.isfinite(decoded).all()


def test_an_uncalibrated_codec_stops_nothing_early(made: Path) -> None:
    spec = load_codec_spec(made / "klt")
    rule = load_stop_rule(made / "klt")
    assert rule.ladder == spec.ladder
    assert not any(rule.is_safe(AnswerType.COUNT, length, 1.0) for length in spec.ladder[:-1])
    assert rule.is_safe(AnswerType.COUNT, spec.latent_count, 0.0)


@pytest.mark.parametrize(("layers", "width"), [(2, None), (0, None), (None, 64)])
def test_another_decoder_leaves_the_symbols_as_they_are(
    made: Path, tmp_path: Path, layers: int | None, width: int | None
) -> None:
    old, new = made / "meta_autoencoder", tmp_path / "other"
    report = learn_decoder(
        made / "vlm",
        old,
        new,
        run(made / "cache"),
        DecoderTraining(layers, width, BUDGET),
    )
    assert report["decoder"]["steps"] == BUDGET.steps
    assert report["learned"] == json.loads((old / "training.json").read_text())["learned"]
    for name in ("tables.safetensors", "encoder.onnx"):
        assert (new / name).read_bytes() == (old / name).read_bytes()
    before, after = load_transform(old), load_transform(new)
    tokens = torch.randn(30, before.token_count, before.token_dim, generator=torch.Generator().manual_seed(0))
    symbols = before.encode(tokens)
    torch.testing.assert_close(after.encode(tokens), symbols, atol=0, rtol=0)
    whole = torch.full((30,), before.latent_count)
    assert not torch.equal(after.synthesise(symbols.float(), whole), before.synthesise(symbols.float(), whole))
    # Prefixes of one codec are not for the decoder of the other, and nothing is promised until it is calibrated.
    spec = load_codec_spec(new)
    assert spec.fingerprint != load_codec_spec(old).fingerprint
    rule = load_stop_rule(new)
    assert not any(rule.is_safe(AnswerType.COUNT, length, 1.0) for length in spec.ladder[:-1])


def test_what_has_no_decoder_to_learn_is_refused(made: Path, tmp_path: Path) -> None:
    def learn(codec: str, output: Path, *, width: int | None = None, budget: str = "smoke") -> None:
        learn_decoder(
            made / "vlm", made / codec, output, run(made / "cache"), DecoderTraining(width=width, budget=budget)
        )

    with pytest.raises(ArtifactError, match="klt has no decoder to learn"):
        learn("klt", tmp_path / "new")
    with pytest.raises(ConfigError, match="a folder of its own"):
        learn("meta_autoencoder", made / "klt" / ".." / "meta_autoencoder")
    with pytest.raises(ConfigError, match="do not divide by 4 heads"):
        learn("meta_autoencoder", tmp_path / "new", width=33)
    with pytest.raises(ConfigError, match="'huge' is none of full"):
        learn("meta_autoencoder", tmp_path / "new", budget="huge")
    assert not (tmp_path / "new").exists()


def test_training_again_changes_nothing(made: Path) -> None:
    before = (made / "meta_autoencoder" / "codec.safetensors").read_bytes()
    lines: list[str] = []
    again = RunSettings(made / "cache", threads=1, progress=lines.append)
    stop_rule = (made / "meta_autoencoder" / "stop.json").read_bytes()
    with pytest.raises(ConfigError, match=r"holds a finished codec, version 1 for tiny: .* or add --overwrite"):
        train_codec(made / "vlm", made, again, CodecTraining(vlm_id="tiny", budget=BUDGET))
    assert (lines, (made / "meta_autoencoder" / "stop.json").read_bytes()) == ([], stop_rule)
    train_codec(made / "vlm", made, again, CodecTraining(vlm_id="tiny", budget=BUDGET, overwrite=True))
    assert any("learned already" in line for line in lines)
    assert [line.partition(":")[0] for line in lines if " written" in line] == [
        f"{made / name} written" for name in ("klt", "meta_autoencoder")
    ]
    assert (made / "meta_autoencoder" / "codec.safetensors").read_bytes() == before


def test_export_and_calibration_of_a_codec(made: Path) -> None:
    folder = made / "meta_autoencoder"
    fingerprint = load_codec_spec(folder).fingerprint
    assert export_codec(made / "vlm", folder, run(made / "cache"))["unexplained"] == 0
    report = calibrate_stop(made / "vlm", folder, run(made / "cache"), StopCalibration(Promise(0.1), frames=60))
    spec, rule = load_codec_spec(folder), load_stop_rule(folder)
    assert spec.fingerprint == fingerprint, "calibration changes nothing about the symbols"
    assert list(spec.ladder) == list(rule.ladder) == report["ladder"]
    assert spec.base_latents == spec.ladder[0]
    assert rule.risk == 0.1


def test_an_encoder_in_8_bit_integers_lies_beside_the_one_in_float(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made / "meta_autoencoder", tmp_path / "codec"))
    before = load_codec_spec(folder)
    report = export_codec(made / "vlm", folder, run(made / "cache"), int8=True)
    assert report["answers"]["answers_agreeing"] == 1.0, "torch and ONNX Runtime"
    assert report["int8"]["questions"] == report["answers"]["questions"] > 0
    assert 0.9 < report["int8"]["cosine"] <= 1.0
    after = load_codec_spec(folder)
    assert after.fingerprint == before.fingerprint, "one pool reads both"
    assert after.encoder_int8_sha256 is not None
    frames = list(np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8))
    in_float, in_int8 = (OnnxEncoder(folder, precision=name) for name in ENCODER_FILES)
    pairs = list(zip(in_float.encode(frames), in_int8.encode(frames), strict=True))
    assert np.mean([one.symbols != other.symbols for one, other in pairs]) < 0.2
    one_tokens, other_tokens = (encoder.tokens(frames) for encoder in (in_float, in_int8))
    assert one_tokens.shape == (4, before.token_count, before.token_dim)
    assert 0 < np.abs(one_tokens - other_tokens).max() < np.abs(one_tokens).max(), "8-bit integers were computed with"

    # The ranges come from frames of one's own where there are any.
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    content = (folder / INT8_ENCODER_FILE).read_bytes()
    with pytest.raises(ConfigError, match="holds no image"):
        export_codec(made / "vlm", folder, run(made / "cache"), int8=True, frames=pictures)
    assert load_codec_spec(folder) == after, "a failed export changes nothing"
    for number in range(3):
        Image.fromarray(frames[number]).save(pictures / f"{number}.png")
    export_codec(made / "vlm", folder, run(made / "cache"), int8=True, frames=pictures)
    assert (folder / INT8_ENCODER_FILE).read_bytes() != content

    # One from before does not stay beside another float encoder.
    export_codec(made / "vlm", folder, run(made / "cache"))
    assert not (folder / INT8_ENCODER_FILE).exists()
    assert load_codec_spec(folder).encoder_int8_sha256 is None
    assert not list(folder.glob(".export-*"))


def test_a_stop_rule_is_calibrated_and_verified_on_own_frames(made: Path, tmp_path: Path) -> None:
    lines = []
    for number in range(60):
        pixels: NDArray[np.uint8] = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        lines += [
            json.dumps({"frame": f"{number}.png", "text": text, "answer_type": kind})
            for text, kind in (("Is there a car?", "yes_no"), ("How many dogs?", "count"))
        ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(lines))
    own = OwnFrames(tmp_path, questions)
    folder = tmp_path / "codec"
    shutil.copytree(made / "klt", folder)
    own_run = run(tmp_path / "cache")
    report = calibrate_stop(made / "vlm", folder, own_run, StopCalibration(Promise(0.3), own=own))
    assert report["calibration"]["frames"] == {"score": 9, "policy": 9, "calibration": 24}
    assert report["calibration"]["domain"] == "own"
    assert load_stop_rule(folder).risk == 0.3
    found = verify_stop(made / "vlm", folder, own_run, StopVerification(Promise(0.3), own=own, resplits=5))
    assert (found["frames"], found["questions"], found["domain"]) == (18, 36, "own")
    assert set(found["by_questions_a_frame"]) == {"1", "3", "all"}
    assert found["mean_uplink_bytes"] < found["mean_wire_bytes"] <= found["whole_wire_bytes"] + 1
    with pytest.raises(ConfigError, match=r"risk of 0\.02"):
        verify_stop(made / "vlm", folder, own_run, StopVerification(own=own))


def test_another_model_is_refused(made: Path, tmp_path: Path) -> None:
    other = write_vlm(tmp_path / "vlm", seed=1)
    with pytest.raises(ArtifactError, match="was made for tiny"):
        calibrate_stop(other, made / "klt", run(made / "cache"), StopCalibration(frames=200))
    with pytest.raises(ArtifactError, match="was made for tiny"):
        export_codec(other, made / "klt", run(made / "cache"))


def test_an_unknown_budget_is_named(made: Path) -> None:
    with pytest.raises(ConfigError, match="smoke"):
        train_codec(made / "vlm", made, run(made / "cache"), CodecTraining(budget="huge"))


def test_sets_share_no_scene(tmp_path: Path) -> None:
    """Of one seed no two sets meet, and the questions of a set are the same every time."""
    firsts = sorted(FIRST_SEEDS.values())
    assert min(high - low for low, high in pairwise(firsts)) >= SEED_STRIDE
    one, two = (scene_set("report", 4, 32, run(tmp_path)) for _ in range(2))
    assert one.asked == two.asked
    assert {item.frame for item in one.asked} == {0, 1, 2, 3}
