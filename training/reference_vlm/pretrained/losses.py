"""What the third reference VLM learns from: dense labels of visual tokens, answers, and objects that questions name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from transformers import PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from pipeline.scenes.catalogue import COLORS
from training.reference_vlm.dense_labels import IGNORE, LABELS
from training.reference_vlm.pretrained.batches import MOST_COUNTED, TextBatch
from training.reference_vlm.pretrained.imagenet import IMAGENET_MEAN, IMAGENET_STD
from training.reference_vlm.pretrained.model import COLUMN_PLACES, PLACES, ROW_PLACES, single_token, third_vocabulary
from training.reference_vlm.vocabulary import ANCHOR_WORD, BACKGROUND_WORD, MOVING_WORD, PART_WORD, STILL_WORD

_WEIGHTS: Final = {"kind": 1.0, "color": 1.0, "row": 0.3, "column": 0.3, "anchor": 0.6, "moving": 0.5}
_BACKGROUND_WEIGHT: Final = 0.25
"""Most tokens show background; this keeps it from being most of the loss."""
_ENOUGH: Final = 0.9
"""Of the attention of one head."""


def to_imagenet(pixels: Tensor) -> Tensor:
    """Pixels in -1 to 1 with ImageNet's mean and deviation, [B, 3, S, S], channels last in memory."""
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device)[:, None, None]
    deviation = torch.tensor(IMAGENET_STD, device=pixels.device)[:, None, None]
    return ((pixels * 0.5 + 0.5 - mean) / deviation).contiguous(memory_format=torch.channels_last)


def visual_tokens(model: Any, pixels: Tensor) -> Tensor:
    """Tokens as the language model reads them: pixels in -1 to 1 [B, 3, S, S] to float32 [B, N, D]."""
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
        features = model.get_image_features(pixel_values=to_imagenet(pixels), return_dict=True).pooler_output
    return features.float()  # type: ignore[no-any-return]


class DenseHead(nn.Module):
    """Scores visual tokens against groups of word embeddings, so that they come to speak the words' language.

    Args:
        tokenizer: Every word of a group must be one token of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        words = {
            "kind": [*third_vocabulary().kinds, BACKGROUND_WORD.strip()],
            "color": list(COLORS),
            "row": list(ROW_PLACES),
            "column": list(COLUMN_PLACES),
            "anchor": [PART_WORD.strip(), ANCHOR_WORD.strip()],
            "moving": [STILL_WORD.strip(), MOVING_WORD.strip()],
        }
        self._ids = {
            name: torch.tensor([single_token(tokenizer, f" {word}") for word in group]) for name, group in words.items()
        }
        self.log_scale = nn.Parameter(torch.zeros(len(words)))

    def forward(self, tokens: Tensor, embedding: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and accuracies.

        Args:
            tokens: Visual tokens [B, N, D].
            embedding: Word embeddings [V, D].
            labels: int64 [B, 6, N].

        Returns:
            Weighted mean cross entropy; accuracies at the tokens that hold an object's centre.
        """
        by_name = dict(zip(LABELS, labels.unbind(1), strict=True))
        background = len(self._ids["kind"]) - 1
        on_object = by_name["kind"] != background
        weight = torch.where(on_object, 1.0, _BACKGROUND_WEIGHT).flatten()
        at_anchor = (by_name["anchor"] == 1) & on_object
        # Tokens keep the range of a normalised state: rounding to bfloat16 and codecs expect one.
        total = 0.01 * (tokens.square().mean() - 1).square()
        figures: dict[str, Tensor] = {}
        for scale, (name, ids) in zip(self.log_scale.exp(), self._ids.items(), strict=True):
            logits = scale * (tokens @ embedding[ids].T)
            target = by_name[name]
            flat = nnf.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORE, reduction="none")
            valid = weight * (target.flatten() != IGNORE)
            total = total + _WEIGHTS[name] * (flat * valid).sum() / valid.sum().clamp_min(1)
            chosen = at_anchor & (target != IGNORE)
            near = (logits.argmax(-1) - target).abs() <= (1 if name in ("row", "column") else 0)
            if name != "anchor":
                figures[name] = ((near & chosen).sum() / chosen.sum().clamp_min(1)).detach()
        return total, figures


