"""The score of an answer from a prefix: the estimated chance that the whole latent gives the same answer.

A logistic model for each answer type, fitted by ``latentbus codec calibrate-stop`` without labels: what it estimates is
agreement with the answer from the whole latent. The guarantee of the stop rule does not depend on its quality, only
the savings do. Everything that it reads belongs to the look itself, so that a worker that takes a frame over scores as
the one before it did.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
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
class StopScore:
    """Coefficients of the score.

    Attributes:
        latent_count: Latents of a whole frame.
        errors: Prediction of the feature error.
        weights: For each answer type a bias and one weight a feature, in the order of `FEATURES`.
    """

    latent_count: int
    errors: ErrorModel
    weights: Mapping[AnswerType, tuple[float, ...]]

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
        """Estimated chance that the whole latent gives the same answer, in [0, 1]; 0 for a type without weights.

        Args:
            features: From `features` [Q, features].
            answer_type: Of the questions.
        """
        weights = self.weights.get(answer_type)
        if weights is None:
            return np.zeros(len(features))
        activation = weights[0] + features @ np.array(weights[1:])
        return np.asarray(1 / (1 + np.exp(-np.clip(activation, -30, 30))), dtype=np.float64)

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
            "weights": {str(name): list(row) for name, row in sorted(self.weights.items())},
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
                {AnswerType(name): tuple(float(x) for x in row) for name, row in data["weights"].items()},
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
        rows = [model.offsets, model.slopes, *self.weights.values()]
        if any(len(row) != len(FEATURES) + 1 for row in self.weights.values()):
            raise ValueError(f"a score has a bias and {len(FEATURES)} weights")
        if not all(math.isfinite(value) for row in rows for value in row):
            raise ValueError("a coefficient of the score is not finite")
