"""Token ids of a question, made once and kept: everything of a prompt that does not depend on the frame."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ArtifactError, ConfigError

MAX_CACHED_QUESTIONS: Final = 4_096
MAX_CACHED_TOKENS: Final = 262_144
"""Of those questions: 64 of each on average, about 10 MB. One with options may have 6,000 of a tokenizer on bytes."""

_FRAME_INPUTS: Final = frozenset({"pixel_values", "pixel_attention_mask"})
"""Inputs that carry the image itself; the decoded visual tokens take their place."""
_PROBE: Final = "What is this?"
_PROMPT_INPUTS: Final = frozenset({"input_ids", "attention_mask"})


def set_image_splitting(processor: Any, image_size_px: int, tiles_per_edge: int) -> int:
    """Tell a processor whether frames are cut into tiles.

    Args:
        processor: transformers processor; changed in place.
        image_size_px: height and width of the vision tower's input.
        tiles_per_edge: 1 takes a frame as one image; 2 and more cut it into so many tiles along each edge, and a
            global view is added behind them.

    Returns:
        Height and width of the frames that it is to be given.

    Raises:
        ConfigError: this processor cuts no tiles.
    """
    images = processor.image_processor
    if not hasattr(images, "do_image_splitting"):
        if tiles_per_edge > 1:
            raise ConfigError("tiles_per_edge", f"{type(images).__name__} cuts no tiles: use 1")
        return image_size_px
    images.do_image_splitting = tiles_per_edge > 1
    if tiles_per_edge > 1:
        images.max_image_size = type(images.max_image_size)(longest_edge=image_size_px)
        images.size = type(images.size)(longest_edge=tiles_per_edge * image_size_px)
    return tiles_per_edge * image_size_px


def chat_prompt(processor: Any, question: str) -> str:
    """Prompt by the processor's own chat template: the image, then the question.

    Raises:
        ValueError: it has none.
    """
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text: str = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return text


class PromptTemplate:
    """Splits the chat prompt of one image and one question into a shared prefix and the question's suffix.

    The prefix runs up to the last image placeholder and is the same for every question, so its keys and values are
    computed once for a frame. The placeholders come from the processor itself, given a blank image: each VLM family has
    its own tokens around them, and an image that is split into tiles has more of them between the tiles.

    A question costs the tokenizer only: the processor expands the one placeholder that the template writes, so what
    follows it in the unexpanded prompt, behind the tokens that close the image, is the suffix.

    Attributes:
        prefix: token ids up to the last placeholder.
        placeholder_count: how many of them are placeholders, N visual tokens.
    """

    def __init__(
        self,
        processor: Any,
        *,
        write: Callable[[Any, str], str],
        image_token_id: int,
        image_size_px: int,
        source: str,
    ) -> None:
        """Read the prefix off the processor.

        Args:
            processor: transformers processor.
            write: from it and a question to the text of the prompt, one image placeholder in it.
            image_token_id: id of the placeholder.
            image_size_px: edge of the blank image.
            source: path or hub id, for error messages.

        Raises:
            ArtifactError: The processor has no chat template, or builds prompts this adapter cannot feed.
        """
        self._processor = processor
        self._write = write
        self._image_token_id = image_token_id
        self._source = source
        # A question that spells out a placeholder would shift the visual tokens of the whole batch.
        self._special_tokens = sorted(
            {str(token) for token in processor.tokenizer.get_added_vocab()}, key=len, reverse=True
        )
        self._suffixes: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._cached_tokens = 0
        blank = np.zeros((image_size_px, image_size_px, 3), dtype=np.uint8)
        expanded = self._expanded(_PROBE, blank)
        self.prefix = expanded[: self._after_last_placeholder(expanded)]
        self.placeholder_count = self.prefix.count(image_token_id)
        self._opening, tail = self._around_placeholder(_PROBE)
        after = expanded[len(self.prefix) :]
        if after[len(after) - len(tail) :] != tail:
            raise ArtifactError(source, "its processor writes other text behind the image than its chat template")
        self._closing = after[: len(after) - len(tail)]

    def suffix(self, question: str) -> tuple[int, ...]:
        """Token ids that follow the prefix: the question and the opening of the answer.

        Raises:
            ArtifactError: The chat template puts the question before the image.
        """
        known = self._suffixes.get(question)
        if known is not None:
            self._suffixes.move_to_end(question)
            return known
        opening, tail = self._around_placeholder(self.without_special_tokens(question))
        if opening != self._opening:
            raise ArtifactError(self._source, "its chat template puts text of the question before the image")
        ids = self._closing + tail
        self._suffixes[question] = ids
        self._cached_tokens += len(ids)
        while len(self._suffixes) > MAX_CACHED_QUESTIONS or self._cached_tokens > MAX_CACHED_TOKENS:
            _, dropped = self._suffixes.popitem(last=False)
            self._cached_tokens -= len(dropped)
        return ids

    def without_special_tokens(self, question: str) -> str:
        """The question as plain text: whatever the tokenizer would read as a control token becomes a space."""
        while found := [token for token in self._special_tokens if token in question]:
            for token in found:
                question = question.replace(token, " ")
        return question

    def _prompt(self, question: str) -> str:
        try:
            return self._write(self._processor, question)
        except ValueError as error:
            raise ArtifactError(self._source, f"its processor has no usable chat template ({error})") from error

    def _expanded(self, question: str, image: NDArray[np.uint8]) -> tuple[int, ...]:
        """Ids of a prompt as the model reads it, a placeholder for every visual token."""
        inputs = self._processor(text=self._prompt(question), images=[image], return_tensors="np")
        if unknown := set(inputs) - _FRAME_INPUTS - _PROMPT_INPUTS:
            raise ArtifactError(
                self._source,
                f"the model also reads {', '.join(sorted(unknown))}, which its family does not provide",
            )
        return tuple(int(token) for token in inputs["input_ids"][0])

    def _around_placeholder(self, question: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids before and behind the one placeholder that the chat template writes."""
        ids = tuple(self._processor.tokenizer(self._prompt(question))["input_ids"])
        place = self._after_last_placeholder(ids)
        return ids[: place - 1], ids[place:]

    def _after_last_placeholder(self, ids: tuple[int, ...]) -> int:
        if self._image_token_id not in ids:
            raise ArtifactError(self._source, "its processor writes no image placeholder into the prompt")
        return len(ids) - ids[::-1].index(self._image_token_id)
