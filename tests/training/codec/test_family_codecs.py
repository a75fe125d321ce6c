"""Codecs for models of each kind of family: from pixels at the edge to an answer of the worker, and how they learn."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cloud_workers.inference.backend import InferenceAnswer
from cloud_workers.inference.registry import adapt
from cloud_workers.loading import load_worker_model
from cloud_workers.pass_engine import PassDone
from edge_nodes.encoder import OnnxEncoder
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder
from pipeline.config.worker_settings import WorkerSettings
from pipeline.protocol.effects import ChunkData, InferencePass, PassQuery
from schemas.types import AnswerType, FrameId
from tests.cloud.engines import THREAD
from tests.cloud.tiny_models import FAMILIES, IMAGE_SIZE_PX
from tests.protocol.questions import content
from training.codec.fit.folder import CodecParts, write_codec
from training.codec.fit.klt import fit_klt
from training.codec.fit.material import LearningSet, to_ask
from training.codec.towers import TOWERS
from training.codec.vlm import open_vlm


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


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_training_sees_is_what_the_model_answers(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """First tokens of greedy answers from the view of training, and from the worker's adapter; gradients come back."""
    torch.set_num_threads(1)
    model, processor = FAMILIES[family]()
    size_px = IMAGE_SIZE_PX if family == "qwen2_5_vl" else None
    vlm = adapt(model, processor, source=family, frame_size_px=size_px)
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randn(3, vlm.token_count, vlm.token_dim, generator=generator)
    texts = [["What is this?", "Is it red or is it blue?"], ["How many?"], ["Is it red or is it blue?", "Where?"]]
    learning = LearningSet(tokens, texts, texts)
    asked = to_ask(model, processor, learning, frames=9, questions=2, tiles_per_edge=1, frame_size_px=vlm.frame_size_px)
    asked.view.half = False
    material = asked.material(tokens, asked.view.reference(tokens, asked.questions, answer_tokens=3))
    said: dict[int, list[int]] = {}
    read = vlm._read  # type: ignore[attr-defined]

    def keep(ids: list[int], *values: Any) -> InferenceAnswer:
        answer: InferenceAnswer = read(ids, *values)
        said[id(answer)] = ids
        return answer

    monkeypatch.setattr(vlm, "_read", keep)
    logits = asked.view.logits(tokens, material.questions, material.reference.answers)
    for row, own in enumerate(texts):
        found = vlm.answer(tokens[row : row + 1], [(text, AnswerType.WORD) for text in own], frames=[0] * len(own))
        for place, answer in enumerate(found):
            shares = logits[row, place, 0].softmax(-1)
            first, second = shares.topk(2).values
            assert float(first - second) == pytest.approx(answer.margin, abs=1e-4)
            counts = material.reference.counts[row, place]
            assert material.reference.best[row, place][counts].tolist() == said[id(answer)][: int(counts.sum())]
    moved = (tokens + 0.5 * torch.randn(tokens.shape, generator=generator)).requires_grad_(True)
    asked.view.divergence(moved, material.questions, material.reference).sum().backward()  # type: ignore[no-untyped-call]
    assert moved.grad is not None
    assert all(bool(frame.any()) for frame in moved.grad)
