"""The log lines about an overload."""

from __future__ import annotations

from collections import Counter

from pipeline.protocol.worker_overload import REPEAT_S, OverloadNotices


def test_an_overload_is_told_now_and_then_and_its_end_once() -> None:
    counters: Counter[str] = Counter()
    outcomes: Counter[tuple[str, str]] = Counter()
    log = OverloadNotices(counters, outcomes)
    assert log.check(0, 0.0) is None
    counters["busy"] += 3
    outcomes["degraded", "standing"] += 1
    outcomes["answered", "ad_hoc"] += 3
    first = log.check(5, 1.0)
    assert first is not None
    assert (first.level, first.context["busy"], first.context["degraded_percent"], first.context["frames"]) == (
        "warning",
        3,
        25,
        5,
    )
    counters["busy"] += 1
    assert log.check(5, 2.0) is None
    second = log.check(5, 1.0 + REPEAT_S)
    assert second is not None
    assert (second.level, second.context["busy"]) == ("warning", 1)
    over = log.check(0, 1.0 + 2 * REPEAT_S)
    assert over is not None
    assert over.level == "info"
    assert log.check(0, 1.0 + 3 * REPEAT_S) is None