class MentionHead(nn.Module):
    """Reads off the words that name objects which objects those are and where: what an answer needs before its own.

    It is used in training only. After the first third of the language model a word is told by the colour before it and
    points at the objects that fit both; without this a model learns to look for the kind alone, is right most of the
    time, and stays there. Places are read in the middle, so that the layers behind can compare; how the object that
    was named before lies to this one is read before the last layer.

    Args:
        width: Of the language model.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.late_norm = nn.LayerNorm(width)
        self.early_norm = nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.nothing = nn.Parameter(torch.zeros(width))
        sizes = {
            "column": PLACES,
            "row": PLACES,
            "number": MOST_COUNTED + 1,
            "across": 3,
            "along": 3,
            "color": len(COLORS) + 1,
        }
        self.layers = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})

    def forward(self, states: LanguageStates, batch: TextBatch, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and accuracies; a column or row counts as right when it is off by one at most.

        Args:
            states: Of the language model.
            batch: The texts that it read.
            tokens: Visual tokens [B, N, D].
        """
        named = batch.mentions[..., 2] != IGNORE
        wanted = batch.mentions[named]
        early = self.early_norm(states.early[named])
        middle, late = self.norm(states.middle[named]), self.late_norm(states.late[named])
        total, figures = self._pointing(early, tokens[named.nonzero()[:, 0]], batch.pointed)
        for (name, layer), target in zip(self.layers.items(), wanted.unbind(1), strict=True):
            logits = layer({"across": late, "along": late, "color": early}.get(name, middle))
            valid = target != IGNORE
            loss = nnf.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum") / valid.sum().clamp_min(1)
            total = total + loss
            off = 1 if name in ("column", "row") else 0
            right = ((logits.argmax(-1) - target).abs() <= off) & valid
            figures[f"named_{name}"] = (right.sum() / valid.sum().clamp_min(1)).detach()
        return total, figures

    def _pointing(self, early: Tensor, tokens: Tensor, pointed: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy of the visual tokens that words point at: early states [M, D], tokens [M, N, D]."""
        if not len(early):
            return early.new_zeros(()), {}
        query = self.query(early) * early.shape[-1] ** -0.5
        scores = torch.einsum("md,mnd->mn", query @ self.key.weight, tokens)
        logits = torch.cat([scores, (query @ self.nothing)[:, None]], dim=1)
        right = pointed.gather(1, logits.argmax(1, keepdim=True)) > 0
        return nnf.cross_entropy(logits, pointed), {"pointed": right.float().mean().detach()}


@dataclass(frozen=True, slots=True)
class LanguageStates:
    """States of the language model, [B, L, D] each.

    Attributes:
        embedded: What the first layer reads: words and visual tokens.
        early: After the first third of its layers.
        middle: After half of them.
        late: Before the last layer.
        last: After the last layer, normalised.
    """

    embedded: Tensor
    early: Tensor
    middle: Tensor
    late: Tensor
    last: Tensor


def language_states(model: Any, batch: TextBatch, tokens: Tensor) -> LanguageStates:
    """Run the language model over packed texts.

    Args:
        model: The VLM.
        batch: Packed texts.
        tokens: Visual tokens [B, N, D].
    """
    language, image_id = model.model.language_model, model.config.image_token_id
    embedded = language.get_input_embeddings()(batch.ids)
    is_image = (batch.ids == image_id)[..., None]
    embedded = embedded.masked_scatter(is_image, tokens.to(embedded.dtype))
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
        out = language(
            inputs_embeds=embedded,
            attention_mask=batch.visible,
            position_ids=batch.positions,
            use_cache=False,
            output_hidden_states=True,
        )
    layers = len(out.hidden_states) - 1
    return LanguageStates(
        embedded=embedded,
        early=out.hidden_states[max(layers // 3, 1)].float(),
        middle=out.hidden_states[layers // 2].float(),
        late=out.hidden_states[-2].float(),
        last=out.last_hidden_state.float(),
    )


def modifier_loss(model: Any, batch: TextBatch, embedded: Tensor) -> tuple[Tensor, Tensor]:
    """How far the first layer is from having one head that looks from a noun at the colour before it.

    Most of a sequence is visual tokens, and the word before a noun starts with a hundredth of the attention, so that
    its gradient is as small; a model left alone needs thousands of steps to read two words together.

    Args:
        model: The VLM; its language model is a Llama.
        batch: Packed texts.
        embedded: What the first layer reads [B, L, D].

    Returns:
        Mean negative logarithm of the attention on the colour, averaged over the heads and capped where one of them
        gives it nearly all of its own; the mean attention of the head that gives most.
    """
    language = model.model.language_model
    attention, heads = language.layers[0].self_attn, language.config.num_attention_heads
    color = batch.mentions[..., 5]
    row, place = ((color != IGNORE) & (color < len(COLORS))).nonzero(as_tuple=True)
    if not len(row):
        return embedded.new_zeros(()), embedded.new_zeros(())
    normed = language.layers[0].input_layernorm(embedded)
    split = (*embedded.shape[:2], heads, attention.head_dim)
    query, key = (
        projection(normed).reshape(split).transpose(1, 2) for projection in (attention.q_proj, attention.k_proj)
    )
    cos, sin = language.rotary_emb(embedded, batch.positions)
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    scores = torch.einsum("mhd,mhld->mhl", query.transpose(1, 2)[row, place], key[row]) * attention.scaling
    seen = batch.visible[row, 0, place][:, None]
    found = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    before = found[torch.arange(len(row)), :, place - 1]
    loss = -before.mean(1).clamp_max(_ENOUGH / heads).log().mean()
    return loss, before.mean(0).max().detach()


def answer_loss(model: Any, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy a token of what the model must say, and the share of tokens that are most likely right."""
    said = targets != IGNORE
    logits, wanted = model.lm_head(states[said]), targets[said]
    return nnf.cross_entropy(logits, wanted), (logits.argmax(-1) == wanted).float().mean().detach()
