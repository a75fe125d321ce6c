"""Measured passes as the stop rule sees them: a score, and whether stopping there would have been wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.stop_score import StopScore
from schemas.types import AnswerType
from training.codec.answers import Answers
from training.codec.data import Asked
from training.codec.measure import PrefixAnswers


@dataclass(frozen=True, slots=True)
class PassTable:
    """Passes over P prefixes for Q questions about F frames; the last prefix is the whole latent.

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

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Passes over the frames of several sets, at the same lengths."""
        offsets = np.cumsum([0, *(part.frames for part in parts[:-1])])
        return cls(
            parts[0].lengths,
            np.concatenate([part.scores for part in parts], axis=1),
            np.concatenate([part.wrong for part in parts], axis=1),
            np.concatenate([part.owner + offset for part, offset in zip(parts, offsets, strict=True)]),
            tuple(kind for part in parts for kind in part.types),
            np.concatenate([part.payload_bytes for part in parts], axis=1),
        )

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

    def judged(self, *, by_frame: bool) -> Self:
        """The same as the stop rule sees it: each answer by itself, or all of a pass by the mean of their scores."""
        if not by_frame:
            return self
        asked = np.maximum(np.bincount(self.owner, minlength=self.frames), 1)
        means = np.stack([np.bincount(self.owner, weights=row, minlength=self.frames) / asked for row in self.scores])
        return replace(self, scores=means[:, self.owner])

    def with_questions(self, count: int, rng: np.random.Generator) -> Self:
        """The same for some questions of each frame, drawn at random; frames of fewer keep all.

        Args:
            count: Questions a frame; 0 keeps all.
            rng: Draws them.
        """
        if not count:
            return self
        order = rng.permutation(len(self.owner))
        order = order[np.argsort(self.owner[order], kind="stable")]
        first = np.concatenate([[0], np.cumsum(np.bincount(self.owner, minlength=self.frames))])[self.owner[order]]
        kept = np.sort(order[np.arange(len(order)) - first < count])
        return replace(
            self,
            scores=self.scores[:, kept],
            wrong=self.wrong[:, kept],
            owner=self.owner[kept],
            types=tuple(self.types[index] for index in kept),
        )

    def of_type(self, answer_type: AnswerType) -> Self:
        """The same for the questions of one type."""
        kept = np.array([kind == answer_type for kind in self.types], dtype=np.bool_)
        return replace(
            self,
            scores=self.scores[:, kept],
            wrong=self.wrong[:, kept],
            owner=self.owner[kept],
            types=(answer_type,) * int(kept.sum()),
        )


def pass_features(
    score: StopScore, length: int, inference_pass: Answers, blind: Answers, code_bits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Features of all answers from one prefix length [Q, features].

    Args:
        score: Holds the model of the feature error.
        length: Latents of the prefixes.
        inference_pass: The answers.
        blind: Those from an empty prefix.
        code_bits: Of the prefix of each question's frame [Q].
    """
    return score.features(
        length,
        probability=inference_pass.probabilities,
        margin=inference_pass.margins,
        entropy_nats=inference_pass.entropies_nats,
        agrees_with_blind=inference_pass.texts == blind.texts,
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
    for row, (length, inference_pass) in enumerate(zip(answers.lengths, answers.passes, strict=True)):
        features = pass_features(score, length, inference_pass, answers.blind, answers.code_bits[row, owner])
        for kind in set(types):
            chosen = np.array([item == kind for item in types], dtype=np.bool_)
            scores[row, chosen] = score.score(features[chosen], kind)
    return scores
