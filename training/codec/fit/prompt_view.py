"""The frozen language model's view for models whose prompts are more than token ids with plain positions.

Positions by the grid of the image, types of tokens, visual tokens that look ahead, several tensors an image: each
question is a prompt of its own here, and the model reads it by its own `forward`. That is slower than one sequence
for all questions of a frame, and right for every family.

::

    prefix with <image>*N | question | answer | padding
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud_workers.inference.registry import family_of
from training.codec.fit.language_view import AnswerView, LanguageView, Questions, check_counts


@dataclass(frozen=True, slots=True)
class PromptParts:
    """What the prompts of a model have in common.

    Attributes:
        prefix: Token ids up to the last image placeholder.
        inputs: What the model reads beside them, of one whole prompt, by name: by token, or by image.
    """

    prefix: tuple[int, ...]
    inputs: Mapping[str, NDArray[Any]]


class PromptView(AnswerView):
    """That of any family, by prompts of one question each.

    Args:
        model: As of `AnswerView`.
        prompts: Of the model.
        half: Compute in bfloat16.
    """

    def __init__(self, model: Any, prompts: PromptParts, *, half: bool = True) -> None:
        super().__init__(model, half=half)
        self._model = model
        self._family = family_of(model.config, type(model).__name__)
        self._prefix = torch.tensor(prompts.prefix, device=self.device)
        self._inputs = {
            name: torch.from_numpy(np.asarray(values).copy()).to(self.device) for name, values in prompts.inputs.items()
        }

    def logits(self, tokens: Tensor, questions: Questions, answers: Tensor) -> Tensor:
        """See `AnswerView.logits`."""
        check_counts(tokens, questions, answers)
        rows, count = questions.texts.shape
        texts = questions.texts.flatten()
        lengths, width = questions.lengths[texts], questions.ids.shape[1]
        behind = torch.cat([questions.ids[texts], answers.flatten(0, 1)], dim=1)  # [B * Q, L + A]
        # Padding goes behind: what comes before it sees the positions that it has when it is asked alone.
        place = torch.arange(behind.shape[1], device=self.device) + (width - lengths)[:, None]
        is_real = place < behind.shape[1]
        behind = torch.where(is_real, behind.gather(1, place.clamp_max(behind.shape[1] - 1)), behind[:, -1:])
        prefix = self._prefix.expand(len(texts), -1)
        last = len(self._prefix) + lengths - 1
        frames = [frame for frame in tokens.to(self._model.dtype) for _ in range(count)]
        with self._autocast():
            output = self._model(
                pixel_values=None,
                input_ids=torch.cat([prefix, behind], dim=1),
                attention_mask=torch.cat([torch.ones_like(prefix), is_real.long()], dim=1),
                mm_encoder_outputs={"image": self._family.inject(frames, self._model.config)},
                use_cache=False,
                logits_to_keep=last[:, None] + torch.arange(answers.shape[2] + 1, device=self.device),
                **self._further(len(texts), lengths, behind.shape[1]),
            )
        found: Tensor = output.logits.float()
        return found.reshape(rows, count, *found.shape[1:])

    def _further(self, rows: int, lengths: Tensor, width: int) -> dict[str, Tensor]:
        """What the model reads beside the ids of so many prompts of prefix and `width` tokens more."""
        prefix, further = len(self._prefix), {}
        for name, values in self._inputs.items():
            if values.shape[1] < prefix:  # by image
                further[name] = values.repeat(rows, 1)
                continue
            behind = values[:, -1:].expand(rows, width)
            if self._family.reads_ahead:
                # The image looks ahead at the question, not at its answer, which is of the type that `generate` gives.
                is_question = torch.arange(width, device=self.device) < lengths[:, None]
                behind = torch.where(is_question, behind, 1)
            further[name] = torch.cat([values[:, :prefix].expand(rows, -1), behind], dim=1)
        return further


def view_of(model: Any, prompts: PromptParts, *, half: bool = True) -> AnswerView:
    """The view of a frozen model that suits its family.

    Args:
        model: In evaluation mode; its parameters lose their gradients.
        prompts: Of the model.
        half: Compute in bfloat16.
    """
    model = model.eval().requires_grad_(False)
    if family_of(model.config, type(model).__name__).plain_prompts:
        return LanguageView(model, prompts.prefix, half=half)
    return PromptView(model, prompts, half=half)
