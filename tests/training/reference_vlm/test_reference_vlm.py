"""The reference VLM: tokenizer, processor, injected tokens, packed training sequences, a tiny training."""

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

from pipeline.scenes.renderer import render
from pipeline.scenes.scene import sample_scene
from tests.scenes.photo_files import write_photo_folder
from training.reference_vlm.config import ModelSize, StageBudget
from training.reference_vlm.degrade import degrade
from training.reference_vlm.dense_labels import IGNORE, dense_labels, views
from training.reference_vlm.evaluate import evaluate_everyday, evaluate_reference_vlm
from training.reference_vlm.loop import learning_rate, share_done
from training.reference_vlm.model import build_model
from training.reference_vlm.mosaics import PhotoMosaics
from training.reference_vlm.sequence import SequenceLayout, answer_loss
from training.reference_vlm.text_blocks import KIND_MIX, QUESTION_SLOT, BlockEncoder
from training.reference_vlm.tokenizer import IMAGE, build_processor, image_prefix, prompt_text, train_tokenizer
from training.reference_vlm.tower import WordGroups, dense_loss, split_views
from training.reference_vlm.vocabulary import Vocabulary

TINY = ModelSize(vision_width=32, vision_heads=2, vision_layers=1, text_width=32, text_heads=2, text_layers=2)
VOCABULARY = Vocabulary.of([("frog", "frogs")])
TOKENIZER = train_tokenizer(VOCABULARY)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_model(TINY, TOKENIZER, seed=3).to(torch.bfloat16).save_pretrained(folder)
    build_processor(TOKENIZER, TINY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(saved: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(saved, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor(saved: Path) -> Any:
    return AutoProcessor.from_pretrained(saved)


def inputs_for(processor: Any, question: str, *, edge: int = 256) -> Any:
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
        add_generation_prompt=True,
    )
    image = Image.fromarray(render(sample_scene(1), edge))
    return processor(text=[prompt], images=[[image]], return_tensors="pt")


@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


def test_the_tokenizer_is_the_same_every_time() -> None:
    assert train_tokenizer(VOCABULARY).get_vocab() == TOKENIZER.get_vocab()


def test_every_word_that_competes_for_a_label_is_one_token() -> None:
    groups = WordGroups.of(TOKENIZER, VOCABULARY, CPU).ids
    assert len(groups["kind"]) == len(VOCABULARY.kinds) + 1
    assert all(len(set(ids.tolist())) == len(ids) for ids in groups.values())


def test_it_loads_as_a_hub_model_does(model: Any, processor: Any) -> None:
    assert type(model) is SmolVLMForConditionalGeneration
    inputs = inputs_for(processor, "Is there a car?")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 64
    assert inputs["pixel_values"].shape == (1, 1, 3, 256, 256)
    assert model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output[0].shape == (64, 32)


@pytest.mark.parametrize("tiles", [False, True])
def test_training_writes_the_prompt_that_the_chat_template_writes(tiles: bool) -> None:
    processor = build_processor(TOKENIZER, TINY, tiles=tiles)
    edge = 512 if tiles else 256
    question = "Where is the blue dog?"
    asked = inputs_for(processor, question, edge=edge)["input_ids"][0].tolist()
    assert asked == [*image_prefix(processor, edge), *TOKENIZER(prompt_text(question))["input_ids"]]
    assert asked.count(TOKENIZER.convert_tokens_to_ids(IMAGE)) == (320 if tiles else 64)


def test_views_are_those_of_the_processor() -> None:
    frame = render(sample_scene(4), 512)
    processor = build_processor(TOKENIZER, TINY, tiles=True)
    expected = processor.image_processor([[Image.fromarray(frame)]], return_tensors="np")["pixel_values"][0]
    ours = split_views(torch.from_numpy(frame)[None], 2)[0].permute(0, 3, 1, 2).float() / 127.5 - 1
    assert ours.shape == expected.shape == (5, 3, 256, 256)
    assert np.abs(ours[:4].numpy() - expected[:4]).max() < 1e-5
    # The whole is reduced in two roundings there and in one here: a grey level at most.
    assert np.abs(ours[4].numpy() - expected[4]).max() < 1.01 / 127.5


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


def layout(slots: int) -> SequenceLayout:
    prefix = image_prefix(build_processor(TOKENIZER, TINY), 256)
    ids = TOKENIZER.convert_tokens_to_ids(IMAGE)
    return SequenceLayout(prefix, [QUESTION_SLOT] * slots, image_id=ids, pad_id=TOKENIZER.pad_token_id, device=CPU)


def test_questions_that_share_a_sequence_do_not_see_one_another(model: Any) -> None:
    blocks = BlockEncoder(TOKENIZER).questions(sample_scene(1), np.random.default_rng(0))
    ids, prompt, length = (
        torch.from_numpy(part.astype(np.int64)) for part in (blocks.ids, blocks.prompt, blocks.length)
    )
    tokens = torch.randn(1, 64, 32)
    with torch.no_grad():
        packed, _ = answer_loss(
            model, layout(3), (ids[None, :3].flatten(1), prompt[None, :3], length[None, :3]), tokens
        )
        losses, weights = [], []
        for row in range(3):
            alone = (ids[None, row], prompt[None, row : row + 1], length[None, row : row + 1])
            losses.append(answer_loss(model, layout(1), alone, tokens)[0].item())
            weights.append(int(length[row] - prompt[row]))
        elsewhere, _ = answer_loss(model, layout(1), alone, -20 * tokens)
    assert packed.item() == pytest.approx(np.average(losses, weights=weights), rel=1e-4)
    assert elsewhere.item() != pytest.approx(losses[-1], rel=1e-4)


def test_targets_are_the_answers_and_their_end() -> None:
    blocks = BlockEncoder(TOKENIZER).questions(sample_scene(1), np.random.default_rng(0))
    ids, prompt, length = (
        torch.from_numpy(part.astype(np.int64)) for part in (blocks.ids, blocks.prompt, blocks.length)
    )
    targets = layout(2).targets(ids[None, :2].flatten(1), prompt[None, :2], length[None, :2])[0]
    for row in range(2):
        said = targets[row * QUESTION_SLOT : (row + 1) * QUESTION_SLOT]
        assert said[said >= 0].tolist() == ids[row, prompt[row] : length[row]].tolist()
        assert TOKENIZER.decode(said[said >= 0]).endswith("<end_of_utterance>")


def test_every_frame_has_all_its_questions() -> None:
    encoder = BlockEncoder(TOKENIZER)
    for seed in range(40):
        blocks = encoder.questions(sample_scene(seed), np.random.default_rng(seed))
        assert blocks.ids.shape == (len(KIND_MIX), QUESTION_SLOT)
        assert (blocks.length > blocks.prompt).all(), "a question does not fit its slot"
        assert encoder.caption(sample_scene(seed, detail=True)).length.all()
        assert encoder.description(sample_scene(seed), np.random.default_rng(0)).length.all()


def test_dense_labels_mark_each_object_at_its_centre() -> None:
    background = len(VOCABULARY.kinds)
    for seed in range(50):
        scene = sample_scene(seed)
        labels = dense_labels(scene, 8, VOCABULARY)
        anchors = labels[4] == 1
        cells = {(int(item.y * 8), int(item.x * 8)) for item in scene.objects}
        assert anchors.sum() == len(cells)
        assert (labels[0][anchors] != background).all()
        assert (labels[1:4, labels[0] == background] == IGNORE).all()
        assert (labels[1:4, labels[0] != background] >= 0).all()


def test_each_object_has_its_centre_in_one_tile() -> None:
    for seed in range(20):
        scene = sample_scene(seed, detail=True)
        tiles = [dense_labels(scene, 8, VOCABULARY, window)[4].sum() for window in views(2)[:4]]
        cells = {(int(item.y * 16), int(item.x * 16)) for item in scene.objects}
        assert sum(tiles) == len(cells)


def test_mosaics_show_photographs_where_their_labels_say() -> None:
    photos = torch.stack([torch.full((32, 32, 3), value, dtype=torch.uint8) for value in (0, 255)])
    mosaics = PhotoMosaics(photos, torch.tensor([3, 7]), background=99, size=256, grid=8)
    generator = torch.Generator().manual_seed(0)
    for choice in range(0, 160, 7):
        pixels, labels = mosaics.draw(4, generator, choice)
        assert pixels.shape == (4, 3, 256, 256)
        assert labels.shape == (4, 6, 64)
        centre = pixels.mean(1)[:, 16::32, 16::32].flatten(1)
        kind, anchor = labels[:, 0], labels[:, 4]
        assert set(kind.flatten().tolist()) <= {3, 7, 99}
        on = anchor == 1
        if choice // 8 % 14 < 4:  # narrow gaps: a token's centre lies on its photograph
            assert (centre[on & (kind == 3)] < 0).all()
            assert (centre[on & (kind == 7)] > 0).all()
        assert (kind[on] != 99).all()


def test_the_dense_loss_falls_when_logits_say_the_labels() -> None:
    groups = WordGroups.of(TOKENIZER, VOCABULARY, CPU).ids
    labels = torch.from_numpy(dense_labels(sample_scene(2), 8, VOCABULARY).reshape(1, 6, -1).astype(np.int64))
    order = {"kind": 0, "plural": 0, "color": 1, "row": 2, "column": 3, "anchor": 4, "moving": 5}
    right = {
        name: 9.0 * torch.nn.functional.one_hot(labels[:, order[name]].clamp(0, len(ids) - 1), len(ids)).float()
        for name, ids in groups.items()
    }
    flat = {name: torch.zeros_like(value) for name, value in right.items()}
    good, figures = dense_loss(right, labels)
    bad, _ = dense_loss(flat, labels)
    assert good < 0.05 < bad
    assert figures["kind"] == figures["color"] == 1


def test_degraded_frames_still_show_the_scene() -> None:
    rng = np.random.default_rng(0)
    frames = [render(sample_scene(seed)) for seed in range(24)]
    degraded = [degrade(frame, rng) for frame in frames]
    differences = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames, degraded, strict=True)]
    assert all(frame.shape == (256, 256, 3) and frame.dtype == np.uint8 for frame in degraded)
    assert max(differences) < 40
    assert 6 <= sum(difference > 0 for difference in differences) < 24


