"""The score of an answer from a prefix: the estimated chance that the whole latent gives the same answer.

An additive logistic model for each answer type (a generalised additive model, Hastie and Tibshirani 1986): the log odds
are a sum of one piecewise linear curve a feature. ``latentbus codec calibrate-stop`` fits it without labels: what it
estimates is agreement with the answer from the whole latent. The guarantee of the stop rule does not depend on its
quality, only the savings do. Everything that it reads belongs to the pass itself, so that a worker that takes a frame
over scores as the one before it did.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.types import AnswerType

FEATURES: Final = (
    "log_odds",
    "margin",
    "entropy_nats",
    "agrees_with_blind",
    "blind_log_odds",
    "prefix_share",
    "predicted_log_error",
    "log_odds_times_share",
    "margin_times_share",
)
"""The products let the evidence of an answer count more, or less, from a longer prefix."""
_JUDGED: Final = ("question", "frame")
_CLIP: Final = 1e-5
"""Probabilities are held this far from 0 and 1."""


def log_odds(probability: ArrayLike) -> NDArray[np.float64]:
    """Logarithm of the odds of a probability, finite."""
    held = np.clip(np.asarray(probability, dtype=np.float64), _CLIP, 1 - _CLIP)
    return np.log(held / (1 - held))


@dataclass(frozen=True, slots=True)
class ErrorModel:
    """Predicted feature error of a prefix from its code length: what a frame still lacks shows in what it has sent.

    The logarithm of the error over the tokens' variance is ``offset + slope * log(bits)``, for each rung.

    Attributes:
        rungs: Prefix lengths in latents, ascending.
        offsets: One a rung.
        slopes: One a rung.
    """

    rungs: tuple[int, ...]
    offsets: tuple[float, ...]
    slopes: tuple[float, ...]

    def log_error(self, length: int, code_bits: ArrayLike) -> NDArray[np.float64]:
        """Predicted logarithm of the error at a prefix length; between rungs that of the one below.

        Args:
            length: Latents of the prefix.
            code_bits: Its code length under the tables, of one or many frames.
        """
        rung = max(bisect_right(self.rungs, length) - 1, 0)
        bits = np.maximum(np.asarray(code_bits, dtype=np.float64), 1.0)
        return self.offsets[rung] + self.slopes[rung] * np.log(bits)


@dataclass(frozen=True, slots=True)
class AdditiveScore:
    """Log odds of agreement as a sum of curves, one a feature.

    Attributes:
        bias: Added to all curves.
        knots: For each feature ascending places, two at least; beyond the outer ones its curve is flat.
        values: Values of the curve at the knots; between them it is linear.
    """

    bias: float
    knots: tuple[tuple[float, ...], ...]
    values: tuple[tuple[float, ...], ...]

    def chance(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Estimated chance of agreement [Q].

        Args:
            features: [Q, features].
        """
        log_odds_sum = np.full(len(features), self.bias)
        for column, (knots, values) in enumerate(zip(self.knots, self.values, strict=True)):
            log_odds_sum += np.interp(features[:, column], knots, values)
        return np.asarray(1 / (1 + np.exp(-np.clip(log_odds_sum, -30, 30))), dtype=np.float64)

    def check(self) -> None:
        """Check shapes and values.

        Raises:
            ValueError: not one curve a feature, knots that do not rise, or a value that is not finite.
        """
        if not len(self.knots) == len(self.values) == len(FEATURES):
            raise ValueError(f"a score has {len(FEATURES)} curves")
        for knots, values in zip(self.knots, self.values, strict=True):
            if len(knots) < 2 or len(knots) != len(values) or list(knots) != sorted(set(knots)):
                raise ValueError("a curve of the score has one value for each of two or more rising knots")
        if not all(math.isfinite(value) for row in ((self.bias,), *self.knots, *self.values) for value in row):
            raise ValueError("a coefficient of the score is not finite")


