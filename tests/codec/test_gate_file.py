"""The change gate of a codec folder: what is compared, what is kept, and what becomes of a damaged file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec.gate_file import (
    GATE_FILE,
    GATE_WEIGHTS_FILE,
    GateDistance,
    GateFile,
    GateLimits,
    find_gate_file,
)
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.spec import TABLES_FILE, CodecSpec, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from schemas.errors import ArtifactError
from schemas.types import AnswerType
from tests.edge.support import LATENT_DIM, LATENTS, write_codec
from tests.protocol.fake_latents import FakeLatent

SYMBOLS = LATENTS * LATENT_DIM


def compared(largest: int = 2) -> GateDistance:
    """Every symbol is a coefficient of its own, but the last, which refines the first."""
    coefficient = np.arange(SYMBOLS, dtype=np.int32)
    coefficient[-1] = 0
    unit = np.ones(SYMBOLS, np.int32)
    unit[0] = 3
    return GateDistance(coefficient, unit, np.ones(SYMBOLS - 1, np.float32), largest)


def gate_of(spec: CodecSpec) -> GateFile:
    limits = (
        GateLimits(0.005, {AnswerType.YES_NO: 4.0}),
        GateLimits(0.01, {AnswerType.YES_NO: 9.0, AnswerType.COUNT: 6.0}),
    )
    closed = {AnswerType.WORD: "lost 0.02"}
    return GateFile(spec.fingerprint.hex(), 0.01, limits, compared(), closed, {"clips": 600})


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    return write_codec(tmp_path / "codec")


@pytest.fixture
def spec(codec: Path) -> CodecSpec:
    return load_codec_spec(codec)


def test_a_saved_gate_is_read_again(codec: Path, spec: CodecSpec) -> None:
    assert find_gate_file(codec, spec) is None
    saved = gate_of(spec)
    saved.save(codec)
    read = find_gate_file(codec, spec)
    assert read is not None
    assert (read.risk, read.limits, read.closed, read.calibrated_on) == (
        saved.risk, saved.limits, saved.closed, saved.calibrated_on,
    )  # fmt: skip
    for name in ("coefficient", "unit", "weights"):
        np.testing.assert_array_equal(getattr(read.compared, name), getattr(saved.compared, name))
    assert read.compared.largest == 2


def test_a_limit_is_that_of_the_largest_proved_risk_that_is_accepted(spec: CodecSpec) -> None:
    gate = gate_of(spec)
    limits = {risk: gate.limit(AnswerType.YES_NO, risk) for risk in (0.004, 0.005, 0.009, 0.01, 1.0)}
    assert limits == {0.004: None, 0.005: 4.0, 0.009: 4.0, 0.01: 9.0, 1.0: 9.0}
    assert gate.limit(AnswerType.COUNT, 0.005) is None
    assert gate.limit(AnswerType.WORD, 1.0) is None


def test_planes_of_one_coefficient_are_put_together_before_they_are_compared() -> None:
    """From 1 to 2 the coarse plane takes a step of 3 up and the fine one two down: together they moved by one."""
    before, now = np.zeros((LATENTS, LATENT_DIM), np.int32), np.zeros((LATENTS, LATENT_DIM), np.int32)
    before.flat[-1] = 1
    now.flat[0], now.flat[-1] = 1, -1
    distance = compared(largest=1)
    assert distance.between(distance.look(before), distance.look(now)) == 1.0


def test_few_large_differences_count_and_many_small_ones_do_not() -> None:
    distance = compared()
    still = np.zeros((LATENTS, LATENT_DIM), np.int32)
    noisy, visited = still + 1, still.copy()
    visited.flat[5] = visited.flat[6] = 6
    apart = [distance.between(distance.look(still), distance.look(other)) for other in (noisy, visited)]
    assert apart[0] < apart[1] / 2


def test_what_always_moves_weighs_little() -> None:
    coefficient, unit = np.arange(4, dtype=np.int32), np.ones(4, np.int32)
    distance = GateDistance.of_noise(coefficient, unit, np.array([0.0, 0.0, 0.0, 8.0]), 0.25)
    look = distance.look
    restless, event = np.array([[0, 0, 0, 3]], np.int32), np.array([[3, 0, 0, 0]], np.int32)
    nothing = look(np.zeros((1, 4), np.int32))
    assert distance.between(nothing, look(restless)) * 100 < distance.between(nothing, look(event))


@given(st.integers(0, 2**32 - 1))
def test_a_distance_is_symmetric_and_zero_for_the_same_symbols(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(-32_767, 32_768, (2, LATENTS, LATENT_DIM)).astype(np.int32)
    distance = compared()
    one, other = distance.look(first), distance.look(second)
    assert distance.between(one, one) == 0.0
    assert np.isfinite(distance.between(one, other))
    assert distance.between(one, other) == distance.between(other, one)


def test_latents_of_an_encoder_are_looked_at_and_others_are_not(codec: Path, spec: CodecSpec) -> None:
    gate = gate_of(spec)
    symbols = np.arange(SYMBOLS, dtype=np.int32).reshape(LATENTS, LATENT_DIM)
    latent = EncodedLatent(symbols, FrequencyTables.load(codec / TABLES_FILE))
    assert gate.distance(gate.look(latent), gate.look(latent)) == 0.0
    with pytest.raises(TypeError, match="FakeLatent has no symbols"):
        gate.look(FakeLatent())


def test_a_gate_of_another_codec_is_refused_with_both_fingerprints(codec: Path, spec: CodecSpec) -> None:
    gate_of(spec).save(codec)
    other = spec.model_copy(update={"version": 2})
    with pytest.raises(ArtifactError) as caught:
        find_gate_file(codec, other)
    assert spec.fingerprint.hex()[:8] in str(caught.value)
    assert other.fingerprint.hex()[:8] in str(caught.value)
    assert "calibrate-gate" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"fingerprint": None},
        {"risk": 0},
        {"risk": "much"},
        {"limits": [{"risk": 2, "by_type": {}}]},
        {"limits": [{"risk": 0.01, "by_type": {"yes_no": -1}}]},
        {"limits": [{"risk": 0.01, "by_type": {"yes_no": float("nan")}}]},
        {"limits": [{"risk": 0.01, "by_type": {"smell": 1}}]},
        {"limits": 3},
        {"closed": {"word": 1, "smell": 2}},
        {"largest": 0},
        {"largest": 10_000},
        {"weights_sha256": "0" * 64},
        {"calibrated_on": None},
    ],
)
def test_a_damaged_file_is_named_with_its_fix(codec: Path, spec: CodecSpec, change: dict[str, Any]) -> None:
    gate_of(spec).save(codec)
    path = codec / GATE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=r"no usable change gate.*latentbus codec calibrate-gate"):
        find_gate_file(codec, spec)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_a_damaged_file(codec: Path, spec: CodecSpec, content: bytes) -> None:
    gate_of(spec).save(codec)
    (codec / GATE_FILE).write_bytes(content)
    with pytest.raises(ArtifactError):
        find_gate_file(codec, spec)


def test_weights_that_were_cut_off_are_noticed(codec: Path, spec: CodecSpec) -> None:
    gate_of(spec).save(codec)
    weights = codec / GATE_WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="missing, damaged or of another calibration"):
        find_gate_file(codec, spec)
    weights.unlink()
    with pytest.raises(ArtifactError, match="missing, damaged or of another calibration"):
        find_gate_file(codec, spec)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"unit": np.zeros(4, np.int32)}, "unit below 1"),
        ({"weights": np.array([1, 0, 1, 1], np.float32)}, "no positive number"),
        ({"weights": np.array([1, np.inf, 1, 1], np.float32)}, "no positive number"),
        ({"coefficient": np.array([0, 1, 2, 4], np.int32)}, "none of the 4 coefficients"),
        ({"coefficient": np.arange(3, dtype=np.int32)}, "one length"),
        ({"largest": 5}, "largest is 5"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, Any], match: str) -> None:
    whole: dict[str, Any] = {"coefficient": np.arange(4, dtype=np.int32), "unit": np.ones(4, np.int32),
             "weights": np.ones(4, np.float32), "largest": 1}  # fmt: skip
    GateDistance(**whole)
    with pytest.raises(ValueError, match=match):
        GateDistance(**(whole | change))


def test_a_gate_of_other_shapes_is_refused(codec: Path, spec: CodecSpec) -> None:
    small = GateDistance(np.arange(4, dtype=np.int32), np.ones(4, np.int32), np.ones(4, np.float32), 1)
    GateFile(spec.fingerprint.hex(), 0.01, (), small, {}, {}).save(codec)
    with pytest.raises(ArtifactError, match="weighs 4 symbols, the codec has 32"):
        find_gate_file(codec, spec)
