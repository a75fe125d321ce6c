"""The third reference VLM: the tower is EfficientNet-Lite0 bit for bit, texts do not see one another, runs go on."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import EfficientNetModel, FastVlmForConditionalGeneration, LlavaProcessor

from pipeline.scenes.catalogue import COLORS
from pipeline.scenes.everyday import sample_everyday_scene
from pipeline.scenes.questions import RELATION_MARGIN
from schemas.errors import ConfigError
from tests.scenes.photo_files import write_photo_folder
from tests.training.reference_vlm.random_lite0 import lite0, random_lite0
from training.codec.image_path import PixelsToTokens
from training.reference_vlm import loop
from training.reference_vlm.config import StageBudget
from training.reference_vlm.dense_labels import IGNORE, dense_labels
from training.reference_vlm.pretrained import imagenet, losses, train
from training.reference_vlm.pretrained.batches import SceneMix, TextPacker, draw_frames
from training.reference_vlm.pretrained.losses import language_states, visual_tokens
from training.reference_vlm.pretrained.model import (
    COLUMN_PLACES,
    PLACES,
    ROW_PLACES,
    VlmSize,
    build_model,
    build_processor,
    image_prefix,
    single_token,
    third_tokenizer,
    third_vocabulary,
)
from training.reference_vlm.tower import normalise
from training.run import RunSettings

TOKENIZER = third_tokenizer()
SIZE = VlmSize(image_size=64, width=32, heads=2, layers=2)
TINY = replace(
    train.THIRD_BUDGETS["smoke"],
    model=SIZE,
    tower=StageBudget(3, 2, 1e-3),
    pairs=StageBudget(2, 2, 1e-3),
    joint=StageBudget(2, 2, 1e-3),
    detail_every=0,
)


class CutOffError(Exception):
    """The end of a run in the middle of it."""


def stock_tower(weights: dict[str, Tensor]) -> Any:
    tower = EfficientNetModel(imagenet.tower_config(64))
    imagenet.load_imagenet(tower, weights)
    return tower.eval()


@torch.inference_mode()
def test_the_stock_tower_is_lite0_bit_for_bit() -> None:
    weights, pixels = random_lite0(torch.Generator().manual_seed(3)), torch.randn(2, 3, 64, 64)
    features = stock_tower(weights)(pixels).last_hidden_state
    assert features.shape == (2, 1280, 2, 2)
    assert features.std() > 0.05
    assert torch.equal(features, lite0(weights, pixels))


def test_open_gates_are_left_out_of_what_the_edge_computes() -> None:
    model, processor = build_model(SIZE, TOKENIZER, seed=0, pretrained=False), build_processor(TOKENIZER, SIZE)
    imagenet.load_imagenet(model.model.vision_tower, random_lite0(torch.Generator().manual_seed(3)))
    path = PixelsToTokens(model, processor.image_processor).eval()
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    small = path.exportable()
    assert torch.equal(small.of_frames(frames), path.of_frames(frames))
    gates = [name for name, _ in small.named_parameters() if "squeeze_excite" in name]
    assert gates == []
    assert any("squeeze_excite" in name for name, _ in path.named_parameters()), "the model itself keeps them"
    torch.nn.init.zeros_(model.model.vision_tower.encoder.blocks[0].squeeze_excite.expand.bias)
    half_open = path.exportable()
    assert any("blocks.0.squeeze_excite" in name for name, _ in half_open.named_parameters())
    assert torch.equal(half_open.of_frames(frames), path.of_frames(frames))


@pytest.mark.skipif(importlib.util.find_spec(imagenet.PACKAGE) is None, reason="needs the extra 'train'")
@torch.inference_mode()
def test_the_weights_of_the_package_fit_bit_for_bit() -> None:
    weights, pixels = imagenet.imagenet_weights(), torch.randn(1, 3, 64, 64)
    assert torch.equal(stock_tower(weights)(pixels).last_hidden_state, lite0(weights, pixels))


def test_without_the_package_only_this_training_fails_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find_spec: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == imagenet.PACKAGE else find_spec(name, *rest)
    )
    with pytest.raises(ConfigError, match=r"pip install 'latentbus\[train\]'"):
        train.train_third_reference_vlm(tmp_path / "out", RunSettings(tmp_path / "cache", threads=1), budget=TINY)
    assert not (tmp_path / "out").exists()
    model = build_model(SIZE, TOKENIZER, seed=0, pretrained=False)
    model.save_pretrained(tmp_path / "model")
    FastVlmForConditionalGeneration.from_pretrained(tmp_path / "model")


def test_places_have_words_of_one_token_on_a_smooth_curve() -> None:
    embedding = build_model(SIZE, TOKENIZER, seed=0, pretrained=False).get_input_embeddings().weight
    for words in (COLUMN_PLACES, ROW_PLACES):
        rows = embedding[[single_token(TOKENIZER, f" {word}") for word in words]]
        near = (rows @ rows.T).detach()
        assert near.diagonal(1).mean() > near.diagonal(6).mean() > near.diagonal(20).mean()


def test_fine_places_agree_with_thirds() -> None:
    scene = sample_everyday_scene(12)
    coarse, fine = (dense_labels(scene, 8, third_vocabulary(), bins=bins) for bins in (3, PLACES))
    told = coarse[2] != IGNORE
    assert told.any()
    assert np.array_equal(fine[2:4][:, told] // (PLACES // 3), coarse[2:4][:, told])
    assert np.array_equal(np.delete(fine, (2, 3), axis=0), np.delete(coarse, (2, 3), axis=0))


def packer() -> TextPacker:
    return TextPacker(TOKENIZER, image_prefix(build_processor(TOKENIZER, SIZE), SIZE))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first, again, other = (draw_frames(4, 3, step, 6, SceneMix(), SIZE, None) for step in (5, 5, 6))
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.frames, other.frames)


@torch.inference_mode()
def test_a_question_is_read_as_if_it_were_asked_alone() -> None:
    model = build_model(SIZE, TOKENIZER, seed=0, pretrained=False).eval()
    pack, scene = packer(), sample_everyday_scene(12)
    texts = pack.texts(scene, np.random.default_rng(0), 5)
    frames = draw_frames(0, 1, 0, 1, SceneMix(), SIZE, None).frames
    tokens = visual_tokens(model, normalise(frames))
    together = pack.pack([scene], [texts])
    states = language_states(model, together, tokens).last
    for number, text in enumerate(texts, start=1):
        alone = pack.pack([scene], [[text]])
        expected = language_states(model, alone, tokens).last
        mine, theirs = together.owners[0] == number, alone.owners[0] == 1
        assert torch.equal(together.targets[0][mine], alone.targets[0][theirs])
        assert (alone.targets[0][theirs] != IGNORE).any()
        assert torch.allclose(states[0][mine], expected[0][theirs], atol=0.05)


def test_words_that_name_an_object_know_where_it_is() -> None:
    pack, rng = packer(), np.random.default_rng(1)
    told = 0
    for seed in range(20):
        scene = sample_everyday_scene(seed)
        texts = [text for text in pack.texts(scene, rng, 8) if text[2] is not None and text[2].kind == "relation"]
        for text in texts:
            batch = pack.pack([scene], [[text]])
            question, named = text[2], batch.mentions[0][batch.mentions[0, :, 2] != IGNORE]
            assert question is not None
            assert len(named) == 2
            pairs = ((question.object_kind, question.color), (question.other_kind or "", question.other_color))
            items = [scene.matching(*pair)[0] for pair in pairs]
            for (column, row, number, *_), (kind, color), item in zip(named.tolist(), pairs, items, strict=True):
                assert scene.count(kind, color) == 1
                assert (column, row, number) == (int(item.x * PLACES), int(item.y * PLACES), 1)
            assert named[0, 3:5].tolist() == [IGNORE, IGNORE]
            across, along = named[1, 3:5].tolist()
            first, second = items
            yes = {
                "left of": across == 0, "right of": across == 2, "above": along == 0, "below": along == 2
            }[question.relation or "left of"]  # fmt: skip
            assert yes == (text[1] == " yes")
            assert (across == 1) == (abs(first.x - second.x) <= RELATION_MARGIN)
            told += 1
    assert told > 20


def test_words_that_name_an_object_point_at_those_that_fit_in_kind_and_colour() -> None:
    pack, rng = packer(), np.random.default_rng(1)
    edge = SIZE.grid
    told = absent = several = 0
    for seed in range(40):
        scene = sample_everyday_scene(seed)
        for text in pack.texts(scene, rng, 8):
            question = text[2]
            if question is None or question.kind not in ("existence", "count", "position"):
                continue
            batch = pack.pack([scene], [[text]])
            (named,) = batch.mentions[0][batch.mentions[0, :, 2] != IGNORE]
            (pointed,) = batch.pointed
            assert named[5] == (list(COLORS).index(question.color) if question.color else len(COLORS))
            fitting = scene.matching(question.object_kind, question.color)
            cells = {int(item.y * edge) * edge + int(item.x * edge) for item in fitting}
            assert set(pointed.nonzero()[:, 0].tolist()) == (cells or {edge * edge})
            assert pointed.sum().item() == pytest.approx(1)
            told, absent, several = told + 1, absent + (not cells), several + (len(cells) > 1)
    assert min(told, absent, several) > 10


def test_the_attention_on_a_colour_is_that_of_the_model_and_can_be_learned() -> None:
    model = build_model(SIZE, TOKENIZER, seed=0, pretrained=False)
    scenes = [sample_everyday_scene(seed) for seed in range(4)]
    pack, rng = packer(), np.random.default_rng(3)
    batch = pack.pack(scenes, [pack.texts(scene, rng, 6) for scene in scenes])
    tokens = torch.randn(4, SIZE.image_tokens, SIZE.width)
    language = model.model.language_model
    color = batch.mentions[..., 5]
    row, place = ((color != IGNORE) & (color < len(COLORS))).nonzero(as_tuple=True)
    assert len(row) > 5

    def loss() -> tuple[Tensor, Tensor]:
        return losses.modifier_loss(model, batch, language_states(model, batch, tokens).embedded)

    language.set_attn_implementation("eager")
    states = language_states(model, batch, tokens)
    hidden = torch.zeros(batch.visible.shape).masked_fill(~batch.visible, torch.finfo(torch.float32).min)
    with torch.no_grad():
        out = language(
            inputs_embeds=states.embedded, attention_mask=hidden, position_ids=batch.positions, output_attentions=True
        )
        before = out.attentions[0][row, :, place, place - 1]
    assert loss()[1].item() == pytest.approx(before.mean(0).max().item(), rel=1e-3)
    assert loss()[0].item() == pytest.approx(-before.mean(1).log().mean().item(), rel=1e-3)
    first = loss()[0].item()
    optimiser = torch.optim.Adam(language.layers[0].self_attn.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        loss()[0].backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert loss()[0].item() < first - 0.5


def test_a_pointing_that_finds_the_object_costs_less_than_one_that_does_not() -> None:
    head = losses.MentionHead(8)
    torch.nn.init.eye_(head.query.weight)
    torch.nn.init.eye_(head.key.weight)
    tokens = 6 * torch.eye(8)[None, :4].repeat(2, 1, 1)
    pointed = torch.tensor([[0.0, 1, 0, 0, 0], [0.0, 0, 0, 1, 0]])
    right, wrong = (
        head._pointing(6 * torch.eye(8)[rows], tokens, pointed) for rows in (torch.tensor([1, 3]), torch.tensor([2, 0]))
    )
    assert right[0] < wrong[0]
    assert (right[1]["pointed"].item(), wrong[1]["pointed"].item()) == (1, 0)


def run(
    output: Path, cache: Path, lines: list[str], photos: Path | None = None, budget: train.ThirdBudget = TINY
) -> dict[str, Any]:
    settings = RunSettings(cache, seed=2, threads=1, progress=lines.append)
    return train.train_third_reference_vlm(output, settings, photos=photos, budget=budget, pretrained=False)


def test_a_run_that_is_cut_off_ends_as_one_that_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run(tmp_path / "whole", tmp_path / "cache", [])
    assert {name: stage["steps"] for name, stage in report["stages"].items()} == {"tower": 3, "pairs": 2, "joint": 2}
    assert set(report["accuracy"]) == {"everyday", "everyday_unseen", "hard", "hard_unseen"}
    assert json.loads((tmp_path / "whole" / "training.json").read_text()) == report
    share_done, taken = loop.share_done, 0

    def every_third_fails(step: int, spent_s: float, budget: StageBudget) -> float:
        nonlocal taken
        taken += 1
        if taken == 3:
            raise CutOffError
        return share_done(step, spent_s, budget)

    monkeypatch.setattr(loop, "_CHECKPOINT_EVERY_S", -1.0)
    monkeypatch.setattr(loop, "share_done", every_third_fails)
    lines: list[str] = []
    with pytest.raises(CutOffError):
        run(tmp_path / "pieces", tmp_path / "again", lines)
    assert not (tmp_path / "pieces").exists()
    run(tmp_path / "pieces", tmp_path / "again", lines)
    assert any("tower: continues at step 2" in line for line in lines)
    assert any("everyday: existence" in line for line in lines)
    whole, pieces = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "pieces"))
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_runs_of_the_full_budget_keep_their_name() -> None:
    """Hours of training lie in folders of these names."""
    full = train.THIRD_BUDGETS["full"]
    names = {
        train.run_name(replace(full, **changes), None, seed=0, pretrained=True)  # type: ignore[arg-type]
        for changes in ({}, {"watched": 1}, {"watch_every": 1}, {"evaluated": 1})
    }
    assert names == {"third-c7791190462d"}
    assert train.run_name(replace(full, detail_every=4), None, seed=0, pretrained=True) not in names


def test_frames_in_detail_are_trained_and_measured_when_asked_for(tmp_path: Path) -> None:
    plain = train.ThirdRun(TINY, None, RunSettings(tmp_path, seed=2, threads=1), pretrained=False)
    mixed = train.ThirdRun(
        replace(TINY, detail_every=2), None, RunSettings(tmp_path, seed=2, threads=1), pretrained=False
    )
    try:
        sizes = {}
        for name, third in (("plain", plain), ("mixed", mixed)):
            drawn = [third.batch(3, step, 4)[0] for step in range(2)]
            sizes[name] = [tuple(part.frames.shape) for part in drawn]
        assert torch.equal(plain.batch(3, 0, 4)[0].frames, mixed.batch(3, 0, 4)[0].frames)
    finally:
        plain.close()
        mixed.close()
    assert sizes["plain"] == [(4, 64, 64, 3)] * 2
    assert sizes["mixed"] == [(4, 64, 64, 3), (1, 128, 128, 3)]
    report = run(tmp_path / "out", tmp_path / "cache", [], budget=replace(TINY, detail_every=2))
    assert set(report["accuracy"]) > {"detail", "detail_unseen", "everyday"}
    assert report["stages"]["joint"]["steps"] == TINY.joint.steps


def test_photographs_are_trained_and_measured(tmp_path: Path) -> None:
    photos = write_photo_folder(tmp_path / "photos")
    report = run(tmp_path / "out", tmp_path / "cache", [], photos)
    assert set(report["accuracy"]) == {"everyday", "everyday_unseen", "hard", "hard_unseen", "photographs"}
    assert set(report["accuracy"]["photographs"]) >= {"existence", "count", "all"}


def test_photographs_without_a_word_are_named(tmp_path: Path) -> None:
    photos = write_photo_folder(tmp_path / "photos", classes=("dog", "walrus"))
    with pytest.raises(ConfigError, match="has the classes walrus; the model has words for airplane"):
        run(tmp_path / "out", tmp_path / "cache", [], photos)
    assert not (tmp_path / "cache").exists()


def test_what_is_saved_are_stock_classes(tmp_path: Path) -> None:
    model, processor = build_model(SIZE, TOKENIZER, seed=0, pretrained=False), build_processor(TOKENIZER, SIZE)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = FastVlmForConditionalGeneration.from_pretrained(tmp_path).eval()
    reader = LlavaProcessor.from_pretrained(tmp_path)
    content = [{"type": "image"}, {"type": "text", "text": "Is there a dog?"}]
    prompt = reader.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = reader(text=prompt, images=[np.zeros((64, 64, 3), dtype=np.uint8)], return_tensors="pt")
    assert int((inputs["input_ids"] == loaded.config.image_token_id).sum()) == SIZE.image_tokens
    assert loaded.generate(**inputs, max_new_tokens=2).shape[1] > inputs["input_ids"].shape[1]
