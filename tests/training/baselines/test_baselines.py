"""Baselines: features as pictures, merged tokens, image files, and what sends nothing at all."""

from __future__ import annotations

import sys
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.types import AnswerType
from training.baselines import stills
from training.baselines.features import FeatureSetting, best_features, code_features, still_settings, video_settings
from training.baselines.fronts import best_of_each_size, front
from training.baselines.planes import PlanePacking
from training.baselines.still_choice import Criterion, ImageBaseline
from training.baselines.stills import StillCoder, formats, full_grid, missing_formats
from training.baselines.tokens import average_neighbours, merge, round_to_bits, token_baselines, zstd_bytes
from training.baselines.trivial import balanced_weights, constant_answers, first_answers
from training.baselines.video import VideoSetting
from training.codec.data import Asked, AskedFrames
from training.codec.image_path import PixelsToTokens


def smooth_tokens(frames: int, *, views: int = 1, dim: int = 16, seed: int = 0) -> Tensor:
    """Tokens on 4 x 4 grids: channels of falling variance that change slowly over the grid."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randn(frames * views, dim, 2, 2, generator=generator)
    grids = torch.nn.functional.interpolate(corners, size=(4, 4), mode="bilinear", align_corners=True)
    spread = torch.exp(-torch.arange(dim) / 3.0)
    return (grids.flatten(2).transpose(1, 2) * spread).reshape(frames, views * 16, dim)


def relative_error(found: Tensor, tokens: Tensor) -> float:
    return float((found - tokens).square().mean() / (tokens - tokens.mean(0)).square().mean())


@pytest.mark.parametrize("tiles_per_edge", [1, 2])
def test_planes_come_back_as_they_were_but_for_rounding(tiles_per_edge: int) -> None:
    views = 1 if tiles_per_edge == 1 else 5
    tokens, known = smooth_tokens(6, views=views), smooth_tokens(40, views=views, seed=1)
    packing = PlanePacking.fit(known, 16, tiles_per_edge=tiles_per_edge)
    pictures = packing.pack(tokens)
    assert pictures.dtype == np.uint8
    assert not any(edge % 8 for edge in pictures.shape[1:])
    assert pictures.shape[1] * pictures.shape[2] >= 16 * 16 * views
    assert relative_error(packing.unpack(pictures), tokens) < 0.003


def test_fewer_planes_are_smaller_pictures_and_keep_the_largest_variance() -> None:
    tokens, known = smooth_tokens(6), smooth_tokens(40, seed=1)
    areas, errors = [], []
    for channels in (2, 8, 16):
        packing = PlanePacking.fit(known, channels)
        pictures = packing.pack(tokens)
        areas.append(pictures[0].size)
        errors.append(relative_error(packing.unpack(pictures), tokens))
    assert areas == sorted(areas)
    assert errors == sorted(errors, reverse=True)
    # Half of the variance, at the very least, lies in the first two of sixteen such channels.
    assert errors[0] < 0.5


def test_tokens_of_any_number_fit_a_picture() -> None:
    tokens = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(0))
    packing = PlanePacking.fit(tokens, 6)
    assert relative_error(packing.unpack(packing.pack(tokens)), tokens) < 0.01


@pytest.mark.parametrize("coder", [StillCoder("AVIF", 90), StillCoder("JXL", 90), VideoSetting("x265", 6, 2)])
def test_features_that_are_coded_well_are_close_and_cost_bytes(coder: StillCoder | VideoSetting) -> None:
    tokens, known = smooth_tokens(5), smooth_tokens(40, seed=1)
    found = code_features(tokens, FeatureSetting(16, coder), known, starts=(0, 3))
    assert found.tokens.shape == tokens.shape
    assert found.payload_bytes.shape == (5,)
    assert (found.payload_bytes > 0).all()
    assert relative_error(found.tokens, tokens) < 0.05


def test_a_video_of_features_begins_anew_with_each_sequence() -> None:
    tokens, known = smooth_tokens(1).repeat(6, 1, 1), smooth_tokens(40, seed=1)
    found = code_features(tokens, FeatureSetting(16, VideoSetting("SVT-AV1", 40, 0)), known, starts=(0, 3))
    assert found.payload_bytes[3] == found.payload_bytes[0] > 2 * found.payload_bytes[[1, 2, 4, 5]].max()


def test_the_settings_that_are_kept_are_of_many_sizes() -> None:
    tokens, known = smooth_tokens(4), smooth_tokens(40, seed=1)
    kept = best_features(still_settings(16), tokens, known, keep=4)
    sizes = [float(code_features(tokens, setting, known).payload_bytes.mean()) for setting in kept]
    assert 2 <= len(kept) <= 4
    assert sizes == sorted(sizes)
    assert best_features([], tokens, known, keep=4) == []
    assert {setting.channels for setting in video_settings(64, 30)} == {16, 8, 4}


def test_the_best_of_each_size_is_on_the_front() -> None:
    sizes, errors = [10.0, 20.0, 40.0, 80.0, 81.0], [1.0, 2.0, 0.5, 0.1, 0.3]
    assert front(sizes, [-error for error in errors]) == [0, 2, 3]
    assert best_of_each_size(sizes, errors, ranges=7) == [0, 2, 3]
    assert best_of_each_size(sizes, errors, ranges=2) == [0, 3]


def test_merging_joins_what_is_alike_and_gives_it_back() -> None:
    directions = torch.eye(4, 8).repeat(4, 1)[None]
    tokens = directions * torch.linspace(1, 1.2, 16)[None, :, None]
    (whole, places), (means, owner) = merge(tokens, [4, 16])
    torch.testing.assert_close(whole.gather(1, places[..., None].expand(-1, -1, 8)), tokens)
    assert means.shape == (1, 4, 8)
    given_back = means.gather(1, owner[..., None].expand(-1, -1, 8))
    assert (given_back - tokens).abs().max() < 0.11
    # Means of all that they stand for.
    torch.testing.assert_close(given_back.mean(1), tokens.mean(1))


def test_merging_takes_the_pair_that_costs_least_in_each_frame() -> None:
    tokens = torch.tensor([[0.0, 10.0, 1.0, 14.0, 30.0], [0.0, 9.0, 20.0, 9.5, 0.2]])[..., None]
    found = [owner.tolist() for _, owner in merge(tokens, [4, 3, 2])]
    assert found[0] == [[0, 1, 0, 2, 3], [0, 1, 2, 3, 0]]
    assert found[1] == [[0, 1, 0, 1, 2], [0, 1, 2, 1, 0]]
    # In squared error two pairs 11.5 apart cost 132, a pair and one 18 apart 216; in the other frame 84 and 77.
    assert found[2] == [[0, 0, 0, 0, 1], [0, 1, 1, 1, 0]]


def test_neighbours_are_averaged_within_their_view() -> None:
    tokens = torch.arange(5 * 16, dtype=torch.float32).reshape(1, 80, 1)
    found = average_neighbours(tokens, tiles_per_edge=2)
    assert found is not None
    means, spread = found
    assert means.shape == (1, 20, 1)
    assert means[0, 0] == (0 + 1 + 4 + 5) / 4
    assert means[0, 4] == 16 + (0 + 1 + 4 + 5) / 4
    assert spread(means)[0, [0, 5, 16], 0].tolist() == [2.5, 2.5, 18.5]
    assert average_neighbours(tokens[:, :9]) is None
    assert average_neighbours(tokens[:, :7]) is None


def test_fewer_bits_and_less_to_say_are_fewer_bytes() -> None:
    tokens = torch.randn(3, 64, 8, generator=torch.Generator().manual_seed(0))
    eight, four = zstd_bytes(tokens, 8), zstd_bytes(tokens, 4)
    assert (four < eight).all()
    assert (zstd_bytes(torch.zeros_like(tokens), 8) < 30).all()
    assert (round_to_bits(tokens, 4) - tokens).abs().max() <= tokens.abs().max() / 7 / 2 + 1e-6


def test_every_baseline_of_tokens_has_a_size_for_each_frame() -> None:
    tokens = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(0))
    baselines = list(token_baselines(tokens, tokens.mean(0)))
    assert len({baseline.name for baseline in baselines}) == len(baselines)
    for baseline in baselines:
        assert baseline.tokens.shape == tokens.shape
        assert baseline.payload_bytes.shape == (3,)
    few = [baseline.name for baseline in token_baselines(tokens, tokens.mean(0), few=True)]
    assert set(few) < {baseline.name for baseline in baselines}


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "AVIF", "JXL"])
def test_grey_pictures_come_back_grey(name: stills.StillFormat) -> None:
    picture = np.tile(np.linspace(20, 230, 32).astype(np.uint8), (24, 1))
    coder = StillCoder(name, 90)
    shown = coder.decode(coder.encode(picture), grey=True)
    assert shown.shape == picture.shape
    assert np.abs(shown.astype(int) - picture).max() < 24


def test_a_format_that_cannot_be_written_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "JXL" in formats()
    assert missing_formats() == {}
    stills._jpeg_xl.cache_clear()
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    try:
        assert formats() == ("JPEG", "WEBP", "AVIF")
        assert "pip install 'latentbus[baselines]'" in missing_formats()["JXL"]
        assert {setting.format for setting in stills.full_grid(64)} == {"JPEG", "WEBP", "AVIF"}
    finally:
        stills._jpeg_xl.cache_clear()


def test_the_constant_answer_is_the_most_frequent_of_its_kind() -> None:
    kinds = np.array(["a"] * 4 + ["b"] * 3)
    reference = np.array(["no", "no", "yes", "no", "two", "one", "two"])
    assert constant_answers(reference, kinds).tolist() == ["no"] * 4 + ["two"] * 3


def test_the_first_answer_of_each_camera_and_question_stays() -> None:
    reference = np.array(["no", "two", "yes", "two", "yes", "one"])
    groups = np.array(["b dog?", "a how many?", "b dog?", "a how many?", "c dog?", "c how many?"])
    assert first_answers(reference, groups).tolist() == ["no", "two", "no", "two", "yes", "one"]


def test_a_model_that_nearly_always_says_no_is_half_right_when_balanced() -> None:
    kinds = np.array(["a"] * 100)
    reference = np.array(["no"] * 94 + ["yes"] * 6)
    weights = balanced_weights(reference, kinds)
    agrees = constant_answers(reference, kinds) == reference
    assert agrees.mean() == 0.94
    assert weights.sum() == pytest.approx(1)
    assert weights[agrees].sum() == pytest.approx(0.5)


def test_kinds_count_alike_and_rare_answers_together() -> None:
    kinds = np.array(["a"] * 20 + ["b"] * 10)
    reference = np.array(["x"] * 16 + ["y", "z", "z", "v"] + ["only"] * 10)
    weights = balanced_weights(reference, kinds)
    assert weights[:20].sum() == pytest.approx(0.5)
    assert weights[:16].sum() == pytest.approx(0.25)
    assert weights[16:20].tolist() == pytest.approx([0.0625] * 4)
    assert weights[20:].tolist() == pytest.approx([0.05] * 10)
    assert balanced_weights(np.array([], dtype=np.str_), np.array([], dtype=np.str_)).shape == (0,)


class BlockMeans(torch.nn.Module):
    """In place of a vision tower: a token for each block of 8 x 8 pixels."""

    def of_frames(self, frames: NDArray[np.uint8]) -> Tensor:
        pixels = torch.tensor(np.asarray(frames)).float().permute(0, 3, 1, 2)
        return torch.nn.functional.avg_pool2d(pixels, 8).flatten(2).transpose(1, 2)


def test_settings_are_chosen_around_their_targets_with_both_ends_and_every_format() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    data = AskedFrames(frames, tuple(Asked(n, "Is it?", AnswerType.YES_NO, "it", None) for n in range(6)))
    path = BlockMeans()
    tokens = path.of_frames(frames)

    def answer(found: Tensor, asked: AskedFrames) -> NDArray[np.str_]:
        errors = (found - tokens).square().mean(dim=(1, 2)).numpy()
        return np.array([f"{error:.0f}" for error in errors])

    def near(texts: NDArray[np.str_]) -> float:
        return float(1 / (1 + texts.astype(float).mean()))

    baseline = ImageBaseline(cast(PixelsToTokens, path), answer, 1)
    grid = full_grid(64)
    chosen = baseline.choose(
        grid, data, tokens, [Criterion(near, 0.01), Criterion(near, 0.2)], keep=4, progress=lambda _: None
    )
    assert {setting.format for setting in chosen} == {"JPEG", "WEBP", "AVIF", "JXL"}
    assert 4 <= len(chosen) <= 7
    measured = [baseline.measure(setting, data) for setting in chosen]
    sizes = [float(found.payload_bytes.mean()) for found in measured]
    assert sizes == sorted(sizes)
    reached = [near(found.texts) for found in measured]
    every = [near(baseline.measure(setting.at_speed(6), data).texts) for setting in grid]
    assert max(reached) > 0.8 * max(every)
    assert min(abs(value - 0.01) for value in reached) < 0.02
