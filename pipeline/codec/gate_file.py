"""The calibrated change gate of a codec folder: limits in ``gate.json``, what it weighs in ``gate.safetensors``.

Two frames are compared by their coefficients: symbols put together again, over the planes that refine one another, in
units of the quantiser's step. Each squared difference is divided by what sensor noise, light and wind make of it on
still clips, and the mean of the largest few is the distance. A new object moves a few coefficients a lot; noise, rain
and wind move many a little.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from pipeline.codec.latent import EncodedLatent
from pipeline.codec.spec import CodecSpec, hash_file, read_json_file
from pipeline.protocol.effects import Latent
from schemas.errors import ArtifactError
from schemas.types import AnswerType

GATE_FILE: Final = "gate.json"
GATE_WEIGHTS_FILE: Final = "gate.safetensors"
VERSION: Final = 1
NOISE_FLOOR: Final = 0.05
"""Variance in steps that every coefficient has at least: one that never moved on still clips may move a little."""
_ROUNDING: Final = 1e-9
_MAX_PROBLEM_CHARS: Final = 200
_FIX: Final = "run `latentbus codec calibrate-gate`"

Look = NDArray[np.int16]
"""Coefficients of a frame in steps, int16 [C]."""


@dataclass(frozen=True, slots=True)
class GateDistance:
    """What is compared of two frames.

    Attributes:
        coefficient: of each symbol, which coefficient it is a part of, int32 [K * d].
        unit: steps that one unit of the symbol stands for, int32 [K * d].
        weights: of the squared difference of each coefficient, float32 [C].
        largest: differences that count, the largest ones.
    """

    coefficient: NDArray[np.int32]
    unit: NDArray[np.int32]
    weights: NDArray[np.float32]
    largest: int

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: they do not fit one another, or a weight is no positive number.
        """
        count = len(self.weights)
        shapes = self.coefficient.ndim == self.unit.ndim == self.weights.ndim == 1
        if not shapes or len(self.coefficient) != len(self.unit) or not count:
            raise ValueError("coefficient, unit and weights are not lists of one length each")
        if self.coefficient.min(initial=0) < 0 or self.coefficient.max(initial=0) >= count:
            raise ValueError(f"a symbol belongs to none of the {count} coefficients")
        if self.unit.min(initial=1) < 1 or not np.isfinite(self.weights).all() or self.weights.min() <= 0:
            raise ValueError("a unit below 1, or a weight that is no positive number")
        if not 1 <= self.largest <= count:
            raise ValueError(f"largest is {self.largest}, not 1 to {count}")

    @classmethod
    def of_noise(
        cls,
        coefficient: NDArray[np.int32],
        unit: NDArray[np.int32],
        variance: NDArray[np.float64],
        largest_share: float,
    ) -> Self:
        """Weights from what moves on still clips.

        Args:
            coefficient: as the attribute.
            unit: as the attribute.
            variance: mean squared difference of each coefficient between two frames of a still clip [C].
            largest_share: share of the coefficients that count.
        """
        weights = (1 / (variance + NOISE_FLOOR)).astype(np.float32)
        return cls(coefficient, unit, weights, max(1, round(largest_share * len(weights))))

    def look(self, symbols: NDArray[np.int32]) -> Look:
        """Coefficients of a frame.

        Args:
            symbols: int32 [K, d].
        """
        parts = (symbols.reshape(-1) * self.unit).astype(np.float64)
        whole = np.bincount(self.coefficient, parts, len(self.weights))
        return np.clip(whole, -32_768, 32_767).astype(np.int16)

    def between(self, before: Look, now: Look) -> float:
        """How far two frames are apart, 0 for the same."""
        apart = now.astype(np.float32) - before
        squared = self.weights * apart * apart
        return float(np.partition(squared, -self.largest)[-self.largest :].mean())


