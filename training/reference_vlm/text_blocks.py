"""What is said about a frame, as token ids in slots of fixed size: batches then need no padding logic on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from pipeline.scenes.catalogue import QuestionKind
from pipeline.scenes.photographs import PhotoScene
from pipeline.scenes.questions import DESCRIBE_PHRASINGS, answer_to, sample_question
from pipeline.scenes.scene import Scene
from training.reference_vlm.captions import CAPTION_PROMPT, caption_of, description_of
from training.reference_vlm.tokenizer import END, prompt_text

AnyScene: TypeAlias = Scene | PhotoScene

KIND_MIX: Final[tuple[QuestionKind, ...]] = (
    "count", "position", "existence", "color", "relation", "count", "existence", "activity",
    "position", "count", "existence", "relation", "color", "existence", "count", "position",
)  # fmt: skip
"""Kinds of the questions of one frame, in turn: more of what is hard."""

QUESTION_SLOT: Final = 24
CAPTION_SLOT: Final = 136
DESCRIPTION_SLOT: Final = 56
"""Token ids of a prompt and its answer at most. A longer text is left out, which is counted."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Texts about one frame.

    Attributes:
        ids: Token ids, 0 where a slot is not full, int16 [slots, slot length].
        prompt: Tokens of each prompt, uint8 [slots].
        length: Tokens of prompt and answer, uint8 [slots]; 0 for an empty slot.
    """

    ids: NDArray[np.int16]
    prompt: NDArray[np.uint8]
    length: NDArray[np.uint8]


class BlockEncoder:
    """Turns questions and captions into token ids; every short text is tokenised once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, tuple[int, ...]] = {}

    def _encode(self, text: str) -> tuple[int, ...]:
        ids = self._known.get(text)
        if ids is None:
            ids = self._known[text] = tuple(self._tokenizer(text)["input_ids"])
        return ids

    def _fill(self, texts: list[tuple[str, str]], slot: int) -> Blocks:
        """Prompt and answer of each slot; what does not fit leaves an empty slot."""
        ids = np.zeros((len(texts), slot), dtype=np.int16)
        prompts, lengths = np.zeros(len(texts), dtype=np.uint8), np.zeros(len(texts), dtype=np.uint8)
        for row, (question, answer) in enumerate(texts):
            prompt = self._encode(prompt_text(question))
            whole = (*prompt, *self._tokenizer(f"{answer}{END}")["input_ids"])
            if len(whole) <= slot:
                ids[row, : len(whole)] = whole
                prompts[row], lengths[row] = len(prompt), len(whole)
        return Blocks(ids, prompts, lengths)

    def questions(self, scene: AnyScene, rng: np.random.Generator) -> Blocks:
        """Questions in the mix of `KIND_MIX`; existence stands in for a kind that the scene has no clear answer to."""
        texts: list[tuple[str, str]] = []
        for kind in KIND_MIX:
            question = sample_question(kind, scene, rng) or sample_question("existence", scene, rng)
            answer = answer_to(question, scene) if question else None
            if question is None or answer is None:
                continue
            text = question.text
            if rng.random() < 0.25:
                text = text[0].lower() + text[1:]
            if rng.random() < 0.1:
                text = text.rstrip("?.")
            texts.append((text, f" {answer}"))
        if not texts:
            raise AssertionError(f"a scene without any clear question was drawn: {scene}")
        while len(texts) < len(KIND_MIX):
            texts.append(texts[int(rng.integers(len(texts)))])
        return self._fill(texts, QUESTION_SLOT)

    def caption(self, scene: AnyScene) -> Blocks:
        """One slot: the request for a caption and the caption."""
        return self._fill([(CAPTION_PROMPT, caption_of(scene))], CAPTION_SLOT)

    def description(self, scene: AnyScene, rng: np.random.Generator) -> Blocks:
        """One slot: the request for a short description and the description."""
        prompt = DESCRIBE_PHRASINGS[int(rng.integers(len(DESCRIBE_PHRASINGS)))]
        return self._fill([(prompt, f" {description_of(scene)}")], DESCRIPTION_SLOT)
