"""Stages 2 and 3: the language model reads the visual tokens.

Several questions share the image prefix of one training sequence. A block mask and restarted position ids make each of
them see exactly what it sees when it is asked alone, at a fraction of the cost.

::

    <start>User:<fake><global><image>*N<fake> | question 1 answer 1 | question 2 answer 2 | ...
    `------------- prefix, causal ---------'   `-- sees the prefix and itself --'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf
from transformers import PreTrainedTokenizerFast, SmolVLMForConditionalGeneration

from pipeline.scenes.catalogue import QuestionKind
from pipeline.scenes.questions import answer_to, sample_question
from pipeline.scenes.scene import Scene
from training.reference_vlm.captions import CAPTION_PROMPT, caption_of
from training.reference_vlm.tokenizer import END, FAKE, GLOBAL, IMAGE, START, prompt_text

KIND_MIX: Final[tuple[QuestionKind, ...]] = (
    "count", "position", "existence", "color", "count", "position", "existence", "count",
)  # fmt: skip
"""Kinds of the questions of one sequence, in turn: more of what is hard."""


@dataclass(frozen=True, slots=True)
class TextBlock:
    """One question with its answer, as token ids.

    Attributes:
        ids: Prompt and answer.
        prompt_length: How many of the ids are the prompt; the rest is what the model must say.
    """

    ids: tuple[int, ...]
    prompt_length: int


class BlockEncoder:
    """Turns questions and captions into token ids; every text is tokenised once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, image_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, tuple[int, ...]] = {}
        self.pad_id: int = tokenizer.pad_token_id
        self.image_id: int = tokenizer.convert_tokens_to_ids(IMAGE)
        self.prefix = self.encode(f"{START}User:{FAKE}{GLOBAL}{IMAGE * image_tokens}{FAKE}")

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text."""
        ids = self._known.get(text)
        if ids is None:
            ids = self._known[text] = tuple(self._tokenizer(text)["input_ids"])
        return ids

    def block(self, question: str, answer: str) -> TextBlock:
        """A question and its answer."""
        prompt = self.encode(prompt_text(question))
        return TextBlock(prompt + self.encode(f" {answer}") + self.encode(END), len(prompt))

    def caption(self, scene: Scene) -> TextBlock:
        """The request for a caption and the caption, which is too varied to be worth remembering."""
        prompt = self.encode(prompt_text(CAPTION_PROMPT))
        return TextBlock((*prompt, *self._tokenizer(caption_of(scene) + END)["input_ids"]), len(prompt))

    def questions(self, scene: Scene, count: int, rng: np.random.Generator) -> list[TextBlock]:
        """Draw questions about a scene in the mix of `KIND_MIX`; existence stands in for a kind it cannot answer."""
        blocks: list[TextBlock] = []
        first = int(rng.integers(len(KIND_MIX)))
        for index in range(count):
            kind = KIND_MIX[(first + index) % len(KIND_MIX)]
            question = sample_question(kind, scene, rng) or sample_question("existence", scene, rng)
            answer = answer_to(question, scene) if question else None
            if question is None or answer is None:
                raise AssertionError(f"no clear question of kind {kind} was drawn for {scene}")
            text = question.text
            if rng.random() < 0.25:
                text = text[0].lower() + text[1:]
            if rng.random() < 0.1:
                text = text.rstrip("?.")
            blocks.append(self.block(text, answer))
        return blocks


@dataclass(frozen=True, slots=True)
class Batch:
    """Training sequences of several images.

    Attributes:
        ids: Token ids, int64 [B, L].
        positions: Position ids, int64 [B, L]; every block restarts after the prefix.
        visible: What each token may look at, bool [B, 1, L, L].
        predicts: Where the next token is one the model must say, bool [B, L].
        targets: Those next tokens in order, int64 [number of True in `predicts`].
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor
    predicts: Tensor
    targets: Tensor


def collate(encoder: BlockEncoder, sequences: list[list[TextBlock]]) -> Batch:
    """Lay out one sequence an image: the prefix, then its blocks, padded on the right."""
    prefix_length = len(encoder.prefix)
    length = max(prefix_length + sum(len(block.ids) for block in blocks) for blocks in sequences)
    count = len(sequences)
    ids = np.full((count, length), encoder.pad_id, dtype=np.int64)
    positions = np.zeros((count, length), dtype=np.int64)
    owner = np.full((count, length), -1, dtype=np.int64)
    targets = np.full((count, length), -1, dtype=np.int64)
    ids[:, :prefix_length] = encoder.prefix
    positions[:, :prefix_length] = np.arange(prefix_length)
    owner[:, :prefix_length] = 0
    for row, blocks in enumerate(sequences):
        start = prefix_length
        for number, block in enumerate(blocks, start=1):
            stop = start + len(block.ids)
            ids[row, start:stop] = block.ids
            positions[row, start:stop] = prefix_length + np.arange(len(block.ids))
            owner[row, start:stop] = number
            targets[row, start + block.prompt_length - 1 : stop - 1] = block.ids[block.prompt_length :]
            start = stop
    owners = torch.from_numpy(owner)
    same = owners[:, :, None] == owners[:, None, :]
    in_prefix = (owners == 0)[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    visible = (same | in_prefix) & causal
    target = torch.from_numpy(targets)
    predicts = target >= 0
    return Batch(torch.from_numpy(ids), torch.from_numpy(positions), visible[:, None], predicts, target[predicts])


def answer_loss(
    model: SmolVLMForConditionalGeneration, batch: Batch, tokens: Tensor, image_id: int
) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of what the model must say.

    Args:
        model: The VLM; only its language model runs.
        batch: From `collate`.
        tokens: Visual tokens [B, N, D].
        image_id: Placeholder that they replace.

    Returns:
        Mean loss a token; share of tokens that are most likely the right ones.
    """
    text_model = model.model.text_model
    embedded = text_model.get_input_embeddings()(batch.ids)
    places = (batch.ids == image_id)[:, :, None].expand_as(embedded)
    embedded = embedded.masked_scatter(places, tokens.to(embedded.dtype))
    mask = torch.zeros(batch.visible.shape, dtype=torch.float32).masked_fill_(~batch.visible, -1e9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = text_model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[batch.predicts])
    loss = nnf.cross_entropy(logits.float(), batch.targets)
    return loss, {"token_accuracy": (logits.argmax(-1) == batch.targets).float().mean().item()}