@dataclass(frozen=True, slots=True)
class GateLimits:
    """The largest distances at which an answer holds on, for one accepted risk.

    Attributes:
        risk: share of the answers that may differ because of the gate.
        by_type: limit of each answer type that was calibrated.
    """

    risk: float
    by_type: Mapping[AnswerType, float]

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: a risk outside (0, 1), or a limit that is no positive number.
        """
        if not 0 < self.risk < 1:
            raise ValueError(f"a risk of {self.risk}")
        if not all(math.isfinite(limit) and limit > 0 for limit in self.by_type.values()):
            raise ValueError(f"limits of risk {self.risk} are no positive numbers")


@dataclass(frozen=True, slots=True)
class GateFile:
    """The two files; a :class:`~pipeline.protocol.change_gate.GateRule`.

    Attributes:
        fingerprint: of the codec that it was calibrated for, hexadecimal.
        risk: the gate's own risk where a question says nothing.
        limits: for this and other risks, ascending.
        compared: what is compared.
        closed: answer types that the gate always asks, and why no limit could be proved.
        calibrated_on: clips, confidence and results of the calibration, for readers.
    """

    fingerprint: str
    risk: float
    limits: tuple[GateLimits, ...]
    compared: GateDistance
    closed: Mapping[AnswerType, str]
    calibrated_on: Mapping[str, Any]

    def look(self, latent: Latent) -> Look:
        """See :class:`~pipeline.protocol.change_gate.GateRule`.

        Raises:
            TypeError: a latent that has no symbols.
        """
        if not isinstance(latent, EncodedLatent):
            raise TypeError(f"a {type(latent).__name__} has no symbols to compare")
        return self.compared.look(latent.symbols)

    def distance(self, before: Look, now: Look) -> float:
        """See :class:`~pipeline.protocol.change_gate.GateRule`."""
        return self.compared.between(before, now)

    def limit(self, answer_type: AnswerType, risk: float) -> float | None:
        """See :class:`~pipeline.protocol.change_gate.GateRule`."""
        # A share of a risk that a person has written down may miss the number that it means by its last bit.
        accepted = risk * (1 + _ROUNDING)
        found = [
            limits.by_type[answer_type]
            for limits in self.limits
            if limits.risk <= accepted and answer_type in limits.by_type
        ]
        return max(found, default=None)

    def save(self, codec_dir: Path) -> None:
        """Write both files."""
        arrays = {name: getattr(self.compared, name) for name in ("coefficient", "unit", "weights")}
        weights = codec_dir / GATE_WEIGHTS_FILE
        weights.write_bytes(save(arrays))
        content = {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "risk": self.risk,
            "limits": [_row(limits) for limits in self.limits],
            "closed": {str(kind): why for kind, why in sorted(self.closed.items())},
            "largest": self.compared.largest,
            "weights_sha256": hash_file(weights),
            "calibrated_on": dict(self.calibrated_on),
        }
        (codec_dir / GATE_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def find_gate_file(codec_dir: Path, spec: CodecSpec) -> GateFile | None:
    """The change gate of a codec folder, None where there is none: an edge can do without.

    Raises:
        ArtifactError: it is damaged, or was calibrated for another codec.
    """
    path = codec_dir / GATE_FILE
    if not path.is_file():
        return None
    try:
        gate = _parse(json.loads(read_json_file(path)), codec_dir)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise ArtifactError(str(path), f"no usable change gate ({str(error)[:_MAX_PROBLEM_CHARS]}); {_FIX}") from None
    found = spec.fingerprint.hex()
    if gate.fingerprint != found:
        raise ArtifactError(
            str(path), f"was calibrated for a codec of fingerprint {gate.fingerprint[:8]}, not {found[:8]}: {_FIX}"
        )
    symbols = spec.latent_count * spec.latent_dim
    if len(gate.compared.unit) != symbols:
        raise ArtifactError(str(path), f"weighs {len(gate.compared.unit)} symbols, the codec has {symbols}: {_FIX}")
    return gate


def _row(limits: GateLimits) -> dict[str, Any]:
    return {"risk": limits.risk, "by_type": {str(kind): round(limit, 4) for kind, limit in limits.by_type.items()}}


def _parse(data: Any, codec_dir: Path) -> GateFile:
    if not isinstance(data, Mapping) or data.get("version") != VERSION:
        raise ValueError(f"not an object of version {VERSION}")
    try:
        fingerprint, calibrated_on = data["fingerprint"], data["calibrated_on"]
        if not isinstance(fingerprint, str) or not isinstance(calibrated_on, Mapping):
            raise ValueError("fingerprint or calibrated_on is missing or wrong")
        risk = float(data["risk"])
        limits = tuple(GateLimits(float(row["risk"]), _by_type(row["by_type"], float)) for row in data["limits"])
        largest, digest = int(data["largest"]), str(data["weights_sha256"])
        closed = _by_type(data["closed"], str)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"field {error} is missing or wrong") from None
    if not 0 < risk < 1:
        raise ValueError(f"a risk of {risk}")
    weights = codec_dir / GATE_WEIGHTS_FILE
    if not weights.is_file() or hash_file(weights) != digest:
        raise ValueError(f"{GATE_WEIGHTS_FILE} is missing, damaged or of another calibration")
    arrays = load_file(weights)
    types = {"coefficient": np.int32, "unit": np.int32, "weights": np.float32}
    if {name: array.dtype for name, array in arrays.items()} != types:
        raise ValueError(f"{GATE_WEIGHTS_FILE} holds other arrays than {', '.join(types)}")
    return GateFile(fingerprint, risk, limits, GateDistance(largest=largest, **arrays), closed, calibrated_on)


def _by_type(data: Mapping[str, Any], convert: Any) -> dict[AnswerType, Any]:
    return {AnswerType(kind): convert(value) for kind, value in data.items()}
