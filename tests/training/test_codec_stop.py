"""The stop rule's thresholds: the test statistic, the guarantee in simulation, policies over measured answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.protocol.stop_rule import NEVER
from schemas.types import AnswerType
from training.codec.data import Asked
from training.codec.measure import PrefixAnswers
from training.codec.stop import Policy, apply_policy, calibrate_thresholds, choose_ladder, hoeffding_bentkus
from training.codec.wire_bytes import open_wire_bytes, refine_wire_bytes

RISK, DELTA = 0.05, 0.1


def simulated(
    frames: int, *, seed: int, honest: bool = True, lengths: tuple[int, ...] = (4, 8)
) -> tuple[PrefixAnswers, tuple[Asked, ...]]:
    """Two questions a frame; at the first look an answer is right with its own probability, or one is always as sure
    as the other."""
    rng = np.random.default_rng(seed)
    asked = tuple(Asked(i // 2, "?", AnswerType.YES_NO, "existence", "yes") for i in range(2 * frames))
    texts, scores = [], []
    for place in range(len(lengths) - 1):
        score = 1 - rng.beta(0.4, 2.5, 2 * frames) / (place + 1)
        right = rng.random(2 * frames) < (score if honest else 0.7)
        texts.append(["yes" if ok else "no" for ok in right])
        scores.append(score)
    texts.append(["yes"] * (2 * frames))
    scores.append(np.ones(2 * frames))
    payload = np.repeat(np.array(lengths)[:, None] * 20, frames, axis=1)
    return PrefixAnswers(lengths, tuple(texts), np.array(scores), payload), asked


def everything(frames: int) -> NDArray[np.bool_]:
    return np.ones(frames, dtype=np.bool_)


@pytest.mark.parametrize(("errors", "count"), [(0, 100), (3, 200), (10, 500), (40, 1000)])
def test_p_value_covers_the_exact_binomial_tail(errors: int, count: int) -> None:
    tail = math.fsum(math.comb(count, k) * RISK**k * (1 - RISK) ** (count - k) for k in range(errors + 1))
    found = hoeffding_bentkus(errors / count, count, RISK)
    assert tail <= found <= min(1.0, math.e * tail) + 1e-12


def test_p_value_is_large_at_and_above_the_risk() -> None:
    assert hoeffding_bentkus(RISK, 400, RISK) > 0.5
    assert hoeffding_bentkus(2 * RISK, 400, RISK) > 0.9
    assert hoeffding_bentkus(0.0, 1, RISK) > 0.9


def test_thresholds_keep_their_promise_on_new_frames() -> None:
    """At most `DELTA` of calibrations may exceed the risk; each is judged on many new frames."""
    answers, asked = simulated(4_000, seed=1_000)
    broken, early = 0, []
    for seed in range(25):
        few, few_asked = simulated(400, seed=seed)
        policy = calibrate_thresholds(few, few_asked, everything(400), (4, 8), RISK, DELTA)
        result = apply_policy(policy, answers, asked, everything(4_000))
        broken += result.risk > RISK
        early.append(result.early_share)
    assert broken <= 5  # 2.5 expected at most
    assert np.mean(early) > 0.3, "a rule that never stops early keeps any promise"


def test_scores_that_say_nothing_stop_nothing() -> None:
    answers, asked = simulated(800, seed=0, honest=False)
    policy = calibrate_thresholds(answers, asked, everything(800), (4, 8), RISK, DELTA)
    result = apply_policy(policy, answers, asked, everything(800))
    assert result.early_share < 0.2
    assert result.risk <= RISK


def test_an_answer_type_without_questions_waits_for_the_whole() -> None:
    answers, asked = simulated(300, seed=0)
    nobody = np.zeros(300, dtype=np.bool_)
    assert calibrate_thresholds(answers, asked, nobody, (4, 8), RISK, DELTA).thresholds == {AnswerType.YES_NO: NEVER}


def test_policy_figures_add_up_by_hand() -> None:
    """Two frames of two questions: one is done at once, the other refines because one of its answers is not safe."""
    asked = tuple(Asked(frame, "?", AnswerType.COUNT, "count", "two") for frame in (0, 0, 1, 1))
    answers = PrefixAnswers(
        lengths=(4, 8),
        texts=(["two", "three", "two", "one"], ["two", "two", "two", "two"]),
        probabilities=np.array([[0.95, 0.99, 0.95, 0.2], [1.0, 1.0, 1.0, 1.0]]),
        payload_bytes=np.array([[50, 60], [90, 100]]),
    )
    result = apply_policy(Policy((4, 8), {AnswerType.COUNT: 0.9}), answers, asked, everything(2))
    assert result.risk == pytest.approx(0.25)  # "three", said early, of four answers
    assert result.early_share == pytest.approx(0.75)
    assert result.refined_share == pytest.approx(0.5)
    assert result.looks == pytest.approx(1.5)
    assert result.payload_bytes == pytest.approx((50 + 60 + 41) / 2)
    assert result.wire_bytes == pytest.approx(
        (open_wire_bytes(50, 2) + open_wire_bytes(60, 2) + refine_wire_bytes(41)) / 2
    )
    assert result.whole_wire_bytes == pytest.approx((open_wire_bytes(90, 2) + open_wire_bytes(100, 2)) / 2)


def test_the_cheapest_admissible_ladder_is_chosen() -> None:
    answers, asked = simulated(500, seed=3, lengths=(2, 6, 20))
    ladder, table = choose_ladder(answers, asked, everything(500), RISK, DELTA, (0.02, 0.98))
    assert sorted(map(tuple, (row["ladder"] for row in table))) == [(2, 6, 20), (2, 20), (6, 20)]
    admissible = [row for row in table if 0.02 <= row["refined_share"] <= 0.98]
    assert list(ladder) == min(admissible, key=lambda row: row["wire_bytes"])["ladder"]
    assert choose_ladder(answers, asked, everything(500), RISK, DELTA, (2.0, 3.0))[0] == (20,)


def test_wire_bytes_grow_by_the_payload() -> None:
    assert open_wire_bytes(181, 3) - open_wire_bytes(101, 3) == 80
    assert 90 < open_wire_bytes(100, 1) - 100 < 260
    assert 250 < refine_wire_bytes(50) - 50 < 420
