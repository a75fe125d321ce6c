"""Training sequences: one image prefix, several texts about it that do not see one another.

A block mask and restarted position ids make each text see exactly what it sees when it is asked alone, at a fraction of
the cost. All sequences of a layout have the same shape, so the mask is made once and nothing waits for the host.

::

    <start>User:<fake><global><image>*N<fake> | question 1 answer 1 | question 2 answer 2 | ...
    `------------- prefix, causal ---------'   `-- sees the prefix and itself --'
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as nnf
from transformers import SmolVLMForConditionalGeneration

_IGNORE = -100


class SequenceLayout:
    """Where everything stands in sequences of one shape.

    Args:
        prefix: Token ids of prompt start and image, from `image_prefix`.
        slots: Lengths of the text slots that follow.
        image_id: Placeholder of visual tokens.
        pad_id: Fills slots.
        device: Where the sequences live.
    """

    def __init__(
        self, prefix: Sequence[int], slots: Sequence[int], *, image_id: int, pad_id: int, device: torch.device
    ) -> None:
        start, total = len(prefix), len(prefix) + sum(slots)
        length = -(-total // 8) * 8  # attention kernels want multiples of eight
        self.slots = tuple(slots)
        self._prefix = torch.tensor(prefix, device=device)
        self._pad_id = pad_id
        self._padding = length - total
        positions, owner = list(range(start)), [0] * start
        for number, slot in enumerate(slots, start=1):
            positions += range(start, start + slot)
            owner += [number] * slot
        positions += range(self._padding)
        owner += [-1] * self._padding
        owners = torch.tensor(owner)
        seen = (owners[:, None] == owners[None, :]) | (owners == 0)[None, :]
        self.visible = (seen & torch.ones(length, length, dtype=torch.bool).tril())[None, None].to(device)
        self.positions = torch.tensor(positions, device=device)[None]
        self.image_places = torch.tensor([i for i, token in enumerate(prefix) if token == image_id], device=device)
        self.text_start = start

    def ids(self, blocks: Tensor) -> Tensor:
        """Whole sequences.

        Args:
            blocks: Token ids of all slots one after another, int64 [B, sum of slots].
        """
        batch = len(blocks)
        padding = torch.full((batch, self._padding), self._pad_id, device=blocks.device)
        return torch.cat([self._prefix.expand(batch, -1), blocks, padding], dim=1)

    def targets(self, blocks: Tensor, prompt: Tensor, length: Tensor) -> Tensor:
        """The next token where the model must say it, -100 elsewhere, int64 [B, sum of slots].

        Args:
            blocks: Token ids of all slots, int64 [B, sum of slots].
            prompt: Tokens of each prompt [B, slots].
            length: Tokens of prompt and answer [B, slots].
        """
        parts = []
        for number, ids in enumerate(torch.split(blocks, list(self.slots), dim=1)):
            place = torch.arange(1, ids.shape[1] + 1, device=ids.device)
            said = (place >= prompt[:, number, None]) & (place < length[:, number, None])
            parts.append(torch.where(said, ids.roll(-1, dims=1), _IGNORE))
        return torch.cat(parts, dim=1)


def answer_loss(
    model: SmolVLMForConditionalGeneration,
    layout: SequenceLayout,
    blocks: tuple[Tensor, Tensor, Tensor],
    tokens: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross entropy of what the model must say.

    Args:
        model: The VLM; only its language model runs.
        layout: Of the sequences.
        blocks: Token ids int64 [B, sum of slots], prompt lengths and whole lengths [B, slots].
        tokens: Visual tokens [B, N, D] in the order of the placeholders.

    Returns:
        Mean loss a token; share of tokens that are most likely the right ones.
    """
    text_model = model.model.text_model
    ids = layout.ids(blocks[0])
    embedded = text_model.get_input_embeddings()(ids)
    embedded = embedded.index_copy(1, layout.image_places, tokens.to(embedded.dtype))
    hidden = text_model(
        inputs_embeds=embedded,
        attention_mask=layout.visible.expand(len(ids), -1, -1, -1),
        position_ids=layout.positions.expand(len(ids), -1),
        use_cache=False,
    ).last_hidden_state
    stop = layout.text_start + sum(layout.slots)
    logits = model.lm_head(hidden[:, layout.text_start : stop]).float()
    targets = layout.targets(*blocks)
    loss = nnf.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORE)
    said = targets != _IGNORE
    right = ((logits.argmax(-1) == targets) & said).sum() / said.sum().clamp_min(1)
    return loss, {"token_accuracy": right}
