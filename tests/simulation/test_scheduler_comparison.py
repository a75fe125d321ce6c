"""The comparison of orders of departure: the same work for all, and ours answers more of it on a thin uplink."""

from __future__ import annotations

import pytest

from pipeline.protocol.departure_queue import DepartureQueue
from pipeline.protocol.departures import Departure, TrafficClass
from pipeline.protocol.effects import InferencePass, PassQuery
from schemas.types import FrameId
from simulation.content import LADDER, LATENTS
from simulation.questions import standing
from simulation.scheduler_comparison import BASELINES, ORDERS, OURS, Workload, compare, ratio_with_interval
from simulation.uplink_orders import FirstComeFirstServed, RoundRobin
from simulation.uplink_workload import ComparisonPlan, ScoredModel

SMALL = ComparisonPlan(sites=2, cameras_per_site=8, duration_s=20.0, seed=5)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload.measured(SMALL)


def test_a_thin_uplink_answers_more_safely_and_in_time(workload: Workload) -> None:
    ours, *others = (workload.run(ORDERS[name]) for name in (OURS, *BASELINES))
    for other in others:
        assert ours.asked == other.asked
        assert ours.answered > 1.3 * other.answered
        assert ours.weighted > 1.2 * other.weighted
        assert ours.answered_per_kb > 1.3 * other.answered_per_kb
        assert ours.wire_bytes <= 1.02 * other.wire_bytes
        assert ours.degraded + ours.expired + ours.superseded + ours.failed + ours.answered == ours.asked


def test_a_wide_uplink_makes_all_orders_equal(workload: Workload) -> None:
    wide = Workload(ComparisonPlan(sites=2, cameras_per_site=8, duration_s=20.0, seed=5, uplink_share=20.0),
                    workload.need_kbps)  # fmt: skip
    results = [wide.run(order) for order in ORDERS.values()]
    assert len({(result.answered, result.wire_bytes) for result in results}) == 1
    assert results[0].answered == results[0].asked


def test_a_seed_gives_the_same_result(workload: Workload) -> None:
    assert workload.run(DepartureQueue) == workload.run(DepartureQueue)


def test_the_comparison_reports_every_order_with_intervals() -> None:
    plans = [ComparisonPlan(sites=1, cameras_per_site=6, duration_s=10.0, seed=seed) for seed in (1, 2)]
    told: list[None] = []
    rows = compare(plans, [0.5, 5.0], lambda: told.append(None))
    assert len(told) == len(plans) * (1 + 2 * len(ORDERS))
    for row in rows:
        assert set(row["orders"]) == set(ORDERS)
        assert set(row["ratios"]) == set(BASELINES)
        for ratios in row["ratios"].values():
            assert all(ratio is None or ratio["low"] <= ratio["ratio"] <= ratio["high"] for ratio in ratios.values())
    assert rows[1]["ratios"][BASELINES[0]]["answered"] == {"ratio": 1.0, "low": 1.0, "high": 1.0}


def test_the_interval_of_a_ratio() -> None:
    # Logarithms 0 and log 4: mean log 2, deviation of the mean log 2, times 12.706.
    interval = ratio_with_interval([2.0, 8.0], [2.0, 2.0])
    assert interval is not None
    assert interval["ratio"] == pytest.approx(2.0)
    assert interval["low"] == pytest.approx(2.0 ** (1 - 12.706), abs=1e-4)
    assert ratio_with_interval([1.0, 0.0], [1.0, 1.0]) is None


def _answers(stop: int, queries: int) -> list[tuple[str, float]]:
    model = ScoredModel(3, {"gate": 1.0})
    asked = tuple(PassQuery(f"id{index}", standing("site", "q0")) for index in range(queries))
    inference_pass = InferencePass("gate", FrameId(1, 0), 1, (), stop, asked, 1)
    return [(answer.text, answer.score) for answer in model.answer(inference_pass)]


def test_the_scores_of_the_comparison_are_honest() -> None:
    """A score is the chance that the last rung says the same: the comparison must not flatter who believes it."""
    final = _answers(LATENTS, 4000)
    first = _answers(LADDER[0], 4000)
    agree = [early[0] == late[0] for early, late in zip(first, final, strict=True)]
    for low in (0.5, 0.7, 0.9):
        chosen = [(score, same) for (_, score), same in zip(first, agree, strict=True) if low <= score < low + 0.1]
        mean_score = sum(score for score, _ in chosen) / len(chosen)
        share = sum(same for _, same in chosen) / len(chosen)
        assert share >= mean_score - 0.05


@pytest.mark.parametrize("order", [FirstComeFirstServed, RoundRobin])
def test_the_baselines_keep_everything(order: type[FirstComeFirstServed | RoundRobin]) -> None:
    queue = order(64.0)
    classes = [
        TrafficClass.REPORT,
        TrafficClass.OPEN,
        TrafficClass.OPEN,
        TrafficClass.FRAME_UNDER_WAY,
        TrafficClass.REPORT,
    ]
    for number, traffic_class in enumerate(classes):
        assert queue.put(Departure(traffic_class, "gate", str(number), "topic", lambda _now_s: None), 0.0)
    left = []
    while (departure := queue.pop(0.0)) is not None:
        left.append(departure.label)
    assert left == (["0", "1", "2", "3", "4"] if order is FirstComeFirstServed else ["3", "1", "0", "2", "4"])
