"""The vision tower: pixels to visual tokens, and the dense supervision that teaches it what each token shows.

The classifier of a visual token is the word embeddings themselves: the token of a red car must have a larger dot
product with " red" than with any other colour word, and so on. Visual tokens so speak the language model's language,
which is what makes the language stages short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from transformers import PreTrainedTokenizerFast, SmolVLMForConditionalGeneration

from pipeline.scenes.catalogue import COLORS, COLUMN_WORDS, ROW_WORDS
from training.reference_vlm.dense_labels import IGNORE, LABELS
from training.reference_vlm.vocabulary import (
    ANCHOR_WORD,
    BACKGROUND_WORD,
    MOVING_WORD,
    PART_WORD,
    STILL_WORD,
    Vocabulary,
)

_WEIGHTS: Final = {
    "kind": 1.0, "plural": 0.4, "color": 1.0, "row": 0.3, "column": 0.3, "anchor": 0.6, "moving": 0.5,
}  # fmt: skip
_BACKGROUND_WEIGHT: Final = 0.25
"""Most tokens show background; this keeps it from being most of the loss."""


@dataclass(frozen=True, slots=True)
class WordGroups:
    """Token ids of the words that compete for each label, int64 [words of the group]."""

    ids: dict[str, Tensor]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, device: torch.device) -> WordGroups:
        """Look the words up; each must be one token.

        Raises:
            ValueError: A word is several tokens.
        """
        words = {
            "kind": [*(f" {name}" for name in vocabulary.kinds), BACKGROUND_WORD],
            "plural": [f" {name}" for name in vocabulary.plurals],
            "color": [f" {name}" for name in COLORS],
            "row": [f" {name}" for name in ROW_WORDS],
            "column": [f" {name}" for name in COLUMN_WORDS],
            "anchor": [PART_WORD, ANCHOR_WORD],
            "moving": [STILL_WORD, MOVING_WORD],
        }
        ids: dict[str, Tensor] = {}
        for group, members in words.items():
            encoded = [tokenizer(word)["input_ids"] for word in members]
            if split := [word for word, tokens in zip(members, encoded, strict=True) if len(tokens) != 1]:
                raise ValueError(f"words of group {group!r} that are not one token: {split}")
            ids[group] = torch.tensor([tokens[0] for tokens in encoded], device=device)
        return cls(ids)


class WordHead(nn.Module):
    """Logits of visual tokens against groups of word embeddings; one learned temperature."""

    def __init__(self, groups: WordGroups) -> None:
        super().__init__()
        self._groups = groups
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor, embedding: Tensor) -> dict[str, Tensor]:
        """Score tokens.

        Args:
            tokens: Visual tokens [B, N, D].
            embedding: Word embeddings [V, D].

        Returns:
            Logits [B, N, words of the group] of every group.
        """
        scale = self.log_scale.exp()
        return {name: scale * (tokens @ embedding[ids].T) for name, ids in self._groups.ids.items()}


def normalise(frames: Tensor) -> Tensor:
    """Pixels as the processor gives them: uint8 [B, H, W, 3] to float [B, 3, H, W] in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def split_views(frames: Tensor, tiles_per_edge: int) -> Tensor:
    """Views of frames that are shown in detail: tiles row by row, then the whole, reduced by averaging.

    Args:
        frames: uint8 [B, t * S, t * S, 3].
        tiles_per_edge: t.

    Returns:
        uint8 [B, t * t + 1, S, S, 3].
    """
    t = tiles_per_edge
    size = frames.shape[1] // t
    tiles = frames.reshape(-1, t, size, t, size, 3).permute(0, 1, 3, 2, 4, 5).flatten(1, 2)
    whole = frames.reshape(-1, size, t, size, t, 3).float().mean((2, 4)).round_().to(torch.uint8)
    return torch.cat([tiles, whole[:, None]], dim=1)


def jitter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Random brightness, contrast, colour cast and noise on normalised pixels [B, 3, H, W]."""
    batch, device = pixels.shape[0], pixels.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator, device=device) * (high - low) + low

    gain = uniform(0.85, 1.15, 1, 1, 1) * uniform(0.96, 1.04, 3, 1, 1)
    pixels = pixels * gain + uniform(-0.12, 0.12, 1, 1, 1)
    noise = torch.randn(pixels.shape, generator=generator, device=device) * uniform(0.0, 0.05, 1, 1, 1)
    return (pixels + noise).clamp_(-1.0, 1.0)


def visual_tokens(model: SmolVLMForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Tokens as the language model consumes them: pixels [B, 3, H, W] to [B, N, D]."""
    hidden = model.model.vision_model(pixel_values=pixels).last_hidden_state
    tokens: Tensor = model.model.connector(hidden)
    return tokens


def dense_loss(logits: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and accuracies of the dense labels.

    Args:
        logits: From `WordHead`, [B, N, words] each.
        labels: From `dense_labels`, int64 [B, 6, N].

    Returns:
        Weighted mean cross entropy; accuracies on tokens that show objects.
    """
    background = logits["kind"].shape[-1] - 1
    by_name = dict(zip(LABELS, labels.unbind(1), strict=True))
    on_object = by_name["kind"] != background
    by_name["plural"] = torch.where(on_object, by_name["kind"], IGNORE)
    total = labels.new_zeros((), dtype=torch.float32)
    background_weight = torch.where(on_object, 1.0, _BACKGROUND_WEIGHT).flatten()
    for name, weight in _WEIGHTS.items():
        target = by_name[name].flatten()
        flat = nnf.cross_entropy(logits[name].float().flatten(0, 1), target, ignore_index=IGNORE, reduction="none")
        token_weight = background_weight * (target != IGNORE)
        total = total + weight * (flat * token_weight).sum() / token_weight.sum().clamp_min(1)
    at_anchor = (by_name["anchor"] == 1) & on_object
    kind_right = logits["kind"].argmax(-1) == by_name["kind"]
    colored = at_anchor & (by_name["color"] != IGNORE)
    color_right = logits["color"].argmax(-1) == by_name["color"]
    accuracy = {
        "kind": (kind_right & at_anchor).sum() / at_anchor.sum().clamp_min(1),
        "color": (color_right & colored).sum() / colored.sum().clamp_min(1),
    }
    return total, {name: value.detach() for name, value in accuracy.items()}
