"""Measured looks as the stop rule sees them: a score, and whether stopping there would have been wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.stop_score import StopScore
from schemas.types import AnswerType
from training.codec.answers import Answers
from training.codec.data import Asked
from training.codec.measure import PrefixAnswers


@dataclass(frozen=True, slots=True)
class LookTable:
    """Looks at P prefixes for Q questions about F frames; the last prefix is the whole latent.

    Attributes:
        lengths: Prefix lengths in latents [P].
        scores: Of the answers [P, Q].
        wrong: Where an answer is not that of the whole latent [P, Q].
        owner: Frame of each question [Q].
        types: Answer type of each question [Q].
        payload_bytes: Size of each prefix [P, F].
    """

    lengths: tuple[int, ...]
    scores: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    owner: NDArray[np.int64]
    types: tuple[AnswerType, ...]
    payload_bytes: NDArray[np.int64]

    @classmethod
    def of(cls, answers: PrefixAnswers, asked: Sequence[Asked], score: StopScore | None) -> Self:
        """Score measured answers.

        Args:
            answers: From every prefix.
            asked: The questions.
            score: The model of the score; None takes the probability of the answer.
        """
        owner = np.array([item.frame for item in asked], dtype=np.int64)
        types = tuple(item.answer_type for item in asked)
        texts = answers.texts
        scores = answers.probabilities
        if score is not None:
            scores = scores_of(score, answers, owner, types)
        return cls(answers.lengths, scores, texts != texts[-1], owner, types, answers.payload_bytes)

    @property
    def frames(self) -> int:
        """Number of frames, F."""
        return int(self.payload_bytes.shape[1])

    def rows(self, lengths: Sequence[int]) -> Self:
        """The same for some of the lengths."""
        kept = [self.lengths.index(length) for length in lengths]
        return type(self)(
            tuple(lengths), self.scores[kept], self.wrong[kept], self.owner, self.types, self.payload_bytes[kept]
        )

    def of_type(self, answer_type: AnswerType) -> Self:
        """The same for the questions of one type."""
        kept = np.array([kind == answer_type for kind in self.types], dtype=np.bool_)
        return type(self)(
            self.lengths,
            self.scores[:, kept],
            self.wrong[:, kept],
            self.owner[kept],
            tuple(kind for kind in self.types if kind == answer_type),
            self.payload_bytes,
        )


def look_features(
    score: StopScore, length: int, look: Answers, blind: Answers, code_bits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Features of all answers from one prefix length [Q, features].

    Args:
        score: Holds the model of the feature error.
        length: Latents of the prefixes.
        look: The answers.
        blind: Those from an empty prefix.
        code_bits: Of the prefix of each question's frame [Q].
    """
    return score.features(
        length,
        probability=look.probabilities,
        margin=look.margins,
        entropy_nats=look.entropies_nats,
        agrees_with_blind=look.texts == blind.texts,
        blind_probability=blind.probabilities,
        code_bits=code_bits,
    )


def scores_of(
    score: StopScore, answers: PrefixAnswers, owner: NDArray[np.int64], types: Sequence[AnswerType]
) -> NDArray[np.float64]:
    """Scores of all answers from all prefixes [P, Q].

    Args:
        score: Its model.
        answers: Of all prefixes.
        owner: Frame of each question [Q].
        types: Its answer type [Q].
    """
    scores = np.zeros((len(answers.lengths), len(owner)))
    for row, (length, look) in enumerate(zip(answers.lengths, answers.looks, strict=True)):
        features = look_features(score, length, look, answers.blind, answers.code_bits[row, owner])
        for kind in set(types):
            chosen = np.array([item == kind for item in types], dtype=np.bool_)
            scores[row, chosen] = score.score(features[chosen], kind)
    return scores
