"""The budget of the uplink on disk and in a real edge process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edge_nodes.uplink_spending import SpendingFile, UplinkSpending, uplink_budget
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings, UplinkBudgetSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.node.clock import wall_clock
from pipeline.node.work_thread import WorkThread
from pipeline.protocol.calendar_periods import DAY_S, Days
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.reasons import UPLINK_BUDGET
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.site_settings import SiteSettings
from pipeline.protocol.uplink_budget import PeriodSpending, StoreSpending
from schemas import topics
from schemas.messages import Ask, QueryOutcome, Status
from schemas.types import Outcome, UplinkStage
from tests.edge.running import listening, running
from tests.edge.support import SkippingClock

SPENT = StoreSpending({"day": PeriodSpending(20_000, 77, 3), "month": PeriodSpending(24_000, 99)})


def test_what_was_spent_is_read_back(tmp_path: Path) -> None:
    file = SpendingFile(tmp_path / "state" / "uplink-north.json")
    assert file.read() is None
    file.write(SPENT)
    assert file.read() == SPENT
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["uplink-north.json"]


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"{}x", b'{"day": [1, -5, null]}', b'{"day": "x"}', b"[1]"])
def test_a_damaged_file_is_set_aside_and_the_site_is_not_dark(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "uplink-north.json"
    path.write_bytes(content)
    assert SpendingFile(path).read() is None
    assert path.with_name("uplink-north.json.damaged").read_bytes() == content
    assert not path.exists()


@pytest.mark.parametrize("cut", range(0, 45, 3))
def test_a_power_cut_while_it_is_written_leaves_what_was_there(tmp_path: Path, cut: int) -> None:
    """What is half written has another name."""
    path = tmp_path / "uplink-north.json"
    file = SpendingFile(path)
    file.write(SPENT)
    path.with_name(".uplink-north.json.new").write_bytes(path.read_bytes()[:cut])
    assert SpendingFile(path).read() == SPENT
    file.write(SPENT)
    assert SpendingFile(path).read() == SPENT


def test_a_disk_that_refuses_costs_one_line_and_no_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state"
    path.write_text("a file where the folder should be")
    file = SpendingFile(path / "uplink-north.json")
    for _ in range(3):
        file.write(SPENT)
    path.unlink()
    file.write(SPENT)
    said = capsys.readouterr().out
    assert said.count("cannot be stored") == 1
    assert said.count("is stored again") == 1
    assert file.read() == SPENT


def test_a_budget_needs_a_limit_and_a_place() -> None:
    camera = {"gate": CameraSettings(source="test:1")}
    with pytest.raises(ValidationError, match="state_dir"):
        EdgeSettings(site="north", cameras=camera, uplink_budget=UplinkBudgetSettings(day_mb=5))
    with pytest.raises(ValidationError, match="day_mb and month_mb"):
        UplinkBudgetSettings()
    budget = uplink_budget(UplinkBudgetSettings(day_mb=1.5, month_mb=20, month_begins=15))
    assert budget is not None
    assert (budget.day_bytes, budget.month_bytes, budget.month_begins) == (1_500_000, 20_000_000, 15)


async def test_the_clock_is_looked_at_each_minute_and_at_midnight(tmp_path: Path) -> None:
    clock, began_s = SkippingClock(), 20_000 * DAY_S - 90.0
    budget = uplink_budget(UplinkBudgetSettings(day_mb=1))
    settings = SiteSettings("north", "main", {"gate": ()}, budget=budget)
    session = EdgeSession(EdgeProtocolSettings(), settings, boot=1, fingerprint=b"\1\2\3\4")
    looks: list[float] = []

    def wall() -> tuple[float, float]:
        utc_s = began_s + clock.now_s() - 1_000.0
        looks.append(utc_s - 20_000 * DAY_S)
        return utc_s, clock.now_s()

    with WorkThread("disk") as thread:
        file = SpendingFile(tmp_path / "uplink.json")
        spending = UplinkSpending(session, file, thread, clock, lambda: None, wall=wall)
        for _ in range(4):
            await spending.look_once()
        assert looks == [-90.0, -30.0, 0.0, 60.0]
        for count in (1, 2):
            spending.store(StoreSpending({"day": PeriodSpending(1, count)}))
        await spending.flush()
        assert file.read() == StoreSpending({"day": PeriodSpending(1, 2)})


def test_time_that_passed_counts_sleep_where_the_system_can_say() -> None:
    utc_s, uptime_s = wall_clock()
    assert utc_s > uptime_s > 0


# ---- a real process --------------------------------------------------------------------------------------------------


@pytest.fixture
def make(broker_settings: BrokerSettings, codec_dir: Path, tmp_path: Path) -> Callable[..., LatentbusSettings]:
    def settings(**edge: Any) -> LatentbusSettings:
        values: dict[str, Any] = {
            "site": "depot",
            "codec": codec_dir,
            "cameras": {"gate": CameraSettings(source="test:1", interval_s=0.05, questions=("car",))},
            "questions": {"car": QuestionSettings(text="Is there a car?", deadline_ms=20_000)},
            "state_dir": tmp_path / "state",
            "uplink_budget": UplinkBudgetSettings(day_mb=1),
            **edge,
        }
        return LatentbusSettings(broker=broker_settings, edge=EdgeSettings.model_validate(values))

    return settings


@pytest.mark.broker
async def test_a_restart_remembers_what_was_spent(make: Callable[..., LatentbusSettings], tmp_path: Path) -> None:
    path = tmp_path / "state" / "uplink-depot.json"
    async with running(make()) as edge:
        await edge.watcher.until(lambda: len(edge.watcher.frames) > 3)
        assert await edge.end() == 0
        first = sum(sent.wire_bytes for sent in edge.watcher.sent)
    assert json.loads(path.read_bytes())["day"][1] == first
    async with running(make()) as edge:
        await edge.watcher.until(lambda: len(edge.watcher.frames) > 3)
        await edge.crash()
        second = sum(sent.wire_bytes for sent in edge.watcher.sent)
    stored = json.loads(path.read_bytes())["day"][1]
    assert first + second <= stored <= first + second + 0.004 * 1_000_000


@pytest.mark.broker
async def test_a_site_that_has_spent_its_budget_says_so_and_refuses(
    make: Callable[..., LatentbusSettings], tmp_path: Path, broker_settings: BrokerSettings
) -> None:
    today = Days().number(wall_clock()[0])
    SpendingFile(tmp_path / "state" / "uplink-depot.json").write(StoreSpending({"day": PeriodSpending(today, 960_000)}))
    filters = topics.status_topic("edge", "depot"), topics.outcome_topic("gate")
    async with listening(broker_settings, *filters) as listener, running(make()) as edge:
        _, status = await listener.next(Status)
        assert isinstance(status, Status)
        assert status.uplink is UplinkStage.SPENT
        await listener.ask("gate", Ask(query_id="q1", text="Is the gate open?", deadline_ms=20_000))
        _, outcome = await listener.next(QueryOutcome)
        assert isinstance(outcome, QueryOutcome)
        assert (outcome.question_id, outcome.outcome) == ("q1", Outcome.FAILED)
        assert outcome.reason.startswith(f"{UPLINK_BUDGET}: ")
        assert not edge.watcher.frames
        assert await edge.end() == 0
