"""What the frozen language model makes of decoded tokens: the loss that tells a codec which errors matter.

Several questions share the image prefix of one sequence. A block mask and restarted position ids let each of them see
what it sees when it is asked alone, at a fraction of the cost. All blocks are equally long, so that a batch is a matter
of indexing on the device.

::

    prefix with <image>*N | padding, question 1, answer 1 | padding, question 2, answer 2 | ...
    `----- causal -------'  `--- sees the prefix and itself ---'

The answers are the model's own, from uncompressed tokens; the true ones are not used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import Tensor
from torch.nn import functional as nnf

from schemas.errors import StateError

_HIDDEN: Final = -1e9
_BATCH: Final = 128
_BATCH_TOKENS: Final = 128 * 320
"""Visual tokens that are read together."""
_KEPT_TOKENS: Final = 48
"""Tokens of the vocabulary of which the reference keeps the probability; the others count as one."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions about frames, as many for each, on the language model's device.

    Attributes:
        ids: Token ids of every distinct text, right-aligned, int64 [T, L].
        lengths: How many of them are not padding, int64 [T].
        texts: Which text is asked, int64 [F, Q]; 0 where nothing is.
        asked: Where something is, bool [F, Q].
    """

    ids: Tensor
    lengths: Tensor
    texts: Tensor
    asked: Tensor

    def of(self, frames: Tensor) -> Questions:
        """Those about some of the frames, int64 [B]."""
        return Questions(self.ids, self.lengths, self.texts[frames], self.asked[frames])


@dataclass(frozen=True, slots=True)
class Reference:
    """What the model answers to the same questions from uncompressed tokens.

    Attributes:
        answers: First tokens of the greedy answers, int64 [F, Q, T - 1].
        best: The answers' tokens, one more than in `answers`, int64 [F, Q, T].
        counts: Where a token is part of an answer, up to its end token, bool [F, Q, T].
        kept: The likeliest tokens at each of these places, int64 [F, Q, T, M].
        log_shares: Logarithms of their probabilities, and of that of all others together, [F, Q, T, M + 1].
    """

    answers: Tensor
    best: Tensor
    counts: Tensor
    kept: Tensor
    log_shares: Tensor

    def of(self, frames: Tensor) -> Reference:
        """That of some of the frames, int64 [B]."""
        return Reference(
            self.answers[frames], self.best[frames], self.counts[frames], self.kept[frames], self.log_shares[frames]
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of several parts of the frames, one after the other."""
        fields = ("answers", "best", "counts", "kept", "log_shares")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))


