"""Statistics of visual tokens, part by part, and a KLT whose covariance has no room in memory as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from schemas.errors import StateError
from training.codec import chunks
from training.codec.fit.klt import fit_klt
from training.codec.token_statistics import TokenStatistics


def drawn(frames: int, count: int, dim: int) -> Tensor:
    """Correlated values about a mean far from zero."""
    generator = torch.Generator().manual_seed(frames)
    mixed = torch.randn(frames, count, dim, generator=generator) @ torch.randn(dim, dim, generator=generator)
    return mixed + 40 * torch.randn(count, dim, generator=generator)


@pytest.mark.parametrize("part", [1, 7, 50])
def test_parts_give_what_the_whole_gives(part: int) -> None:
    tokens = drawn(50, 6, 9)
    statistics = TokenStatistics(6, 9)
    for start in range(0, 50, part):
        statistics.update(tokens[start : start + part])
    centred = (tokens - tokens.mean(0)).double()
    torch.testing.assert_close(statistics.mean, tokens.mean(0))
    rows = torch.einsum("fnd,fmd->nm", centred, centred).float()
    columns = torch.einsum("fnd,fne->de", centred, centred).float()
    torch.testing.assert_close(statistics.rows, rows, rtol=1e-3, atol=0.5)
    torch.testing.assert_close(statistics.columns, columns, rtol=1e-3, atol=0.5)
    assert statistics.variance == pytest.approx(float(centred.square().mean()), rel=1e-4)
    assert statistics.frames == 50


def test_tokens_that_are_alike_or_not_finite_are_refused() -> None:
    statistics = TokenStatistics(2, 3)
    statistics.update(torch.ones(4, 2, 3))
    with pytest.raises(StateError, match="the tower sees nothing"):
        statistics.deviation()
    statistics.update(torch.full((1, 2, 3), torch.nan))
    with pytest.raises(StateError, match="standard deviation nan"):
        statistics.deviation()


def test_a_codec_fitted_in_small_parts_of_a_file_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = drawn(60, 8, 12).half()
    whole = fit_klt(tokens, 8, 6, step=0.2, planes=1)
    np.save(tmp_path / "tokens.npy", tokens.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "tokens.npy", mmap_mode="c"))
    monkeypatch.setattr(chunks, "_MOST_VALUES", 5 * 8 * 12)
    assert [len(part) for part in chunks.chunks_of(mapped)] == [5] * 12
    parts = fit_klt(mapped, 8, 6, step=0.2, planes=1)
    # Sums of parts round otherwise: bases agree, and nearly all symbols.
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-4, atol=1e-3)
    assert (parts.encode(tokens.float()) != whole.encode(tokens.float())).float().mean() < 0.02


def test_a_codec_of_thousands_of_positions_forms_no_covariance_of_all_values() -> None:
    """Of 1,536 x 64 values it would take 39 GB."""
    tokens = torch.randn(6, 1_536, 64, generator=torch.Generator().manual_seed(0)) * torch.linspace(3, 0.1, 64)
    klt = fit_klt(tokens, 8, 16, step=0.5)
    values = torch.full((6,), 8)
    decoded = klt.synthesise(klt.encode(tokens).float(), values)
    assert (decoded - tokens).square().mean() < (tokens - tokens.mean(0)).square().mean()