def test_a_schedule_ends_by_steps_or_by_time() -> None:
    budget = StageBudget(100, 8, 1.0, max_seconds=10)
    assert share_done(50, 1.0, budget) == 0.5
    assert share_done(10, 9.0, budget) == 0.9
    assert share_done(10, 90.0, budget) == 1.0
    assert share_done(50, 90.0, StageBudget(100, 8, 1.0)) == 0.5
    rates = [learning_rate(share, budget) for share in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(1.0, rel=0.01)
    assert rates[-1] == pytest.approx(0.02)
    assert 0 < rates[0] < 0.1


def test_evaluation_counts_questions_of_every_kind(saved: Path, tmp_path: Path) -> None:
    photos = write_photo_folder(tmp_path / "photos")
    report = evaluate_reference_vlm(saved, frames=4, photos=photos, seed=1)
    assert set(report) == {"rendered", "held_out_phrasings", "video", "blind", "detail", "photographs"}
    for table in report.values():
        kinds = set(table) - {"all", "negatives", "calibration_error"}
        assert table["existence"]["questions"] == 4
        assert table["all"]["questions"] == sum(table[kind]["questions"] for kind in kinds)
        assert 0 <= table["calibration_error"] <= 1


def test_scenes_of_each_kind_are_asked_the_same_questions_in_both_wordings_and_blind(
    saved: Path, tmp_path: Path
) -> None:
    report = evaluate_everyday(saved, frames=4, photos=write_photo_folder(tmp_path / "photos"), seed=1)
    scenes = [f"{name}{suffix}" for name in ("everyday", "hard", "detail") for suffix in ("", "_unseen", "_blind")]
    assert list(report) == [*scenes, "photographs", "photographs_blind"]
    for name in ("everyday", "hard", "detail"):
        asked = [
            {kind: report[name + suffix][kind]["questions"] for kind in ("existence", "count", "all")}
            for suffix in ("", "_unseen", "_blind")
        ]
        assert asked[0] == asked[1] == asked[2]
        assert asked[0]["existence"] == 4