class AnswerView(ABC):
    """Answer distributions of a frozen VLM for given visual tokens.

    Args:
        model: The VLM, in evaluation mode, its parameters without gradients.
        half: Compute in bfloat16.

    Attributes:
        device: That of the model.
    """

    def __init__(self, model: Any, *, half: bool = True) -> None:
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.half = half
        config = model.config
        eos = model.generation_config.eos_token_id
        ends = eos if isinstance(eos, list) else [config.get_text_config().eos_token_id if eos is None else eos]
        self._ends = torch.tensor([int(end) for end in ends], device=self.device)

    def encode(
        self, questions: Sequence[Sequence[str]], count: int, suffix: Callable[[str], tuple[int, ...]]
    ) -> Questions:
        """Token ids of questions.

        Args:
            questions: Texts about each frame; those beyond `count` are left out.
            count: Questions a frame, Q.
            suffix: From a question to the token ids that follow the prefix, `PromptTemplate.suffix`.
        """
        known: dict[str, int] = {}
        texts = torch.zeros(len(questions), count, dtype=torch.long)
        asked = torch.zeros(len(questions), count, dtype=torch.bool)
        for row, own in enumerate(questions):
            for place, text in enumerate(own[:count]):
                texts[row, place] = known.setdefault(text, len(known))
                asked[row, place] = True
        suffixes = [suffix(text) for text in known] or [(0,)]
        ids = torch.zeros(len(suffixes), max(map(len, suffixes)), dtype=torch.long)
        for row, own_ids in enumerate(suffixes):
            ids[row, ids.shape[1] - len(own_ids) :] = torch.tensor(own_ids)
        lengths = torch.tensor([len(own_ids) for own_ids in suffixes])
        return Questions(*(part.to(self.device) for part in (ids, lengths, texts, asked)))

    @abstractmethod
    def logits(self, tokens: Tensor, questions: Questions, answers: Tensor) -> Tensor:
        """Logits of the answers' tokens.

        Args:
            tokens: Visual tokens [B, N, D]; gradients flow to them.
            questions: About these frames, Q each.
            answers: First tokens of the answers, int64 [B, Q, A]; A may be 0. The logits are those of tokens 1 to
                A + 1.

        Returns:
            [B, Q, A + 1, V].

        Raises:
            StateError: tokens, questions and answers of different counts.
        """

    @torch.no_grad()
    def reference(self, tokens: Tensor, questions: Questions, *, answer_tokens: int) -> Reference:
        """The model's own greedy answers and their distributions, computed once.

        Args:
            tokens: Uncompressed visual tokens of all frames, of any float type [F, N, D]; may be mapped from a file.
            questions: About them.
            answer_tokens: How many tokens of an answer are looked at, T.
        """
        batch = max(1, min(_BATCH, _BATCH_TOKENS // tokens.shape[1]))
        parts = []
        for start in range(0, len(questions.texts), batch):
            frames = torch.arange(start, min(start + batch, len(questions.texts)), device=self.device)
            part = tokens[start : start + batch].to(self.device).float()
            parts.append(self._reference_of(part, questions.of(frames), answer_tokens))
        return Reference.joined(parts)

    def _reference_of(self, tokens: Tensor, questions: Questions, answer_tokens: int) -> Reference:
        rows, count = questions.texts.shape
        answers = torch.zeros(rows, count, 0, dtype=torch.long, device=self.device)
        for _ in range(answer_tokens - 1):
            best = self.logits(tokens, questions, answers)[:, :, -1].argmax(-1)
            answers = torch.cat([answers, best[:, :, None]], dim=2)
        log_shares = self.logits(tokens, questions, answers).log_softmax(-1)
        best = log_shares.argmax(-1)
        ended = torch.isin(best, self._ends).cumsum(2)
        counts = nnf.pad(ended[:, :, :-1], (1, 0)) == 0
        kept = log_shares.topk(min(_KEPT_TOKENS, log_shares.shape[-1] - 1), dim=-1).indices
        shares = _with_rest(log_shares, kept)
        return Reference(answers, best, counts & questions.asked[:, :, None], kept, shares)

    def divergence(self, tokens: Tensor, questions: Questions, reference: Reference) -> Tensor:
        """Kullback-Leibler divergence of the answers' tokens from the uncompressed ones, in nats.

        That of the likeliest tokens and of all others as one, which is at most the whole divergence.

        Args:
            tokens: Decoded visual tokens [B, N, D].
            questions: About these frames.
            reference: For the same questions.

        Returns:
            [B, Q], zero where nothing is asked; gradients flow to `tokens`.
        """
        found = _with_rest(self.logits(tokens, questions, reference.answers).log_softmax(-1), reference.kept)
        target = reference.log_shares
        each = (target.exp() * (target - found)).sum(-1)
        return torch.where(reference.counts, each, 0.0).sum(-1)

    @torch.no_grad()
    def agreement(self, tokens: Tensor, questions: Questions, reference: Reference) -> Tensor:
        """Whether the greedy answers begin as the uncompressed ones do, bool [B, Q]; true where nothing is asked."""
        best = self.logits(tokens, questions, reference.answers).argmax(-1)
        return ((best == reference.best) | ~reference.counts).all(-1)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half)


class LanguageView(AnswerView):
    """That of language models of plain position ids (Llama, Qwen2, SmolLM and their like).

    Args:
        model: As of `AnswerView`.
        prefix: Token ids of its prompts up to the last image placeholder.
        half: Compute in bfloat16.
    """

    def __init__(self, model: Any, prefix: Sequence[int], *, half: bool = True) -> None:
        super().__init__(model, half=half)
        self._decoder = model.get_decoder()
        self._embed = model.get_input_embeddings()
        self._head = model.get_output_embeddings()
        self._prefix = torch.tensor(list(prefix), device=self.device)
        self._image = (self._prefix == model.config.image_token_id).nonzero()[:, 0]

    def logits(self, tokens: Tensor, questions: Questions, answers: Tensor) -> Tensor:
        """See `AnswerView.logits`; all questions of a frame in one sequence."""
        rows, count = questions.texts.shape
        check_counts(tokens, questions, answers)
        prefix, device = len(self._prefix), self.device
        prompt_length = questions.ids.shape[1]
        block = torch.cat([questions.ids[questions.texts], answers], dim=2)  # [B, Q, L]
        length = block.shape[2]
        padding = (prompt_length - questions.lengths)[questions.texts]  # [B, Q]
        place = torch.arange(length, device=device) - padding[:, :, None]
        owner = torch.arange(1, count + 1, device=device)[None, :, None].expand(rows, count, length)
        owner = torch.where(place >= 0, owner, -1)
        positions = prefix + place.clamp_min(0)
        ids = torch.cat([self._prefix.expand(rows, -1), block.flatten(1)], dim=1)
        positions = torch.cat([torch.arange(prefix, device=device).expand(rows, -1), positions.flatten(1)], dim=1)
        owner = torch.cat([torch.zeros(rows, prefix, dtype=torch.long, device=device), owner.flatten(1)], dim=1)
        order = torch.arange(ids.shape[1], device=device)
        visible = (owner[:, :, None] == owner[:, None, :]) | (owner == 0)[:, None, :]
        visible &= order[:, None] >= order
        embedded = self._embed(ids)
        embedded = embedded.index_copy(1, self._image, tokens.to(embedded.dtype))
        mask = torch.zeros(visible.shape, device=device).masked_fill_(~visible, _HIDDEN)[:, None]
        with self._autocast():
            hidden = self._decoder(
                inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
            hidden = hidden[:, prefix:].unflatten(1, (count, length))[:, :, prompt_length - 1 :]
            logits: Tensor = self._head(hidden)
        return logits.float()


def check_counts(tokens: Tensor, questions: Questions, answers: Tensor) -> None:
    """Make sure that there are as many frames of each.

    Raises:
        StateError: there are not.
    """
    rows, count = questions.texts.shape
    if len(tokens) != rows or answers.shape[:2] != (rows, count):
        raise StateError(f"{len(tokens)} frames, {rows} x {count} questions, answers {list(answers.shape)}")


def _with_rest(log_shares: Tensor, kept: Tensor) -> Tensor:
    """Log-probabilities [..., V] of kept tokens [..., M], and of all others as one, [..., M + 1]."""
    chosen = log_shares.gather(-1, kept)
    rest = torch.log((1 - chosen.exp().sum(-1, keepdim=True)).clamp_min(1e-7))
    return torch.cat([chosen, rest], dim=-1)
