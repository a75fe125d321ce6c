"""Training of the learned codec: rate, the language model's view, progress over the KLT, resumption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cloud_workers.inference.registry import family_of
from pipeline.codec.klt_torch import KltTransform, LatentShape
from pipeline.codec.prefix_decoder_torch import read_transform, save_transform
from pipeline.codec.tables import FrequencyTables
from pipeline.codec.transform_torch import LatentTransform
from schemas.errors import ConfigError
from tests.cloud.tiny_models import TOKEN_COUNT, TOKEN_DIM, tiny_smolvlm
from tests.codec.synthetic import separable_tokens
from training.codec.config import CodecBudget
from training.codec.fit.klt import fit_klt
from training.codec.fit.language_view import LanguageView, Questions, Reference
from training.codec.fit.material import LearningSet, Material, ask
from training.codec.fit.meta import MetaTrainer, StepParts, draw_prefix_lengths, start_meta
from training.codec.fit.rate import RateModel, prefix_prices
from training.codec.prefixes import encode_all, even_ladder
from training.run import silent

LATENTS, WIDTH = 6, 8
BUDGET = CodecBudget(
    latent_count=LATENTS,
    latent_dim=WIDTH,
    encoder_width=16,
    decoder_width=32,
    decoder_layers=1,
    steps=120,
    batch=32,
    learning_rate=3e-3,
    planes=1,
    target_bytes=9.0,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and lose much to waiting for them on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rate_and_error(transform: LatentTransform, tokens: Tensor, length: int) -> tuple[float, float]:
    """Mean bits of a prefix under its own tables, and the mean squared error."""
    symbols = encode_all(transform, tokens)
    bits = FrequencyTables.fit(symbols, 15).symbol_bits(symbols[:, :length], 0, length).sum() / len(tokens)
    with torch.no_grad():
        decoded = transform.synthesise(torch.from_numpy(symbols).float(), torch.full((len(tokens),), length))
    return float(bits), float((decoded - tokens).square().mean())


def unasked(tokens: Tensor) -> Material:
    """Frames that nothing is asked about."""
    none = torch.zeros(0, 1, dtype=torch.long)
    questions = Questions(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long), none, none == 0)
    answers = none[:, :, None]
    reference = Reference(answers[:, :, :0], answers, answers == 0, answers[..., None], answers[..., None].float())
    return Material(tokens.half(), (0,), none[:, 0], questions, reference, (), none)


def trainer_of(tokens: Tensor, budget: CodecBudget, *, seed: int = 0, klt: KltTransform | None = None) -> MetaTrainer:
    klt = klt or fit_klt(tokens, LATENTS, WIDTH, step=0.6, planes=budget.planes)
    model = start_meta(klt, tokens, budget, seed=seed)
    return MetaTrainer(model, unasked(tokens), None, prefix_prices(klt, tokens), budget, seed=0)


def test_training_beats_the_klt_at_every_prefix_in_rate_and_error(tmp_path: Path) -> None:
    """On tokens whose structure is beyond a linear code, in seconds."""
    tokens, others = separable_tokens(1000, seed=1, sparse=True), separable_tokens(500, seed=2, sparse=True)
    klt = fit_klt(tokens, LATENTS, WIDTH, target_bytes=12.0, planes=BUDGET.planes)
    trainer = trainer_of(tokens, BUDGET, klt=klt)
    trainer.run(tmp_path / "meta.pt", silent)
    sizes, errors = zip(*(rate_and_error(klt, others, length) for length in range(1, LATENTS + 1)), strict=True)
    for length in range(2, LATENTS + 1):
        bits, error = rate_and_error(trainer.model, others, length)
        assert error < np.interp(bits, sizes, errors), f"no better than the closed form at {bits:.0f} bits"


def test_whole_latents_are_held_at_the_target(tmp_path: Path) -> None:
    tokens = separable_tokens(600, seed=1)
    for target in (8.0, 11.0):
        klt = fit_klt(tokens, LATENTS, WIDTH, target_bytes=1.25 * target)
        trainer = trainer_of(tokens, replace(BUDGET, target_bytes=target, steps=200), klt=klt)
        figures = trainer.run(tmp_path / f"{target}.pt", silent)
        assert figures["whole_bytes"] == pytest.approx(target, rel=0.12)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quantiser": "noise"},
        {"planes": 0, "rate": "flat"},
        {"planes": 0, "quantiser": "noise"},
        {"full_share": 1.0},
    ],
    ids=str,
)
def test_every_choice_trains_and_survives_the_disk(changes: dict[str, Any], tmp_path: Path) -> None:
    tokens = separable_tokens(200, seed=1, sparse=True)
    trainer = trainer_of(tokens, replace(BUDGET, steps=25, **changes))
    symbols = trainer.model.encode(tokens).float()
    prefixes = torch.arange(len(tokens)) % (LATENTS + 1)
    with torch.no_grad():
        before = float((trainer.model.synthesise(symbols, prefixes) - tokens).square().mean())
    trainer.run(tmp_path / "meta.pt", silent)
    save_transform(trainer.model, tmp_path / "codec.safetensors")
    shape = LatentShape(tokens.shape[1], tokens.shape[2], LATENTS, WIDTH)
    stored = read_transform(tmp_path / "codec.safetensors", "meta_autoencoder", shape)
    symbols = stored.encode(tokens).float()
    decoded = stored.synthesise(symbols, prefixes)
    assert torch.isfinite(decoded).all()
    assert float((decoded - tokens).square().mean()) < 1.05 * before
    disturbed = torch.where(stored.in_prefix(prefixes), symbols, 7.0)
    torch.testing.assert_close(stored.synthesise(disturbed, prefixes), decoded, atol=0, rtol=0)


def test_a_resumed_training_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    tokens = separable_tokens(300, seed=3)
    budget = replace(BUDGET, steps=30, batch=4, encoder_width=8, decoder_width=8)
    unbroken = trainer_of(tokens, budget)
    unbroken.run(tmp_path / "unbroken.pt", silent)
    trainer_of(tokens, budget).run(tmp_path / "broken.pt", silent, stop=17)
    resumed = trainer_of(tokens, budget, seed=5)
    assert resumed.resume(tmp_path / "broken.pt")
    assert resumed.step == 17
    resumed.run(tmp_path / "broken.pt", silent)
    for name, value in unbroken.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_a_limit_of_time_draws_the_schedule_in(tmp_path: Path) -> None:
    trainer = trainer_of(separable_tokens(100, seed=3), replace(BUDGET, steps=10**9, max_seconds=0.5))
    trainer.run(tmp_path / "meta.pt", silent)
    assert trainer.progress == 1
    assert 0 < trainer.step < 10**6
    assert trainer.spent_s < 5


def test_prices_are_what_a_bit_takes_off_the_error_of_decoded_prefixes() -> None:
    tokens = separable_tokens(500, seed=3)
    klt = fit_klt(tokens, LATENTS, WIDTH, step=0.6, planes=1)
    prices = prefix_prices(klt, tokens)
    assert (prices.diff() <= 0).all()
    symbols = klt.encode(tokens).float()
    variance = (tokens - klt.mean).square().mean()
    errors = torch.tensor(
        [
            float((klt.synthesise(symbols, torch.full((len(tokens),), length)) - tokens).square().mean() / variance)
            for length in range(LATENTS + 1)
        ]
    )
    rate = RateModel(LATENTS, WIDTH)
    rate.observe(symbols, momentum=0.0)
    bits = rate.bits(symbols, torch.zeros(())).mean(0).sum(1)
    # Prices are those of the cheapest latent so far, so that a dear one behind does not raise them again.
    expected = (-errors.diff() / bits).cummin(0).values
    torch.testing.assert_close(prices[1:], expected, rtol=0.02, atol=1e-6)
    assert prices[0] == prices[1]


def test_rate_model_follows_the_entropy_of_what_it_sees() -> None:
    rng = np.random.default_rng(0)
    symbols = np.rint(rng.laplace(scale=0.8, size=(20_000, 1, 1))).astype(np.int32)
    rate = RateModel(1, 1)
    values = torch.from_numpy(symbols).float()
    rate.observe(values, momentum=0.0)
    expected = FrequencyTables.fit(symbols, 15).symbol_bits(symbols, 0, 1).mean()
    assert rate.bits(values, torch.zeros(())).mean().item() == pytest.approx(expected, rel=0.02)


def test_rate_pulls_at_coefficients_near_a_decision_only() -> None:
    rate = RateModel(1, 1)
    rate.observe(torch.cat([torch.zeros(99), torch.ones(1)]).reshape(-1, 1, 1), momentum=0.0)
    noise = torch.rand(20_000, 1, 1, generator=torch.Generator().manual_seed(0)) - 0.5

    def pull(value: float) -> float:
        coefficients = torch.full((20_000, 1, 1), value, requires_grad=True)
        rate.bits(coefficients, noise).mean().backward()  # type: ignore[no-untyped-call]
        assert coefficients.grad is not None
        return float(coefficients.grad.sum())

    assert abs(pull(0.0)) < 0.05 * pull(0.6)
    assert pull(-0.6) == pytest.approx(-pull(0.6), rel=0.05)


def test_short_prefixes_are_drawn_often_and_a_share_is_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = draw_prefix_lengths(generator, 20_000, 32, 0.2)
    assert lengths.min() == 1
    assert lengths.max() == 32
    assert 0.18 < (lengths == 32).float().mean() < 0.24
    # Half log-uniform, half uniform: of the former a fifth has one latent, of the latter one in 32.
    assert float((lengths == 1).float().mean()) == pytest.approx(0.09, abs=0.02)


@pytest.fixture(scope="module")
def vlm() -> tuple[Any, Any]:
    return tiny_smolvlm()


QUESTIONS = [["What is this?", "Is it red?"], ["How many are there now?"]]
KINDS = [["a", "b"], ["a"]]


def asked_of(vlm: tuple[Any, Any], tokens: Tensor, texts: Sequence[Sequence[str]] = QUESTIONS) -> Material:
    learning = LearningSet(tokens, texts, KINDS)
    return ask(*vlm, learning, frames=9, questions=2, answer_tokens=2, tiles_per_edge=1)


def test_questions_of_one_frame_do_not_see_each_other(vlm: tuple[Any, Any]) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, TOKEN_COUNT, TOKEN_DIM)
    together = asked_of(vlm, tokens)
    view = LanguageView(vlm[0], together.prefix)
    logits = view.logits(tokens, together.questions, together.reference.answers)
    assert together.questions.asked.tolist() == [[True, True], [True, False]]
    assert together.kind_names().tolist() == [["a", "b"], ["a", ""]]
    # Alone, as workers ask: the model's own forward, with the tokens in place of the image.
    prompts = family_of(vlm[0].config, "tiny").prompts(vlm[0], vlm[1], source="tiny")
    for row, texts in enumerate(QUESTIONS):
        for place, text in enumerate(texts):
            answer = together.reference.answers[row, place]
            ids = torch.tensor([*prompts.prefix, *prompts.suffix(text), *answer.tolist()])[None]
            features = BaseModelOutputWithPooling(pooler_output=[tokens[row]])
            alone = vlm[0](input_ids=ids, mm_encoder_outputs={"image": features}).logits[0, -2:]
            # The view runs in bfloat16.
            torch.testing.assert_close(logits[row, place], alone, atol=0.15, rtol=0.05)
    other = asked_of(vlm, tokens, [["What is this?", "Quite another question?"], QUESTIONS[1]])
    changed = view.logits(tokens, other.questions, other.reference.answers)
    torch.testing.assert_close(changed[0, 0], logits[0, 0], atol=0.15, rtol=0.05)
    assert not torch.allclose(changed[0, 1], logits[0, 1], atol=0.5)


def test_divergence_is_zero_for_equal_tokens_and_leads_back_to_them(vlm: tuple[Any, Any]) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, TOKEN_COUNT, TOKEN_DIM)
    material = asked_of(vlm, tokens)
    view = LanguageView(vlm[0], material.prefix)
    assert view.divergence(tokens, material.questions, material.reference).abs().max() < 1e-4
    assert view.agreement(tokens, material.questions, material.reference).all()
    moved = (tokens + 0.5 * torch.randn_like(tokens)).requires_grad_()
    optimiser = torch.optim.Adam([moved], lr=0.05)
    first = float("inf")
    for step in range(12):
        loss = view.divergence(moved, material.questions, material.reference).sum()
        first = loss.item() if step == 0 else first
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert 0 < loss.item() < 0.6 * first


def test_kinds_that_are_left_out_do_not_count(vlm: tuple[Any, Any], tmp_path: Path) -> None:
    tokens = torch.randn(2, TOKEN_COUNT, TOKEN_DIM)
    whole = asked_of(vlm, tokens)
    whole.save(tmp_path)
    material = Material.load(tmp_path, "cpu").without(("b",))
    view = LanguageView(vlm[0], material.prefix)
    moved = tokens + 0.5 * torch.randn_like(tokens)
    all_kinds = view.divergence(moved, whole.questions, whole.reference)
    some_kinds = view.divergence(moved, material.questions, material.reference)
    assert some_kinds[0, 1] == some_kinds[1, 1] == 0
    assert all_kinds[0, 1] > 0
    torch.testing.assert_close(some_kinds[:, 0], all_kinds[:, 0], atol=1e-3, rtol=1e-3)


def test_ladders_rise_evenly_in_bytes_and_end_with_the_whole() -> None:
    assert even_ladder(np.ones(32), 4) == (8, 16, 24, 32)
    assert even_ladder(np.array([10.0, 5, 2, 1, 1, 1]), 3) == (1, 2, 6)
    assert even_ladder(np.array([100.0, 1, 1]), 3) == (1, 3)
    assert even_ladder(np.ones(1), 5) == (1,)


@pytest.mark.parametrize("parts", [3, 8])
def test_parts_of_a_batch_add_up_to_it(vlm: tuple[Any, Any], parts: int) -> None:
    """Whatever a batch is divided into, each part also of the frames that are asked about."""
    torch.manual_seed(0)
    tokens = torch.randn(40, TOKEN_COUNT, TOKEN_DIM)
    learning = LearningSet(tokens.half(), QUESTIONS * 20, KINDS * 20)
    material = ask(*vlm, learning, frames=40, questions=2, answer_tokens=2)
    klt = fit_klt(tokens, LATENTS, WIDTH, step=0.6, planes=1)
    budget = replace(BUDGET, batch=8, view_frames=4, view_from=0.0)
    view = LanguageView(vlm[0], material.prefix, half=False)
    prices = prefix_prices(klt, tokens)

    def begun(count: int) -> MetaTrainer:
        return MetaTrainer(
            start_meta(klt, tokens, budget, seed=0), material, view, prices, budget, seed=0, parts=StepParts(count)
        )

    whole, divided = begun(1), begun(parts)
    found = []
    for trainer in (whole, divided):
        trainer._generator.manual_seed(3)
        draw = trainer._drawn(viewing=True)
        count = trainer._parts.count
        shares = [trainer._backward(draw.part(number, count)) for number in trainer._parts.mine]
        assert len(shares) == count
        found.append([sum(values) for values in zip(*(share.values() for share in shares), strict=True)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    for name, parameter in whole.model.named_parameters():
        other = divided.model.get_parameter(name)
        assert parameter.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(other.grad, parameter.grad, atol=1e-5, rtol=1e-3)
    with pytest.raises(ConfigError, match="8 frames are not enough for 9 parts"):
        begun(9)


def test_the_processes_of_a_step_share_one_clock_and_one_sum(tmp_path: Path) -> None:
    """The second process takes over what the first one's clock says, and writes no checkpoint."""

    class Second:
        rank, count = 1, 2

        def total(self, values: Tensor) -> Tensor:
            first = values.clone()
            first[-1] = 17.0
            assert values[-1] == 0
            return values + first

    tokens = separable_tokens(60, seed=3)
    klt = fit_klt(tokens, LATENTS, WIDTH, step=0.6, planes=BUDGET.planes)
    model = start_meta(klt, tokens, BUDGET, seed=0)
    trainer = MetaTrainer(
        model, unasked(tokens), None, prefix_prices(klt, tokens), BUDGET, seed=0, parts=StepParts(parallel=Second())
    )
    trainer.run(tmp_path / "meta.pt", silent, stop=1)
    assert trainer.spent_s == 17.0
    assert not (tmp_path / "meta.pt").exists()
    assert trainer.figures["error"] > 0
