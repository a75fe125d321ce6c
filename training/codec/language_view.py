"""What the frozen language model makes of decoded tokens: the loss that tells a codec which errors matter.

Several questions share the image prefix of one sequence. A block mask and restarted position ids let each of them see
what it sees when it is asked alone, at a fraction of the cost.

::

    prefix with <image>*N | question 1, answer 1 | question 2, answer 2 | ...
    `----- causal -------'  `-- sees the prefix and itself --'

The answers are the model's own, from uncompressed tokens; the true ones are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as nnf
from transformers import AutoProcessor

from cloud_workers.prompts import PromptBook

_HIDDEN: Final = -1e9


@dataclass(frozen=True, slots=True)
class PackedQuestions:
    """Sequences of several images, one row each.

    Attributes:
        ids: Token ids, int64 [B, L].
        positions: Position ids, int64 [B, L].
        mask: What is added to attention scores, float [B, 1, L, L].
        image: Placeholders of the visual tokens, bool [B, L].
        predicts: Where an answer token is predicted from, bool [B, L].
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    image: Tensor
    predicts: Tensor


class LanguageView:
    """Answer distributions of a frozen VLM for given visual tokens.

    Works with language models of plain position ids (Llama, Qwen2, SmolLM and their like).

    Args:
        model: The VLM, in evaluation mode, its parameters without gradients.
        vlm_dir: Its folder or hub id, for the processor.
        answer_tokens: How many tokens of an answer are looked at.
    """

    def __init__(self, model: Any, vlm_dir: Path, *, answer_tokens: int = 2) -> None:
        processor = AutoProcessor.from_pretrained(vlm_dir)
        if hasattr(processor.image_processor, "do_image_splitting"):
            processor.image_processor.do_image_splitting = False
        config = model.config
        self._image_id: int = config.image_token_id
        self._prompts = PromptBook(
            processor,
            image_token_id=self._image_id,
            image_size_px=config.vision_config.image_size,
            source=str(vlm_dir),
        )
        self._decoder = model.get_decoder()
        self._embed = model.get_input_embeddings()
        self._head = model.get_output_embeddings()
        self.answer_tokens = answer_tokens

    def logits(self, tokens: Tensor, packed: PackedQuestions) -> Tensor:
        """Logits of the answer tokens.

        Args:
            tokens: Visual tokens [B, N, D]; gradients flow to them.
            packed: From `pack`, B rows.

        Returns:
            [number of True in `packed.predicts`, V], row by row.
        """
        embedded = self._embed(packed.ids)
        places = packed.image[:, :, None].expand_as(embedded)
        embedded = embedded.masked_scatter(places, tokens.to(embedded.dtype))
        with torch.autocast(embedded.device.type, dtype=torch.bfloat16):
            hidden = self._decoder(
                inputs_embeds=embedded, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
            ).last_hidden_state
            logits: Tensor = self._head(hidden[packed.predicts])
        return logits.float()

    def pack(self, questions: Sequence[Sequence[str]], answers: Sequence[Tensor]) -> PackedQuestions:
        """Lay out one sequence an image.

        Args:
            questions: Texts of the questions about each image.
            answers: For each image the answers' first tokens, int64 [questions, T]; T may be 0. The logits are those
                of tokens 1 to T + 1.
        """
        prefix = self._prompts.prefix
        rows = [
            [(self._prompts.suffix(text), tuple(own)) for text, own in zip(texts, known.tolist(), strict=True)]
            for texts, known in zip(questions, answers, strict=True)
        ]
        length = len(prefix) + max(sum(len(prompt) + len(answer) for prompt, answer in row) for row in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        positions = torch.zeros_like(ids)
        owner = torch.full_like(ids, -1)
        predicts = torch.zeros_like(ids, dtype=torch.bool)
        ids[:, : len(prefix)] = torch.tensor(prefix)
        positions[:, : len(prefix)] = torch.arange(len(prefix))
        owner[:, : len(prefix)] = 0
        for index, row in enumerate(rows):
            start = len(prefix)
            for number, (prompt, answer) in enumerate(row, start=1):
                block = (*prompt, *answer)
                stop = start + len(block)
                ids[index, start:stop] = torch.tensor(block)
                positions[index, start:stop] = len(prefix) + torch.arange(len(block))
                owner[index, start:stop] = number
                predicts[index, start + len(prompt) - 1 : stop] = True
                start = stop
        visible = (owner[:, :, None] == owner[:, None, :]) | (owner == 0)[:, None, :]
        visible &= torch.ones(length, length, dtype=torch.bool).tril()
        mask = torch.zeros(visible.shape).masked_fill_(~visible, _HIDDEN)
        image = (ids == self._image_id) & (owner == 0)
        return PackedQuestions(ids, positions, mask[:, None], image, predicts)

    @torch.no_grad()
    def greedy_answers(self, tokens: Tensor, questions: Sequence[Sequence[str]]) -> list[Tensor]:
        """First tokens of the model's own answers, all but the last of those looked at.

        Args:
            tokens: Uncompressed visual tokens [B, N, D].
            questions: Texts of the questions about each image.

        Returns:
            int64 [questions, answer_tokens - 1] for each image. What follows an end token is arbitrary but always the
            same.
        """
        answers = [torch.zeros(len(texts), 0, dtype=torch.long) for texts in questions]
        counts = [len(texts) for texts in questions]
        for known in range(self.answer_tokens - 1):
            best = self.logits(tokens, self.pack(questions, answers)).argmax(-1)
            last = best.reshape(-1, known + 1)[:, -1:]
            answers = [torch.cat(pair, dim=1) for pair in zip(answers, torch.split(last, counts), strict=True)]
        return answers

    def divergence(
        self, tokens: Tensor, reference: Tensor, questions: Sequence[Sequence[str]], answers: Sequence[Tensor]
    ) -> Tensor:
        """Mean Kullback-Leibler divergence of the answers' tokens from the uncompressed ones, in nats a question.

        Args:
            tokens: Decoded visual tokens [B, N, D].
            reference: Uncompressed ones [B, N, D].
            questions: Texts of the questions about each image.
            answers: From `greedy_answers`.

        Returns:
            Scalar; gradients flow to `tokens`.
        """
        packed = self.pack(questions, answers)
        with torch.no_grad():
            target = self.logits(reference, packed).log_softmax(-1)
        found = self.logits(tokens, packed).log_softmax(-1)
        asked = sum(len(texts) for texts in questions)
        return nnf.kl_div(found, target, reduction="sum", log_target=True) / asked
