"""Calibration of the stop rule: the test statistic, the guarantee in simulation, policies over passes, the fit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.codec.stop_score import FEATURES
from pipeline.codec.wire_bytes import open_uplink_bytes, open_wire_bytes, refine_uplink_bytes, refine_wire_bytes
from pipeline.protocol.stop_rule import NEVER
from schemas.errors import ConfigError
from schemas.types import AnswerType
from schemas.wire_cost import puback_wire_bytes
from training.codec.stop.learn_then_test import (
    Promise,
    betting_p_value,
    calibrate_thresholds,
    check_frames,
    frames_needed,
)
from training.codec.stop.pass_table import PassTable
from training.codec.stop.policy import (
    at_once_length,
    best_fixed_length,
    choose_ladder,
    first_rungs,
    fixed_lengths,
    oracle_rungs,
    run_policy,
    sent_at_once,
    statistics_of,
)
from training.codec.stop.score_fit import fit_additive, ranking
from training.codec.stop.verify import resplit_results
from training.codec.stop.verify_links import RATES_KBPS, ROUND_TRIPS_S, link_rows

RISK, DELTA = 0.05, 0.1
PROMISE = Promise(RISK, DELTA)
YES_NO, COUNT = AnswerType.YES_NO, AnswerType.COUNT


def simulated(frames: int, *, seed: int, honest: bool = True, lengths: tuple[int, ...] = (4, 8)) -> PassTable:
    """Two questions a frame; at a pass an answer is right with its own score as probability, or one is always as sure
    as the other."""
    rng = np.random.default_rng(seed)
    questions = 2 * frames
    scores, wrong = [], []
    for place in range(len(lengths) - 1):
        score = 1 - rng.beta(0.4, 2.5, questions) / (place + 1)
        scores.append(score)
        wrong.append(rng.random(questions) >= (score if honest else 0.7))
    scores.append(np.ones(questions))
    wrong.append(np.zeros(questions, dtype=np.bool_))
    payload = np.repeat(np.array(lengths)[:, None] * 20, frames, axis=1)
    owner = np.repeat(np.arange(frames), 2)
    return PassTable(lengths, np.array(scores), np.array(wrong), owner, (YES_NO,) * questions, payload)


def everything(frames: int) -> NDArray[np.bool_]:
    return np.ones(frames, dtype=np.bool_)


@pytest.mark.parametrize("questions", [1, 6])
@pytest.mark.parametrize("frames", [200, 1_000])
def test_a_risk_that_is_just_too_high_is_rarely_called_low(questions: int, frames: int) -> None:
    """The p-value is at most delta in at most a share of delta of the samples; frames of many questions, too."""
    rng = np.random.default_rng(frames + questions)
    losses = rng.binomial(questions, RISK, (1_500, frames)) / questions
    fooled = np.mean([betting_p_value(row, RISK, DELTA) <= DELTA for row in losses])
    assert fooled <= DELTA + 0.02


def test_a_low_risk_is_seen_and_the_sooner_the_more_questions_a_frame_has() -> None:
    rng = np.random.default_rng(0)
    seen = {
        questions: np.mean(
            [
                betting_p_value(rng.binomial(questions, 0.4 * RISK, 300) / questions, RISK, DELTA) <= DELTA
                for _ in range(200)
            ]
        )
        for questions in (1, 6)
    }
    assert seen[6] > 0.95
    assert 0.3 < seen[1] < seen[6]
    assert betting_p_value(np.full(400, RISK), RISK, DELTA) > 0.5
    assert betting_p_value(np.zeros(1), RISK, DELTA) > 0.9
    assert betting_p_value(np.zeros(0), RISK, DELTA) == 1.0


@pytest.mark.parametrize("lengths", [(4, 8), (2, 4, 8)])
@pytest.mark.parametrize("start", [0, "chosen"])
def test_thresholds_keep_their_promise_on_new_frames(lengths: tuple[int, ...], start: int | str) -> None:
    """At most `DELTA` of calibrations may exceed the risk, wherever the passes begin; each is judged on many frames."""
    new = simulated(4_000, seed=1_000, lengths=lengths)
    broken, early = 0, []
    for seed in range(25):
        few = simulated(400, seed=seed, lengths=lengths)
        thresholds = calibrate_thresholds(few, everything(400), PROMISE)
        first: NDArray[np.int64] | int = 0
        if start == "chosen":
            first = first_rungs(new, statistics_of(few, thresholds, everything(400), by_frame=False))
        result = run_policy(new, thresholds, everything(4_000), first)
        broken += result.risk > RISK
        early.append(result.early_share)
    assert broken <= 5  # 2.5 expected at most
    assert start == "chosen" or np.mean(early) > 0.2, "a rule that never stops early keeps any promise"


def test_scores_that_say_nothing_stop_nothing() -> None:
    table = simulated(800, seed=0, honest=False)
    thresholds = calibrate_thresholds(table, everything(800), PROMISE)
    result = run_policy(table, thresholds, everything(800))
    assert result.early_share < 0.2
    assert result.risk <= RISK


def test_a_promise_by_type_is_kept_by_each_type() -> None:
    """One type is never right early: the other may stop all the same, and this one may not."""
    table = simulated(600, seed=1)
    types = tuple(YES_NO if index % 2 else COUNT for index in range(len(table.types)))
    wrong = table.wrong.copy()
    wrong[0, ::2] = True
    mixed = PassTable(table.lengths, table.scores, wrong, table.owner, types, table.payload_bytes)
    thresholds = calibrate_thresholds(mixed, everything(600), Promise(RISK, DELTA, by_type=True))
    assert thresholds[COUNT] > 0.999
    assert thresholds[YES_NO] < 0.999
    assert run_policy(mixed.of_type(COUNT), thresholds, everything(600)).risk <= RISK


def test_without_questions_everything_waits_for_the_whole() -> None:
    table = simulated(300, seed=0)
    nobody = np.zeros(300, dtype=np.bool_)
    assert calibrate_thresholds(table, nobody, PROMISE) == {YES_NO: NEVER}


def test_any_safe_pass_that_is_wrong_counts() -> None:
    """The first pass is right and the second wrong: a frame that begins at the second would be lost."""
    table = simulated(400, seed=0, lengths=(2, 4, 8))
    wrong = table.wrong.copy()
    wrong[0], wrong[1] = False, True
    flawed = PassTable(table.lengths, table.scores, wrong, table.owner, table.types, table.payload_bytes)
    (threshold,) = calibrate_thresholds(flawed, everything(400), PROMISE).values()
    assert run_policy(flawed, {YES_NO: threshold}, everything(400), 1).risk <= RISK


def by_hand() -> PassTable:
    """Two frames of two questions: one is done at once, the other refines because one of its answers is not safe."""
    return PassTable(
        lengths=(4, 8),
        scores=np.array([[0.95, 0.99, 0.95, 0.2], [1.0, 1.0, 1.0, 1.0]]),
        wrong=np.array([[False, True, False, True], [False] * 4]),
        owner=np.array([0, 0, 1, 1]),
        types=(COUNT,) * 4,
        payload_bytes=np.array([[50, 60], [90, 100]]),
    )


def test_policy_figures_add_up_by_hand() -> None:
    result = run_policy(by_hand(), {COUNT: 0.9}, everything(2))
    assert result.risk == pytest.approx(0.25)  # the second answer, said early, of four
    assert result.early_share == pytest.approx(0.75)
    assert result.refined_share == pytest.approx(0.5)
    assert result.looks == pytest.approx(1.5)
    assert result.payload_bytes == pytest.approx((50 + 60 + 41) / 2)
    assert result.wire_bytes == pytest.approx(
        (open_wire_bytes(50, 2) + open_wire_bytes(60, 2) + refine_wire_bytes(41)) / 2
    )
    whole = (open_wire_bytes(90, 2) + open_wire_bytes(100, 2)) / 2
    assert sent_at_once(by_hand(), everything(2), 1).wire_bytes == pytest.approx(whole)
    chosen = run_policy(by_hand(), {COUNT: 0.9}, everything(2), np.array([0, 1]))
    assert chosen.wire_bytes == pytest.approx((open_wire_bytes(50, 2) + open_wire_bytes(100, 2)) / 2)
    assert chosen.rounds == 0


def test_the_oracle_stops_where_answers_are_settled() -> None:
    table = by_hand()
    assert oracle_rungs(table).tolist() == [1, 1]
    settled = PassTable(
        table.lengths, table.scores, np.zeros_like(table.wrong), table.owner, table.types, table.payload_bytes
    )
    assert oracle_rungs(settled).tolist() == [0, 0]


def test_the_cheapest_ladder_is_chosen() -> None:
    table = simulated(500, seed=3, lengths=(2, 6, 20))
    ladder, rows = choose_ladder(table, everything(500), PROMISE)
    assert sorted(map(tuple, (row["ladder"] for row in rows))) == [(2, 6, 20), (2, 20), (6, 20)]
    assert list(ladder) == rows[0]["ladder"]
    assert rows[0]["wire_bytes"] == min(row["wire_bytes"] for row in rows)


def test_the_best_fixed_prefix_is_the_shortest_that_is_proven() -> None:
    table = simulated(600, seed=2, lengths=(2, 4, 8))
    assert best_fixed_length(table, everything(600), PROMISE) == 8
    wrong = table.wrong.copy()
    wrong[1] = False
    assert (
        best_fixed_length(
            PassTable(table.lengths, table.scores, wrong, table.owner, table.types, table.payload_bytes),
            everything(600),
            PROMISE,
        )
        == 4
    )


def test_the_length_at_once_is_proven_and_no_rung() -> None:
    table = simulated(600, seed=2, lengths=(2, 4, 6, 8))
    wrong = table.wrong.copy()
    wrong[1:] = False
    proven = PassTable(table.lengths, table.scores, wrong, table.owner, table.types, table.payload_bytes)

    def found(of: PassTable, ladder: tuple[int, ...]) -> int | None:
        return at_once_length(of, ladder, everything(600), PROMISE)

    assert found(proven, (2, 8)) == 4
    assert found(proven, (4, 8)) == 6, "a pass of the ladder would take it for its own"
    assert found(proven, (4, 6, 8)) is None
    assert found(table, (2, 8)) is None, "nothing shorter than the whole is proven"


def test_where_one_length_is_cheaper_it_is_taken_and_keeps_the_promise() -> None:
    table = simulated(1_200, seed=5, lengths=(2, 4, 6, 8))
    wrong, scores = table.wrong.copy(), table.scores.copy()
    wrong[2:] = False
    scores[0] = 0.0  # a ladder of which the first pass never helps
    payload = np.repeat(np.array([20, 40, 50, 400])[:, None], 1_200, axis=1)
    measured = PassTable(table.lengths, scores, wrong, table.owner, table.types, payload)
    found = resplit_results(measured, (2, 8), PROMISE, 10, np.random.default_rng(1))
    assert found["mean_wire_bytes"] == found["best_fixed_wire_bytes"] < found["base_wire_bytes"]
    assert found["realised"] == found["realised_at_once"] == 0
    for row in link_rows(measured, (2, 8), PROMISE, 3, np.random.default_rng(1)):
        assert row["at_once_share"] == 1
        assert row["against_best"] == 1


def test_statistics_say_how_often_passes_are_safe() -> None:
    table = simulated(900, seed=4)
    payload = table.payload_bytes.copy()
    payload[-1] += np.arange(900) // 300 * 50
    sized = PassTable(table.lengths, table.scores, table.wrong, table.owner, table.types, payload)
    found = statistics_of(sized, {YES_NO: 0.9}, everything(900), by_frame=False)
    assert found.size_edges_bytes == (160.0, 210.0, 260.0)
    true = float((table.scores[0] >= 0.9).mean())
    assert np.mean([found.share(YES_NO, 0, size) for size in (160, 210, 260)]) == pytest.approx(true, abs=0.02)
    assert found.share(YES_NO, 1, 160) == 1.0


def test_resplits_keep_the_promise_and_report_every_baseline() -> None:
    table = simulated(1_000, seed=9, lengths=(2, 4, 8, 40))
    lines: list[str] = []
    report = resplit_results(table, (4, 40), PROMISE, 20, np.random.default_rng(0), progress=lines.append)
    assert len(lines) == 20
    assert lines[-1].endswith(": 20 of 20")
    json.dumps(report)
    assert report["resplits"] == 20
    assert report["resplits_above"] <= 5
    assert report["realised_ci95"][0] <= report["realised"] <= report["realised_ci95"][1]
    assert report["oracle_wire_bytes"] < report["mean_wire_bytes"] <= report["whole_wire_bytes"] + 0.1
    assert report["ratio_vs_best_fixed"] == pytest.approx(
        report["mean_wire_bytes"] / report["best_fixed_wire_bytes"], abs=1e-3
    )


def test_a_frame_that_is_judged_as_a_whole_has_one_score() -> None:
    together = by_hand().judged(by_frame=True)
    np.testing.assert_allclose(together.scores[0], [0.97, 0.97, 0.575, 0.575])
    assert by_hand().judged(by_frame=False).scores is not together.scores
    result = run_policy(together, {COUNT: 0.9}, everything(2))
    assert result.early_share == 0.5
    assert result.risk == pytest.approx(0.25)


def test_judging_frames_as_a_whole_saves_bytes_at_the_same_promise() -> None:
    """One unsure answer among sure ones costs a refinement of everything, and gains little."""
    rng = np.random.default_rng(11)
    frames, questions = 1_500, 6
    owner = np.repeat(np.arange(frames), questions)
    score = 1 - rng.beta(0.15, 2.0, len(owner))
    table = PassTable(
        (4, 8),
        np.stack([score, np.ones(len(owner))]),
        np.stack([rng.random(len(owner)) >= score, np.zeros(len(owner), dtype=np.bool_)]),
        owner,
        (YES_NO,) * len(owner),
        np.repeat(np.array([[900], [2_000]]), frames, axis=1),
    )
    spent = {}
    for by_frame in (False, True):
        judged = table.judged(by_frame=by_frame)
        thresholds = calibrate_thresholds(judged, everything(frames), PROMISE)
        result = run_policy(judged, thresholds, everything(frames))
        assert result.risk <= RISK
        spent[by_frame] = result.wire_bytes
    assert spent[True] < 0.95 * spent[False]


def test_fewer_questions_of_each_frame() -> None:
    table = simulated(300, seed=1)
    fewer = table.with_questions(1, np.random.default_rng(0))
    assert np.bincount(fewer.owner).tolist() == [1] * 300
    assert fewer.scores.shape == fewer.wrong.shape == (2, 300)
    assert len(fewer.types) == 300
    assert set(map(tuple, fewer.scores.T.tolist())) <= set(map(tuple, table.scores.T.tolist()))
    same = table.with_questions(9, np.random.default_rng(0))
    assert same.scores.tolist() == table.scores.tolist()


def test_on_every_link_the_policy_is_as_quick_as_its_ladder_and_as_the_whole_latent() -> None:
    table = simulated(1_000, seed=9, lengths=(2, 4, 8, 400))
    rows = link_rows(table, (4, 400), PROMISE, 3, np.random.default_rng(0))
    assert len(rows) == len(RATES_KBPS) * len(ROUND_TRIPS_S)
    for row in rows:
        assert row["policy_s"] <= min(row["base_s"], row["whole_s"]) * 1.01
    slow = next(row for row in rows if row["rate_kbps"] == 16 and row["round_trip_s"] == 0.03)
    satellite = next(row for row in rows if row["rate_kbps"] == 1_000 and row["round_trip_s"] == 0.6)
    assert slow["against_best"] < 0.9
    assert slow["sent_whole_share"] < satellite["sent_whole_share"]


def test_fixed_prefixes_have_more_lengths_than_ladders() -> None:
    assert fixed_lengths((10, 24, 40, 56, 73, 90, 108, 128)) == (10, 24, 40, 56, 73, 81, 90, 99, 108, 118, 128)
    assert fixed_lengths((1, 2, 3)) == (1, 2, 3)


def test_wire_bytes_grow_by_the_payload() -> None:
    assert open_wire_bytes(181, 3) - open_uplink_bytes(181, 3) == puback_wire_bytes()
    assert 100 < refine_uplink_bytes(50) - 50 < 200
    assert refine_wire_bytes(50) - refine_uplink_bytes(50) > 100
    assert open_wire_bytes(181, 3) - open_wire_bytes(101, 3) == 80
    assert 90 < open_wire_bytes(100, 1) - 100 < 260
    assert 250 < refine_wire_bytes(50) - 50 < 420


@pytest.mark.parametrize("risk", [0.005, 0.02, 0.1])
@pytest.mark.parametrize("delta", [0.01, 0.1])
def test_fewer_frames_cannot_prove_it_even_without_an_error(risk: float, delta: float) -> None:
    needed = frames_needed(risk, delta)
    assert (1 - risk) ** needed <= delta < (1 - risk) ** (needed - 1)
    assert betting_p_value(np.zeros(needed - 1), risk, delta) > delta
    assert betting_p_value(np.zeros(2 * needed), risk, delta) <= delta


@pytest.mark.parametrize("promises", [1, 3])
def test_what_cannot_be_promised_is_refused_with_what_can(promises: int) -> None:
    promise = Promise(0.02, DELTA, by_type=promises > 1)
    needed = frames_needed(0.02, DELTA / promises)
    check_frames(needed, promises, promise)
    with pytest.raises(ConfigError, match=f"at least {needed} frames") as caught:
        check_frames(needed - 1, promises, promise)
    smallest = float(str(caught.value).split("a risk of ")[-1].split()[0])
    check_frames(needed - 1, promises, replace(promise, risk=smallest + 0.001))
    with pytest.raises(ConfigError, match="cannot be promised"):
        check_frames(10_000, promises, replace(promise, risk=1.0))


def test_the_fit_finds_what_made_the_outcomes() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20_000, len(FEATURES))) * 2.0
    # Steep at first and flat later, which no straight line is; the others say nothing.
    activation = 2.0 * np.minimum(features[:, 0], 0.5) + 0.5
    agrees = rng.random(len(features)) < 1 / (1 + np.exp(-activation))
    model = fit_additive(features, agrees)
    model.check()
    true = 1 / (1 + np.exp(-activation))
    assert np.abs(model.chance(features) - true).mean() < 0.03
    # Beyond the outer knots it is flat.
    far = np.zeros((2, len(FEATURES)))
    far[:, 0] = [100.0, 1_000.0]
    assert model.chance(far)[0] == model.chance(far)[1]


def test_outcomes_and_features_that_are_all_alike_are_fitted_too() -> None:
    features = np.random.default_rng(0).normal(size=(50, len(FEATURES)))
    features[:, 3] = 1.0
    model = fit_additive(features, np.ones(50, dtype=np.bool_))
    model.check()
    assert (model.chance(features) > 0.5).all()


def test_ranking_is_the_chance_of_the_right_order() -> None:
    assert ranking(np.array([0.1, 0.4, 0.8]), np.array([False, True, True])) == 1.0
    assert ranking(np.array([0.5, 0.5]), np.array([False, True])) == 0.5
    assert ranking(np.array([0.9, 0.1]), np.array([False, True])) == 0.0
    assert ranking(np.array([0.9, 0.1]), np.array([True, True])) == 0.5
