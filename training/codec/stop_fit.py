"""Fits the stop rule's score: when does the whole latent give the answer that a prefix gave? No labels take part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.stop_score import FEATURES, ErrorModel, StopScore
from training.codec.data import Asked
from training.codec.measure import PrefixAnswers
from training.codec.stop_table import look_features

_RIDGE: Final = 1.0
"""On weights of features of unit variance, against the sum over all looks."""
_STEPS: Final = 30


def fit_score(answers: PrefixAnswers, asked: Sequence[Asked]) -> StopScore:
    """Fit error model and score on the looks before the last of a set of frames.

    Args:
        answers: From all prefixes, the whole latent last.
        asked: The questions.
    """
    owner = np.array([item.frame for item in asked], dtype=np.int64)
    types = [item.answer_type for item in asked]
    empty = StopScore(answers.lengths[-1], fit_errors(answers), {})
    texts = answers.texts
    early = list(zip(answers.lengths, answers.looks, strict=True))[:-1]
    features = np.stack(
        [
            look_features(empty, length, look, answers.blind, answers.code_bits[row, owner])
            for row, (length, look) in enumerate(early)
        ]
    )
    agrees = texts[:-1] == texts[-1]
    weights = {}
    for kind in sorted(set(types)):
        chosen = np.array([item == kind for item in types], dtype=np.bool_)
        weights[kind] = fit_logistic(features[:, chosen].reshape(-1, len(FEATURES)), agrees[:, chosen].reshape(-1))
    return StopScore(answers.lengths[-1], empty.errors, weights)


def fit_errors(answers: PrefixAnswers) -> ErrorModel:
    """Least squares of the logarithm of the feature error on that of the code length, for each prefix length."""
    offsets, slopes = [], []
    for bits, errors in zip(answers.code_bits, answers.errors, strict=True):
        x, y = np.log(np.maximum(bits, 1.0)), np.log(np.maximum(errors, 1e-9))
        spread = float(((x - x.mean()) ** 2).sum())
        slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
        slopes.append(round(slope, 6))
        offsets.append(round(float(y.mean() - slope * x.mean()), 6))
    return ErrorModel(answers.lengths, tuple(offsets), tuple(slopes))


def fit_logistic(features: NDArray[np.float64], agrees: NDArray[np.bool_]) -> tuple[float, ...]:
    """Ridge logistic regression by Newton's method.

    Args:
        features: [n, d].
        agrees: Outcomes [n].

    Returns:
        Bias and d weights, for features as they are.
    """
    mean, scale = features.mean(0), np.maximum(features.std(0), 1e-6)
    x = np.concatenate([np.ones((len(features), 1)), (features - mean) / scale], axis=1)
    penalty = np.full(x.shape[1], _RIDGE)
    penalty[0] = 1e-3  # keeps the bias finite where all agree
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (agrees - chance) - penalty * weights
        hessian = (x * (chance * (1 - chance))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        weights += step
        if float(np.abs(step).max()) < 1e-8:
            break
    slopes = weights[1:] / scale
    return tuple(round(float(value), 6) for value in (weights[0] - slopes @ mean, *slopes))


def ranking(scores: NDArray[np.float64], agrees: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that an answer that agrees has the higher score; ties count half."""
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.bincount(inverse, weights=ranks) / counts)[inverse]
    positive = int(agrees.sum())
    if positive in (0, len(agrees)):
        return 0.5
    excess = float(ranks[agrees].sum()) - positive * (positive + 1) / 2
    return excess / (positive * (len(agrees) - positive))
