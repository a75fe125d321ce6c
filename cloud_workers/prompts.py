"""Token ids of a question, made once and kept: everything of a prompt that does not depend on the frame."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

import numpy as np

from schemas.errors import ArtifactError

MAX_CACHED_QUESTIONS: Final = 4_096
"""A question has at most 500 characters, so the cache stays under about 10 MB even for byte-level tokens."""

_FRAME_INPUTS: Final = frozenset({"pixel_values", "pixel_attention_mask"})
"""Inputs that carry the image itself; the decoded visual tokens take their place."""
_PROMPT_INPUTS: Final = frozenset({"input_ids", "attention_mask"})


class PromptBook:
    """Splits the chat prompt of one image and one question into a shared prefix and the question's suffix.

    The prefix runs up to the last image placeholder and is the same for every question, so its keys and values are
    computed once for a frame. The placeholders come from the processor itself, given a blank image: each VLM family has
    its own tokens around them.

    Attributes:
        prefix: token ids up to the last placeholder.
        placeholder_count: how many of them are placeholders, N visual tokens.
    """

    def __init__(self, processor: Any, *, image_token_id: int, image_size_px: int, source: str) -> None:
        """Read the prefix off the processor.

        Args:
            processor: transformers processor with a chat template.
            image_token_id: id of the placeholder.
            image_size_px: edge of the blank image.
            source: path or hub id, for error messages.

        Raises:
            ArtifactError: The processor has no chat template, or builds prompts this adapter cannot feed.
        """
        self._processor = processor
        self._image_token_id = image_token_id
        self._source = source
        self._blank = np.zeros((image_size_px, image_size_px, 3), dtype=np.uint8)
        # A question that spells out a placeholder would shift the visual tokens of the whole batch.
        self._special_tokens = sorted(
            {str(token) for token in processor.tokenizer.get_added_vocab()}, key=len, reverse=True
        )
        self._suffixes: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        first = self._tokenize("What is this?")
        self.prefix = first[: self._prefix_length(first)]
        self.placeholder_count = self.prefix.count(image_token_id)

    def suffix(self, question: str) -> tuple[int, ...]:
        """Token ids that follow the prefix: the question and the opening of the answer.

        Raises:
            ArtifactError: The chat template puts the question before the image.
        """
        known = self._suffixes.get(question)
        if known is not None:
            self._suffixes.move_to_end(question)
            return known
        ids = self._tokenize(self.without_special_tokens(question))
        length = self._prefix_length(ids)
        if ids[:length] != self.prefix:
            raise ArtifactError(self._source, "its chat template puts text of the question before the image")
        self._suffixes[question] = ids[length:]
        if len(self._suffixes) > MAX_CACHED_QUESTIONS:
            self._suffixes.popitem(last=False)
        return ids[length:]

    def without_special_tokens(self, question: str) -> str:
        """The question as plain text: whatever the tokenizer would read as a control token becomes a space."""
        while found := [token for token in self._special_tokens if token in question]:
            for token in found:
                question = question.replace(token, " ")
        return question

    def _tokenize(self, question: str) -> tuple[int, ...]:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        try:
            text = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        except ValueError as error:
            raise ArtifactError(self._source, f"its processor has no usable chat template ({error})") from error
        inputs = self._processor(text=text, images=[self._blank], return_tensors="np")
        if unknown := set(inputs) - _FRAME_INPUTS - _PROMPT_INPUTS:
            raise ArtifactError(
                self._source,
                f"the model also reads {', '.join(sorted(unknown))}, which this adapter does not carry; "
                "SmolVLM, Idefics3 and LLaVA classes work",
            )
        return tuple(int(token) for token in inputs["input_ids"][0])

    def _prefix_length(self, ids: tuple[int, ...]) -> int:
        if self._image_token_id not in ids:
            raise ArtifactError(self._source, "its processor writes no image placeholder into the prompt")
        return len(ids) - ids[::-1].index(self._image_token_id)
