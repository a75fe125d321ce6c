"""``latentbus status``: what is wrong comes first, and is in the exit status."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from latentbus.client.overview import Overview, overview_of, read_overview
from latentbus.reports.fleet_overview import UNSEEN, print_overview
from latentbus.reports.safe_console import SafeConsole
from pipeline.config.broker_settings import BrokerSettings
from pipeline.protocol.fleet_view import FleetView
from pipeline.protocol.settings import ClientProtocolSettings
from schemas import topics, wire
from schemas.messages import Status
from schemas.types import UplinkStage
from tests.cli.stand_in import EDGE, WORKER, standing_in

QUICK = ClientProtocolSettings(status_patience_s=0.2)


def changed(status: Status, **values: Any) -> Status:
    return status.model_copy(update=values)


def seen(*statuses: Status, workers: bool = True) -> Overview:
    fleet = FleetView()
    fleet.workers_are_seen = workers
    for status in statuses:
        fleet.observe(status)
    return overview_of(fleet)


def printed(overview: Overview) -> list[str]:
    console = SafeConsole(highlight=False, width=160, record=True, force_terminal=False)
    print_overview(overview, console)
    return console.export_text().splitlines()


def test_nothing_wrong() -> None:
    overview = seen(EDGE, WORKER)
    assert overview.healthy
    assert overview.problems == ()
    assert printed(overview)[0].startswith("good")
    [pool] = overview.pools
    assert (pool.pool, pool.workers, pool.capacity, pool.sites) == ("p", 1, 8, 1)


def test_what_is_wrong_comes_first_the_worst_before_all() -> None:
    tired = changed(EDGE, id="south", uplink=UplinkStage.STRETCHED, cameras=("dock",), pool="other")
    gone = changed(EDGE, id="west", online=False, cameras=("roof",))
    overview = seen(EDGE, tired, gone, WORKER)
    assert not overview.healthy
    assert [problem.severity for problem in overview.problems] == ["critical", "critical", "warning"]
    assert {problem.about for problem in overview.problems[:2]} == {"west", "other"}
    lines = printed(overview)
    assert [line.split()[0] for line in lines[:6]] == ["critical", "->", "critical", "->", "warning", "->"]
    assert overview.sites[0].site == "west"
    assert overview.cameras[-1].camera in ("gate", "yard")
    assert [camera.camera for camera in overview.cameras if camera.problem] == ["dock", "roof"]


def test_a_camera_of_two_sites_is_a_problem() -> None:
    overview = seen(EDGE, changed(EDGE, id="south", cameras=("gate",)), WORKER)
    [problem] = overview.problems
    assert (problem.kind, problem.about, problem.severity) == ("camera-twice", "gate", "critical")
    assert problem.text == "camera gate is served by sites north and south"


def test_without_the_right_to_see_workers_it_says_so() -> None:
    overview = seen(EDGE, workers=False)
    assert overview.healthy
    assert UNSEEN in printed(overview)


@pytest.mark.broker
async def test_the_backlog_is_that_of_now(broker_settings: BrokerSettings) -> None:
    """A retained status is of the birth of a worker; what it holds comes with its loads."""
    second = changed(WORKER, id="w2")
    async with standing_in(broker_settings, EDGE, WORKER, second) as far, asyncio.timeout(60):
        looking = asyncio.create_task(read_overview(broker_settings, look_s=60, settings=QUICK))
        loads = {"w1": 7, "w2": 5}
        while not looking.done():
            for name, frames in loads.items():
                load = changed(WORKER, id=name, parked=frames, capacity=16)
                await far.bus.publish(topics.load_topic("p", name), wire.encode(load), qos=1)
        overview = await looking
    [pool] = overview.pools
    assert (pool.frames, pool.capacity, pool.workers) == (12, 32, 2)
    assert json.loads(json.dumps(overview.as_dict()))["pools"][0]["frames"] == 12


@pytest.mark.broker
def test_the_command_and_its_exit_status(broker_settings: BrokerSettings) -> None:
    from typer.testing import CliRunner

    from latentbus.cli import app

    where = ["-H", broker_settings.host, "-p", str(broker_settings.port)]

    async def told(*statuses: Status) -> None:
        async with standing_in(broker_settings, *statuses):
            pass

    asyncio.run(told(EDGE))
    result = CliRunner().invoke(app, ["status", *where, "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [problem["kind"] for problem in found["problems"]] == ["pool-empty"]
    assert [camera["camera"] for camera in found["cameras"]] == ["gate", "yard"]
    asyncio.run(told(EDGE, changed(WORKER, online=True)))
    assert CliRunner().invoke(app, ["status", *where]).exit_code == 0
