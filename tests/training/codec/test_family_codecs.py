"""A KLT codec for a model of each kind of family: from pixels at the edge to an answer of the worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_workers.loading import load_worker_model
from cloud_workers.pass_engine import PassDone
from edge_nodes.encoder import OnnxEncoder
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder
from pipeline.config.settings import WorkerSettings
from pipeline.protocol.effects import ChunkData, InferencePass, PassQuery
from schemas.errors import ArtifactError
from schemas.types import AnswerType, FrameId
from tests.cloud.engines import THREAD
from tests.cloud.tiny_models import FAMILIES
from tests.protocol.questions import content
from training.codec.fit.folder import CodecParts, write_codec
from training.codec.fit.klt import fit_klt
from training.codec.fit.train import CodecTraining, train_codec
from training.codec.towers import TOWERS
from training.codec.vlm import open_vlm
from training.run import RunSettings, silent


def saved(family: str, folder: Path) -> Path:
    model, processor = FAMILIES[family]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_each_family_has_a_tower() -> None:
    assert set(TOWERS) == set(FAMILIES)


@pytest.mark.parametrize(
    ("family", "size_px"), [("qwen3_vl", 32), ("gemma3", None), ("paligemma", None), ("llava_next", None)]
)
def test_a_worker_answers_through_a_codec_of_the_family(family: str, size_px: int | None, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = saved(family, tmp_path / "vlm")
    vlm, frozen = open_vlm(folder, "tiny", frame_size_px=size_px)
    shape = (24, frozen.image_size_px, frozen.image_size_px, 3)
    frames = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    tokens = frozen.image_path.of_frames(frames)
    parts = CodecParts(fit_klt(tokens, 8, 16, step=0.05), "klt", 1, tokens, frames[:2], rungs=2)
    spec, parity = write_codec(tmp_path / "klt", frozen, parts)
    assert parity is not None
    assert (spec.token_count, spec.token_dim, spec.image_size_px) == (*tokens.shape[1:], frozen.image_size_px)

    (latent,) = OnnxEncoder(tmp_path / "klt").encode([frames[0]])
    worker = load_worker_model(WorkerSettings(vlm=str(folder), codec=tmp_path / "klt", threads=1), THREAD)
    chunk = ChunkData(0, spec.latent_count, latent.payload(0, spec.latent_count))
    query = PassQuery("q", content("q", "Is there a car?", AnswerType.YES_NO))
    inference_pass = InferencePass("gate", FrameId(1, 1), 1, (chunk,), spec.latent_count, (query,), 1)
    (result,) = asyncio.run(worker.engine.run([inference_pass]))
    assert isinstance(result, PassDone)
    decoder = load_prefix_decoder(tmp_path / "klt")
    decoded = decoder.decode(latent.symbols[None], np.array([spec.latent_count]))
    assert (decoded - tokens[:1]).square().mean() < 0.8 * (tokens[:1] - tokens.mean(0)).square().mean()
    (found,) = vlm.answer(decoded, [("Is there a car?", AnswerType.YES_NO)])
    assert result.answers[0].problem == ""
    assert result.answers[0].text == found.text


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "paligemma", "blip-2"])
def test_a_learned_codec_is_refused_before_anything_is_rendered(family: str, tmp_path: Path) -> None:
    folder = saved(family, tmp_path / "vlm")
    run = RunSettings(tmp_path / "cache", threads=1, progress=silent)
    with pytest.raises(ArtifactError, match=r"Meta AutoEncoder is trained for .*make a KLT codec"):
        train_codec(folder, tmp_path / "out", run, CodecTraining(budget="smoke"))
    assert not (tmp_path / "cache").exists()
