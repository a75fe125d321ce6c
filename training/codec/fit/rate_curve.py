"""Rate against quality along the prefixes, in a form that is fast enough for every variant of an ablation.

Bytes are code lengths under tables that are fitted on other frames (real chunks are within a byte of them); agreement
is that of the greedy answers' first tokens with the uncompressed ones'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from pipeline.codec.tables import FrequencyTables
from pipeline.codec.transform_torch import LatentTransform
from training.codec.chunks import chunks_of, frames_at_once
from training.codec.fit.language_view import AnswerView
from training.codec.fit.material import Material

_SUPPORT = 15
_BATCH = 128


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Means over frames at one prefix length.

    Attributes:
        latents: Prefix length.
        payload_bytes: Code length.
        error: Feature error over the tokens' variance.
        cosine: Mean cosine between decoded and true tokens.
        agreement: Share of questions whose answer begins as the uncompressed tokens' does.
        agreement_by_kind: The same for each kind of question.
    """

    latents: int
    payload_bytes: float
    error: float
    cosine: float
    agreement: float
    agreement_by_kind: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, rounded."""
        return {
            "latents": self.latents,
            "payload_bytes": round(self.payload_bytes, 2),
            "error": round(self.error, 5),
            "cosine": round(self.cosine, 5),
            "agreement": round(self.agreement, 4),
            "agreement_by_kind": {name: round(value, 4) for name, value in self.agreement_by_kind.items()},
        }


@torch.no_grad()
def rate_curve(
    transform: LatentTransform,
    table_tokens: Tensor,
    held_out: Material,
    view: AnswerView,
    *,
    points: int = 8,
) -> list[CurvePoint]:
    """Measure a codec at prefixes that are evenly spaced in the logarithm of their bytes.

    Args:
        transform: Of the codec, in evaluation mode, on the view's device.
        table_tokens: Visual tokens that tables are fitted on [F, N, D]; may lie elsewhere.
        held_out: Other frames, with questions and the model's own answers; tokens may lie elsewhere.
        view: Of the frozen model.
        points: Prefix lengths that are measured, the whole latent among them.
    """
    device = view.device
    tables = FrequencyTables.fit(_symbols(transform, table_tokens, device).cpu().numpy(), _SUPPORT)
    tokens = held_out.tokens[held_out.frames.to(held_out.tokens.device)]
    symbols = _symbols(transform, tokens, device)
    batch = frames_at_once(tokens[0].numel(), _BATCH)
    bits = tables.symbol_bits(symbols.cpu().numpy(), 0, transform.latent_count).sum(2).mean(0)
    size = np.cumsum(bits) / 8
    mean = table_tokens.float().mean(0)
    variance = float((tokens.float() - mean).square().mean())
    asked = held_out.questions.asked.cpu().numpy()
    names = held_out.kind_names()
    found = []
    for length in _log_spaced(size, points):
        error, cosine, agreed = 0.0, 0.0, []
        for start in range(0, len(tokens), batch):
            rows = torch.arange(start, min(start + batch, len(tokens)), device=device)
            true = tokens[start : start + batch].to(device).float()
            decoded = transform.synthesise(symbols[rows].float(), torch.full_like(rows, length))
            error += float((decoded - true).square().mean((1, 2)).sum())
            cosine += float(nnf.cosine_similarity(decoded, true, dim=-1).mean(1).sum())
            same = view.agreement(decoded, held_out.questions.of(rows), held_out.reference.of(rows))
            agreed.append(same.cpu().numpy())
        same_all: NDArray[np.bool_] = np.concatenate(agreed)
        found.append(
            CurvePoint(
                latents=length,
                payload_bytes=float(size[length - 1]),
                error=error / len(tokens) / variance,
                cosine=cosine / len(tokens),
                agreement=float(same_all[asked].mean()),
                agreement_by_kind={
                    str(name): float(same_all[asked & (names == name)].mean()) for name in np.unique(names[asked])
                },
            )
        )
    return found


def bytes_at(curve: Sequence[CurvePoint], agreement: float) -> float | None:
    """Bytes at which a curve first reaches an agreement, interpolated; None when it never does."""
    before: CurvePoint | None = None
    for point in curve:
        if point.agreement >= agreement:
            if before is None or point.agreement == before.agreement:
                return point.payload_bytes
            share = (agreement - before.agreement) / (point.agreement - before.agreement)
            return before.payload_bytes + share * (point.payload_bytes - before.payload_bytes)
        before = point
    return None


def _symbols(transform: LatentTransform, tokens: Tensor, device: torch.device) -> Tensor:
    return torch.cat([transform.encode(part.to(device).float()) for part in chunks_of(tokens, _BATCH)])


def _log_spaced(size: NDArray[np.float64], points: int) -> list[int]:
    """Prefix lengths of about evenly spaced logarithms of their sizes [K], the whole latent last."""
    targets = np.geomspace(size[0], size[-1], points)
    lengths = {int(np.abs(np.log(size / target)).argmin()) + 1 for target in targets[:-1]}
    return [*sorted(lengths - {len(size)}), len(size)]
