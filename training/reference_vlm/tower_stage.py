"""Stage 1: vision tower, connector and the word embeddings of what can be seen, from dense labels.

The classifier of a visual token is the word embeddings themselves: the token of a red car's patch must have a larger
dot product with " red" than with any other colour word, and so on. After this stage the visual tokens speak the
language model's language, which is what makes the following stages short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from transformers import PreTrainedTokenizerFast, SmolVLMForConditionalGeneration

from pipeline.scenes.catalogue import COLORS, COLUMN_WORDS, KINDS, ROW_WORDS
from training.reference_vlm.dense_labels import BACKGROUND, IGNORE, LABELS
from training.reference_vlm.tokenizer import ANCHOR_WORD, BACKGROUND_WORD, PART_WORD

_WEIGHTS: Final = {"kind": 1.0, "plural": 0.5, "color": 1.0, "row": 0.4, "column": 0.4, "anchor": 0.6}
_BACKGROUND_WEIGHT: Final = 0.25
"""Seven of eight patches show background; this keeps it from being most of the loss."""


@dataclass(frozen=True, slots=True)
class WordGroups:
    """Token ids of the words that compete for each label, int64 [words of the group]."""

    ids: dict[str, Tensor]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> WordGroups:
        """Look the words up; each must be one token."""
        words = {
            "kind": [*(f" {name}" for name in KINDS), BACKGROUND_WORD],
            "plural": [f" {kind.plural}" for kind in KINDS.values()],
            "color": [f" {name}" for name in COLORS],
            "row": [f" {name}" for name in ROW_WORDS],
            "column": [f" {name}" for name in COLUMN_WORDS],
            "anchor": [PART_WORD, ANCHOR_WORD],
        }
        ids: dict[str, Tensor] = {}
        for group, members in words.items():
            encoded = [tokenizer(word)["input_ids"] for word in members]
            if any(len(tokens) != 1 for tokens in encoded):
                raise ValueError(f"a word of group {group!r} is not one token: {members}")
            ids[group] = torch.tensor([tokens[0] for tokens in encoded])
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


def jitter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Random brightness, contrast, colour cast and noise on normalised pixels [B, 3, H, W]."""
    batch = pixels.shape[0]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    gain = uniform(0.85, 1.15, 1, 1, 1) * uniform(0.96, 1.04, 3, 1, 1)
    pixels = pixels * gain + uniform(-0.12, 0.12, 1, 1, 1)
    noise = torch.randn(pixels.shape, generator=generator) * uniform(0.0, 0.05, 1, 1, 1)
    return (pixels + noise).clamp_(-1.0, 1.0)


def visual_tokens(model: SmolVLMForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Tokens as the language model consumes them: pixels [B, 3, H, W] to [B, N, D]."""
    hidden = model.model.vision_model(pixel_values=pixels).last_hidden_state
    tokens: Tensor = model.model.connector(hidden)
    return tokens


def dense_loss(logits: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Loss and accuracies of the dense labels.

    Args:
        logits: From `WordHead`, [B, N, words] each.
        labels: From `dense_labels`, int64 [B, 5, N].

    Returns:
        Weighted mean cross entropy; accuracy per label, on object patches only.
    """
    by_name = dict(zip(LABELS, labels.unbind(1), strict=True))
    on_object = by_name["kind"] != BACKGROUND
    by_name["plural"] = torch.where(on_object, by_name["kind"], IGNORE)
    total = torch.zeros((), dtype=torch.float32)
    accuracy: dict[str, float] = {}
    background_weight = torch.where(on_object, 1.0, _BACKGROUND_WEIGHT)
    for name, weight in _WEIGHTS.items():
        target = by_name[name]
        flat = nnf.cross_entropy(
            logits[name].float().flatten(0, 1), target.flatten(), ignore_index=IGNORE, reduction="none"
        )
        patch_weight = background_weight.flatten() * (target.flatten() != IGNORE)
        total = total + weight * (flat * patch_weight).sum() / patch_weight.sum().clamp_min(1)
        chosen = on_object if name != "anchor" else torch.ones_like(on_object)
        correct = (logits[name].argmax(-1) == target)[chosen]
        accuracy[name] = correct.float().mean().item()
    at_anchor = (by_name["anchor"] == 1) & on_object
    both = (logits["kind"].argmax(-1) == by_name["kind"]) & (logits["color"].argmax(-1) == by_name["color"])
    accuracy["object"] = both[at_anchor].float().mean().item()
    return total, accuracy
