"""When two answers are the same."""

from __future__ import annotations


def normalise(answer: str) -> str:
    """An answer without case, surrounding space and final stop."""
    return " ".join(answer.split()).rstrip(".!").casefold()


def same_answer(left: str, right: str) -> bool:
    """Whether two answers say the same, up to case and punctuation."""
    return normalise(left) == normalise(right)
