"""Training of the learned codec: rate, the language model's view, progress over the KLT, resumption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.codec.meta_autoencoder_torch import MetaAutoEncoder
from pipeline.codec.tables import FrequencyTables
from pipeline.codec.transform_torch import LatentTransform
from tests.cloud.tiny_codec import write_vlm
from tests.cloud.tiny_models import TOKEN_COUNT, TOKEN_DIM, tiny_smolvlm
from tests.codec.synthetic import separable_tokens
from training.codec.config import CodecBudget
from training.codec.folder import encode_all, even_ladder
from training.codec.klt import fit_klt
from training.codec.language_view import LanguageView
from training.codec.meta import Material, draw_prefix_lengths, start_meta, train_meta
from training.codec.rate import RateModel

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
    rate_weight=2.0,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and lose much to waiting for them on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def silent(_: str) -> None:
    """Progress lines have no place in a test run."""


def rate_and_error(transform: LatentTransform, tokens: Tensor, length: int) -> tuple[float, float]:
    """Mean bits of a prefix under its own tables, and the mean squared error."""
    symbols = encode_all(transform, tokens)
    bits = FrequencyTables.fit(symbols, 15).symbol_bits(symbols[:, :length], 0, length).sum() / len(tokens)
    with torch.no_grad():
        decoded = transform.synthesise(torch.from_numpy(symbols).float(), torch.full((len(tokens),), length))
    return float(bits), float((decoded - tokens).square().mean())


def test_training_beats_the_klt_at_every_prefix_in_rate_and_error(tmp_path: Path) -> None:
    """On tokens whose structure is beyond a linear code, in seconds."""
    tokens, others = separable_tokens(1000, seed=1, sparse=True), separable_tokens(500, seed=2, sparse=True)
    klt = fit_klt(tokens, LATENTS, WIDTH, step=0.6)
    model = start_meta(klt, tokens, BUDGET, seed=0)
    material = Material(tokens.half(), [[]] * len(tokens), [])
    train_meta(model, material, None, BUDGET, seed=0, checkpoint=tmp_path / "meta.pt", progress=silent)
    for length in (2, 4, LATENTS):
        klt_bits, klt_error = rate_and_error(klt, others, length)
        bits, error = rate_and_error(model, others, length)
        assert error < klt_error
        assert bits < 1.02 * klt_bits


def test_a_resumed_training_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    tokens = separable_tokens(300, seed=3)
    klt = fit_klt(tokens, LATENTS, WIDTH, step=0.6)
    material = Material(tokens.half(), [[]] * len(tokens), [])
    budget = replace(BUDGET, steps=30, batch=4, encoder_width=8, decoder_width=8)

    def train(name: str, seed: int, stop: int | None = None) -> tuple[MetaAutoEncoder, list[str]]:
        lines: list[str] = []
        model = start_meta(klt, tokens, budget, seed=seed)
        path = tmp_path / name
        train_meta(model, material, None, budget, seed=0, checkpoint=path, progress=lines.append, stop=stop)
        return model, lines

    unbroken, _ = train("unbroken.pt", 0)
    train("broken.pt", 0, stop=17)
    resumed, lines = train("broken.pt", 5)
    assert "continues at step 17 of 30" in lines[0]
    for name, value in unbroken.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=1e-5, rtol=1e-4)


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


def test_prefix_lengths_favour_short_ones_and_keep_whole_ones() -> None:
    lengths = draw_prefix_lengths(np.random.default_rng(0), 20_000, 32, 0.2)
    assert lengths.min() == 1
    assert lengths.max() == 32
    assert 0.18 < (lengths == 32).mean() < 0.24
    shares = [((lengths >= low) & (lengths < 2 * low)).mean() for low in (1, 2, 4, 8, 16)]
    assert max(shares) - min(shares) < 0.03, "not log-uniform"


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> LanguageView:
    folder = write_vlm(tmp_path_factory.mktemp("vlm"))
    model, _ = tiny_smolvlm()
    return LanguageView(model.requires_grad_(False), folder)


QUESTIONS = [["What is this?", "Is it red?"], ["How many are there now?"]]


def test_questions_of_one_pack_do_not_see_each_other(view: LanguageView) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, TOKEN_COUNT, TOKEN_DIM)
    answers = view.greedy_answers(tokens, QUESTIONS)
    packed = view.logits(tokens, view.pack(QUESTIONS, answers))
    count = view.answer_tokens
    alone = torch.cat(
        [
            view.logits(tokens[row : row + 1], view.pack([[text]], [answers[row][index : index + 1]]))
            for row, texts in enumerate(QUESTIONS)
            for index, text in enumerate(texts)
        ]
    )
    assert packed.shape == alone.shape == (3 * count, packed.shape[1])
    # The language model runs in bfloat16.
    torch.testing.assert_close(packed, alone, atol=0.15, rtol=0.05)
    other = view.logits(tokens, view.pack([["What is this?", "Quite another question?"], QUESTIONS[1]], answers))
    torch.testing.assert_close(other[:count], packed[:count], atol=0.15, rtol=0.05)
    assert not torch.allclose(other[count : 2 * count], packed[count : 2 * count], atol=0.5)


def test_divergence_is_zero_for_equal_tokens_and_leads_back_to_them(view: LanguageView) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, TOKEN_COUNT, TOKEN_DIM)
    answers = view.greedy_answers(tokens, QUESTIONS)
    assert float(view.divergence(tokens, tokens, QUESTIONS, answers)) == pytest.approx(0.0, abs=1e-6)
    moved = (tokens + 0.5 * torch.randn_like(tokens)).requires_grad_()
    optimiser = torch.optim.Adam([moved], lr=0.05)
    first = float("inf")
    for step in range(12):
        loss = view.divergence(moved, tokens, QUESTIONS, answers)
        first = loss.item() if step == 0 else first
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert 0 < loss.item() < 0.6 * first


def test_ladders_rise_evenly_in_bytes_and_end_with_the_whole() -> None:
    assert even_ladder(np.ones(32), 4) == (8, 16, 24, 32)
    assert even_ladder(np.array([10.0, 5, 2, 1, 1, 1]), 3) == (1, 2, 6)
    assert even_ladder(np.array([100.0, 1, 1]), 3) == (1, 3)
    assert even_ladder(np.ones(1), 5) == (1,)
