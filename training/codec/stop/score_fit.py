"""Fits the stop rule's score: when does the whole latent give the answer that a prefix gave? No labels take part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.stop_score import FEATURES, AdditiveScore, ErrorModel, StopScore
from schemas.types import AnswerType
from training.codec.data import Asked
from training.codec.measure import PrefixAnswers
from training.codec.stop.pass_table import pass_features

_KNOTS: Final = 8
"""Of each curve, at quantiles of its feature."""
_RIDGE: Final = 1.0
"""On values at knots, against the sum over all passes."""
_SMOOTHNESS: Final = 10.0
"""On their second differences."""
_STEPS: Final = 40


def fit_score(sets: Sequence[tuple[Sequence[Asked], PrefixAnswers]], *, by_frame: bool) -> StopScore:
    """Fit error model and score on the passes before the last.

    Args:
        sets: Questions about sets of frames, and their answers from all prefixes, the whole latent last.
        by_frame: Whether a pass's answers will be judged together.
    """
    lengths = sets[0][1].lengths
    errors = fit_errors(
        lengths,
        np.concatenate([answers.code_bits for _, answers in sets], axis=1),
        np.concatenate([answers.errors for _, answers in sets], axis=1),
    )
    empty = StopScore(lengths[-1], errors, {})
    types = np.array([item.answer_type for asked, _ in sets for item in asked])
    features = np.concatenate([_early_features(empty, answers, asked) for asked, answers in sets], axis=1)
    agrees = np.concatenate([answers.texts[:-1] == answers.texts[-1] for _, answers in sets], axis=1)
    models = {}
    for kind in sorted(set(types.tolist())):
        chosen = types == kind
        models[AnswerType(kind)] = fit_additive(
            features[:, chosen].reshape(-1, len(FEATURES)), agrees[:, chosen].reshape(-1)
        )
    return StopScore(lengths[-1], errors, models, by_frame)


def _early_features(score: StopScore, answers: PrefixAnswers, asked: Sequence[Asked]) -> NDArray[np.float64]:
    """Features of all passes before the last [P - 1, Q, features]."""
    owner = np.array([item.frame for item in asked], dtype=np.int64)
    early = list(zip(answers.lengths, answers.passes, strict=True))[:-1]
    return np.stack(
        [
            pass_features(score, length, inference_pass, answers.blind, answers.code_bits[row, owner])
            for row, (length, inference_pass) in enumerate(early)
        ]
    )


def fit_errors(lengths: tuple[int, ...], code_bits: NDArray[np.float64], errors_of: NDArray[np.float64]) -> ErrorModel:
    """Least squares of the logarithm of the feature error on that of the code length, for each prefix length.

    Args:
        lengths: In latents [P].
        code_bits: Of the prefixes [P, F].
        errors_of: Feature errors of the prefixes [P, F].
    """
    offsets, slopes = [], []
    for bits, errors in zip(code_bits, errors_of, strict=True):
        x, y = np.log(np.maximum(bits, 1.0)), np.log(np.maximum(errors, 1e-9))
        spread = float(((x - x.mean()) ** 2).sum())
        slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
        slopes.append(round(slope, 6))
        offsets.append(round(float(y.mean() - slope * x.mean()), 6))
    return ErrorModel(lengths, tuple(offsets), tuple(slopes))


def fit_additive(features: NDArray[np.float64], agrees: NDArray[np.bool_]) -> AdditiveScore:
    """Penalised logistic regression on hat functions around quantiles of each feature, by Newton's method.

    Args:
        features: [n, d].
        agrees: Outcomes [n].
    """
    knots = [_knots(column) for column in features.T]
    sizes = [len(places) for places in knots]
    x = np.concatenate([np.ones((len(features), 1)), *map(_hats, features.T, knots)], axis=1)
    penalty = np.diag([1e-3, *[_RIDGE] * sum(sizes)])  # on the bias, to keep it finite where all agree
    for start, size in zip(np.cumsum([1, *sizes[:-1]]), sizes, strict=True):
        bends = np.diff(np.eye(size), 2, axis=0)
        penalty[start : start + size, start : start + size] += _SMOOTHNESS * bends.T @ bends
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (agrees - chance) - penalty @ weights
        step = np.linalg.solve((x * (chance * (1 - chance))[:, None]).T @ x + penalty, gradient)
        weights += step
        if float(np.abs(step).max()) < 1e-8:
            break
    values = np.split(weights[1:], np.cumsum(sizes)[:-1])
    return AdditiveScore(
        round(float(weights[0]), 5),
        tuple(tuple(places.tolist()) for places in knots),
        tuple(tuple(round(float(value), 5) for value in row) for row in values),
    )


def _knots(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles of a feature, at least two places."""
    places = np.unique(np.quantile(column, np.linspace(0, 1, _KNOTS)).round(6))
    return places if len(places) > 1 else np.array([places[0], places[0] + 1.0])


def _hats(column: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of the knots around each value [n, knots]: what `np.interp` weighs them with."""
    return np.stack([np.interp(column, knots, unit) for unit in np.eye(len(knots))], axis=1)


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
