from __future__ import annotations

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from edge_nodes.load_shedding_log import REPEAT_S, LoadSheddingLog
from edge_nodes.pool_problems import PoolProblems
from pipeline.protocol.effects import Decision
from pipeline.protocol.load_shedding import LoadShedding
from schemas.messages import Status
from schemas.types import FrameId, Outcome
from tests.protocol.questions import content


class SetClock:
    """A clock that stands where the test sets it."""

    time_s = 0.0

    def now_s(self) -> float:
        return self.time_s

    async def sleep(self, delay_s: float) -> None:
        raise AssertionError


@pytest.fixture
def lines() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as logs:
        yield logs  # type: ignore[misc]


def end(log: LoadSheddingLog, outcome: Outcome, *, ad_hoc: bool = False) -> None:
    log.query_ended(Decision("gate", FrameId(1, 0), "q", content("q", ad_hoc=ad_hoc), outcome), 1.0)


def worker(*, online: bool) -> Status:
    return Status(kind="worker", id="w1", boot=1, online=online, pool="main", fingerprint="aabbccdd")


def test_an_empty_pool_is_no_overloaded_one(lines: list[dict[str, object]]) -> None:
    load_shedding, clock, pool = LoadShedding(), SetClock(), PoolProblems("main", "aabbccdd")
    log = LoadSheddingLog(load_shedding, clock, pool)
    load_shedding.share = 0.5
    end(log, Outcome.EXPIRED)
    pool.worker_status(worker(online=True))
    clock.time_s = REPEAT_S
    end(log, Outcome.EXPIRED)
    pool.worker_status(worker(online=False))
    clock.time_s = 2 * REPEAT_S
    end(log, Outcome.EXPIRED)
    said = [str(line["event"]).partition(":")[0] for line in lines]
    assert said == ["no worker of pool main is online", "the pool is overloaded", "no worker of pool main is online"]


def test_an_operator_reads_when_an_overload_begins_how_deep_it_is_and_when_it_is_over(
    lines: list[dict[str, object]],
) -> None:
    load_shedding, clock = LoadShedding(), SetClock()
    pool = PoolProblems("main", "aabbccdd")
    pool.worker_status(worker(online=True))
    log = LoadSheddingLog(load_shedding, clock, pool)
    for _ in range(2):
        end(log, Outcome.ANSWERED)
    load_shedding.share = 0.95
    end(log, Outcome.ANSWERED)
    assert lines == [], "a small cut on a good day is no news"
    load_shedding.share = 0.375
    end(log, Outcome.EXPIRED, ad_hoc=True)
    end(log, Outcome.DEGRADED)
    assert [line["standing_share_percent"] for line in lines] == [38], "once, however many outcomes follow"
    clock.time_s = REPEAT_S
    end(log, Outcome.DEGRADED)
    assert (lines[1]["log_level"], lines[1]["degraded_percent"], lines[1]["expired_percent"]) == ("warning", 100, 0)
    load_shedding.share = 1.0
    end(log, Outcome.ANSWERED)
    end(log, Outcome.ANSWERED)
    assert [line["log_level"] for line in lines] == ["warning", "warning", "info"]
