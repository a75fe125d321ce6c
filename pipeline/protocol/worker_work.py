"""What a pass costs, so that a batch can be bounded in work: the tokens that the model reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from schemas.types import AnswerType

ANSWER_TOKENS: Final[Mapping[AnswerType, int]] = {
    AnswerType.YES_NO: 4,
    AnswerType.COUNT: 6,
    AnswerType.WORD: 12,
    AnswerType.TEXT: 64,
    AnswerType.CHOICE: 24,
}
"""Tokens that an answer may have, the end token included; a chatty model is cut there."""

_CHARS_A_TOKEN: Final = 4
"""Of a question in ASCII: about what tokenizers make of prose. The throughput measures what is left of the error. What
is not ASCII has as many tokens as bytes in the worst case, and whoever asks may write that: 500 rare characters are
2,000."""


@dataclass(frozen=True, slots=True)
class WorkCosts:
    """Work of a pass: a part for its frame and a part for each of its questions.

    Attributes:
        frame: reading the frame.
        question: reading a question and writing its answer, by text and answer type.
        usual: a frame with the questions that it usually has, until frames were seen.
    """

    frame: int
    question: Callable[[str, AnswerType], int]
    usual: int

    @classmethod
    def by_tokens(cls, token_count: int) -> Self:
        """Tokens of the model.

        Args:
            token_count: visual tokens of a frame.
        """
        return cls(token_count, question_tokens, token_count + 2 * question_tokens("?" * 40, AnswerType.WORD))

    @classmethod
    def by_frames(cls) -> Self:
        """Every frame is as much work as any other, whatever is asked of it."""
        return cls(1, lambda _text, _kind: 0, 1)


def question_tokens(text: str, answer_type: AnswerType) -> int:
    """Tokens of a question, about, and of its answer, at most."""
    rare_bytes = 0 if text.isascii() else sum(len(char.encode()) for char in text if not char.isascii())
    ascii_chars = len(text) if not rare_bytes else sum(map(str.isascii, text))
    return 1 + ascii_chars // _CHARS_A_TOKEN + rare_bytes + ANSWER_TOKENS[answer_type]