@dataclass(frozen=True, slots=True)
class StopScore:
    """Coefficients of the score.

    Attributes:
        latent_count: Latents of a whole frame.
        errors: Prediction of the feature error.
        models: For each answer type its model.
        by_frame: Whether the answers of a pass are judged together, by the mean of their scores. A frame that needs
            more for one question needs it for all, so it stops where its expected share of wrong answers is small.
    """

    latent_count: int
    errors: ErrorModel
    models: Mapping[AnswerType, AdditiveScore]
    by_frame: bool = False

    def features(
        self,
        length: int,
        *,
        probability: ArrayLike,
        margin: ArrayLike,
        entropy_nats: ArrayLike,
        agrees_with_blind: ArrayLike,
        blind_probability: ArrayLike,
        code_bits: ArrayLike,
    ) -> NDArray[np.float64]:
        """What the score reads, of answers from prefixes of one length [Q, features].

        Args:
            length: Latents of the prefixes.
            probability: Of the answers [Q].
            margin: Of their first tokens [Q].
            entropy_nats: Of their first tokens [Q].
            agrees_with_blind: Whether an empty prefix gave the same answers [Q].
            blind_probability: Of the answers from an empty prefix [Q].
            code_bits: Code length of the prefixes [Q].
        """
        share = length / self.latent_count
        odds, margins = log_odds(probability), np.asarray(margin, dtype=np.float64)
        columns = (
            odds,
            margins,
            entropy_nats,
            agrees_with_blind,
            log_odds(blind_probability),
            share,
            self.errors.log_error(length, code_bits),
            odds * share,
            margins * share,
        )
        return np.stack(np.broadcast_arrays(*(np.asarray(column, dtype=np.float64) for column in columns)), axis=-1)

    def score(self, features: NDArray[np.float64], answer_type: AnswerType) -> NDArray[np.float64]:
        """Estimated chance that the whole latent gives the same answer, in [0, 1]; 0 for a type without a model.

        Args:
            features: From `features` [Q, features].
            answer_type: Of the questions.
        """
        model = self.models.get(answer_type)
        return np.zeros(len(features)) if model is None else model.chance(features)

    def of_pass(self, scores: Sequence[float], answer_types: Sequence[AnswerType]) -> list[float]:
        """Scores of the answers of one pass as the stop rule judges them, see `by_frame`.

        Args:
            scores: Of each answer.
            answer_types: Of each question; types without a model are left out of the mean.
        """
        known = [score for score, kind in zip(scores, answer_types, strict=True) if kind in self.models]
        if not self.by_frame or not known:
            return list(scores)
        mean = sum(known) / len(known)
        return [mean if kind in self.models else score for score, kind in zip(scores, answer_types, strict=True)]

    def as_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads."""
        return {
            "latent_count": self.latent_count,
            "features": list(FEATURES),
            "errors": {
                "rungs": list(self.errors.rungs),
                "offsets": list(self.errors.offsets),
                "slopes": list(self.errors.slopes),
            },
            "judged": _JUDGED[self.by_frame],
            "models": {
                str(name): {
                    "bias": model.bias,
                    "curves": [
                        {"knots": list(knots), "values": list(values)}
                        for knots, values in zip(model.knots, model.values, strict=True)
                    ],
                }
                for name, model in sorted(self.models.items())
            },
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The object ``score`` of ``stop.json``.

        Raises:
            ValueError: a field is missing or wrong.
        """
        try:
            if tuple(data["features"]) != FEATURES:
                raise ValueError(f"features {data['features']}, this version reads {', '.join(FEATURES)}")
            errors = data["errors"]
            made = cls(
                int(data["latent_count"]),
                ErrorModel(
                    tuple(int(rung) for rung in errors["rungs"]),
                    tuple(float(value) for value in errors["offsets"]),
                    tuple(float(value) for value in errors["slopes"]),
                ),
                {
                    AnswerType(name): AdditiveScore(
                        float(model["bias"]),
                        tuple(tuple(float(x) for x in curve["knots"]) for curve in model["curves"]),
                        tuple(tuple(float(x) for x in curve["values"]) for curve in model["curves"]),
                    )
                    for name, model in data["models"].items()
                },
                bool(_JUDGED.index(data["judged"])),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"field {error} of the score is missing or wrong") from None
        made._check()
        return made

    def _check(self) -> None:
        model = self.errors
        if self.latent_count < 1 or not len(model.rungs) == len(model.offsets) == len(model.slopes) >= 1:
            raise ValueError("the score's error model needs one offset and one slope a rung")
        if list(model.rungs) != sorted(set(model.rungs)):
            raise ValueError(f"rungs {model.rungs} of the error model do not rise")
        if not all(math.isfinite(value) for row in (model.offsets, model.slopes) for value in row):
            raise ValueError("a coefficient of the error model is not finite")
        for score in self.models.values():
            score.check()
