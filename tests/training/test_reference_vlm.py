"""The reference VLM: tokenizer, processor, injected tokens, packed training sequences, a tiny training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, SmolVLMForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pipeline.scenes.questions import make_question
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import sample_scene
from training.reference_vlm.captions import caption_of
from training.reference_vlm.config import ModelSize, StageBudget, TrainingBudget
from training.reference_vlm.degrade import degrade, recompress_video
from training.reference_vlm.dense_labels import BACKGROUND, IGNORE, dense_labels
from training.reference_vlm.evaluate import evaluate_reference_vlm
from training.reference_vlm.language_stage import BlockEncoder, answer_loss, collate
from training.reference_vlm.model import build_model
from training.reference_vlm.tokenizer import build_processor, prompt_text, train_tokenizer
from training.reference_vlm.train import train_reference_vlm

TINY = ModelSize(vision_width=32, vision_heads=2, vision_layers=1, text_width=32, text_heads=2, text_layers=2)
TOKENIZER = train_tokenizer()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_model(TINY, TOKENIZER, seed=3).save_pretrained(folder)
    build_processor(TOKENIZER, image_size=128, image_tokens=64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(saved: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(saved).eval()


@pytest.fixture(scope="module")
def processor(saved: Path) -> Any:
    return AutoProcessor.from_pretrained(saved)


def inputs_for(processor: Any, question: str, seed: int = 1) -> Any:
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
        add_generation_prompt=True,
    )
    image = Image.fromarray(render(sample_scene(seed)))
    return processor(text=[prompt], images=[[image]], return_tensors="pt")


@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


def test_the_tokenizer_is_the_same_every_time() -> None:
    assert train_tokenizer().get_vocab() == TOKENIZER.get_vocab()


def test_it_loads_as_a_hub_model_does(model: Any, processor: Any) -> None:
    assert type(model) is SmolVLMForConditionalGeneration
    inputs = inputs_for(processor, "Is there a car?")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 64
    assert inputs["pixel_values"].shape == (1, 1, 3, 128, 128)
    assert model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output[0].shape == (64, 32)


def test_training_writes_the_prompt_that_the_chat_template_writes(processor: Any) -> None:
    encoder = BlockEncoder(TOKENIZER, image_tokens=64)
    question = make_question("position", "dog", "blue").text
    asked = inputs_for(processor, question)["input_ids"][0].tolist()
    assert asked == [*encoder.prefix, *encoder.encode(prompt_text(question))]


def test_injected_tokens_equal_the_pixel_path_and_other_tokens_do_not(model: Any, processor: Any) -> None:
    inputs = inputs_for(processor, "How many cars are there?")
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model(**inputs).logits
        tokens = model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
        injected = model(**text, mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=tokens)}).logits
        other = [tokens[0].flip(0)]
        changed = model(**text, mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=other)}).logits
    assert torch.equal(injected, expected)
    assert (changed - expected).abs().max() > 1e-4


def test_questions_that_share_a_sequence_do_not_see_one_another(model: Any) -> None:
    encoder = BlockEncoder(TOKENIZER, image_tokens=64)
    rng = np.random.default_rng(0)
    scenes = [sample_scene(1), sample_scene(2)]
    tokens = torch.randn(2, 64, 32)
    blocks = [encoder.questions(scene, 4, rng) for scene in scenes]
    with torch.no_grad():
        packed, _ = answer_loss(model, collate(encoder, blocks), tokens, encoder.image_id)
        losses, weights = [], []
        for row in range(2):
            for block in blocks[row]:
                batch = collate(encoder, [[block]])
                losses.append(answer_loss(model, batch, tokens[row : row + 1], encoder.image_id)[0])
                weights.append(len(batch.targets))
    alone = np.average([loss.item() for loss in losses], weights=weights)
    # bf16 autocast rounds differently in differently shaped matrices.
    assert packed.item() == pytest.approx(alone, rel=2e-2)


def test_packed_blocks_follow_the_mask_exactly(model: Any) -> None:
    encoder = BlockEncoder(TOKENIZER, image_tokens=64)
    blocks = [encoder.block("Is there a car?", "yes"), encoder.block("Where is the dog?", "top left")]
    batch = collate(encoder, [blocks])
    start, stop = len(encoder.prefix), len(encoder.prefix) + len(blocks[0].ids)
    visible = batch.visible[0, 0]
    assert not visible[stop:, start:stop].any()
    assert visible[stop:, :start].all()
    assert batch.positions[0, stop] == start
    said = [*blocks[0].ids[blocks[0].prompt_length :], *blocks[1].ids[blocks[1].prompt_length :]]
    assert batch.targets.tolist() == said
    assert TOKENIZER.decode(said) == " yes<end_of_utterance> top left<end_of_utterance>"


def test_dense_labels_mark_each_object_once_at_its_centre() -> None:
    for seed in range(50):
        scene = sample_scene(seed)
        labels = dense_labels(scene, 8)
        anchors = labels[4] == 1
        assert anchors.sum() == len(scene.objects)
        assert (labels[0][anchors] != BACKGROUND).all()
        background = labels[0] == BACKGROUND
        assert (labels[1:4, background] == IGNORE).all()
        assert (labels[1:4, ~background] >= 0).all()


def test_captions_name_every_object() -> None:
    scene = sample_scene(3)
    caption = caption_of(scene)
    objects, totals = caption.split(" total")
    assert objects.count(";") == len(scene.objects)
    for item in scene.objects:
        assert f" {item.color} {item.kind} " in objects
    assert totals.endswith(".")


def test_degraded_frames_still_show_the_scene() -> None:
    rng = np.random.default_rng(0)
    frames = [render(sample_scene(seed)) for seed in range(24)]
    degraded = [degrade(frame, rng) for frame in frames] + recompress_video(frames, crf=30)
    differences = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames * 2, degraded, strict=True)]
    assert all(frame.shape == (128, 128, 3) and frame.dtype == np.uint8 for frame in degraded)
    assert max(differences) < 40
    assert 6 <= sum(difference > 0 for difference in differences[:24]) < 24
    assert all(difference > 0 for difference in differences[24:])


def test_a_tiny_training_learns_resumes_and_saves(tmp_path: Path) -> None:
    budget = TrainingBudget(
        model=TINY,
        train_frames=64,
        tower=StageBudget(100, 8, 3e-3),
        captions=StageBudget(15, 4, 3e-3),
        questions=StageBudget(6, 4, 1e-3),
        questions_per_sequence=4,
    )
    lines: list[str] = []
    output, cache = tmp_path / "out", tmp_path / "cache"

    def train(**options: Any) -> dict[str, Any]:
        lines.clear()
        return train_reference_vlm(
            output, cache, budget=budget, seed=5, threads=1, evaluation_frames=2, progress=lines.append, **options
        )

    report = train()
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines if line.startswith("tower: step")]
    assert len(losses) == 2
    assert losses[1] < 0.9 * losses[0]
    assert report["stages"]["captions"]["loss"] < np.log(len(TOKENIZER))
    assert json.loads((output / "training.json").read_text()) == report
    first = (output / "model.safetensors").read_bytes()
    resumed = train()
    assert any("tower: continues at step 100 of 100" in line for line in lines)
    assert (output / "model.safetensors").read_bytes() == first
    assert resumed["accuracy"] == report["accuracy"]
    with pytest.raises(ValueError, match="enormous"):
        train_reference_vlm(output, cache, budget="enormous", progress=lines.append)


def test_evaluation_counts_questions_of_every_kind(saved: Path) -> None:
    report = evaluate_reference_vlm(saved, frames=4, seed=1)
    assert set(report) == {"rendered", "video", "blind"}
    for table in report.values():
        assert table["existence"]["questions"] == 4
        assert table["all"]["questions"] == sum(table[kind]["questions"] for kind in table if kind != "all")
        assert all(0 <= row["accuracy"] <= 1 for row in table.values())
