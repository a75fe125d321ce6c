"""Attacks on a real, secured fleet: it holds, and a hole in it is seen."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from broker_config import access, dynamic_security
from broker_config.access import Access, Right
from broker_config.devices import Device, DeviceKind
from latentbus.attack.report import MIB
from latentbus.attack.run import ATTACKS
from latentbus.cli import app
from schemas.errors import ConfigError

runner = CliRunner()


def attack(work_dir: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    report = work_dir / "report.json"
    result = runner.invoke(
        app, ["attack", "--short", "--work-dir", str(work_dir / "attack"), "--json", str(report), *arguments]
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(report.read_text()), result.output


@pytest.mark.broker
@pytest.mark.timeout(360)  # a minute on two cores that do nothing else
def test_no_attack_gets_through(tmp_path: Path) -> None:
    status, report, said = attack(tmp_path)
    problems = {result["name"]: result["problems"] for result in report["results"] if result["problems"]}
    assert problems == {}, said
    assert status == 0
    assert [result["name"] for result in report["results"]] == [entry.name for entry in ATTACKS]
    assert "GOT THROUGH" not in said
    by_name = {result["name"]: result for result in report["results"]}
    for result in by_name.values():
        assert result["verdicts"]["right"] >= 4, result
        assert min(result["before_bytes"].values()) > 2 * MIB
    assert by_name["forbidden-topics"]["refused"] > 200
    assert by_name["forbidden-topics"]["taken"] == 0
    assert by_name["malformed"]["taken"] > 1_000
    assert by_name["retained"]["refused"] >= 300
    assert by_name["long-questions"]["taken"] >= 15
    # The calm told right from wrong for ad-hoc and standing questions of all three cameras.
    assert report["steady"] >= 10


@pytest.mark.broker
def test_a_hole_in_the_rules_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loose(device: Device, fleet_cameras: Collection[str] = ()) -> list[Right]:
        """As the rules, and any client may answer and listen in."""
        rights = access.rights_of(device, fleet_cameras)
        if device.kind is DeviceKind.CLIENT:
            rights.append(Right(Access.PUBLISH, "lb/v2/answer/+"))
            rights.append(Right(Access.SUBSCRIBE, "lb/v2/reply/+/+/+"))
            rights.append(Right(Access.READ, "lb/v2/reply/+/+/+"))
        return rights

    monkeypatch.setattr(dynamic_security, "rights_of", loose)
    status, report, said = attack(tmp_path, "--only", "forbidden-topics")
    assert status == 1
    (result,) = report["results"]
    # Replies of others were read, and answers were forged: the bystanders' first answer was not the worker's.
    problems = " ".join(result["problems"])
    assert "taken by the broker: " in problems
    assert "forbidden-topics: " in said


def test_an_attack_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no attack nothing; there are capture, "):
        attack(tmp_path, "--only", "nothing")


def test_help_lists_the_attacks() -> None:
    shown = runner.invoke(app, ["attack", "--help"], env={"COLUMNS": "2000"}).output
    assert ", ".join(entry.name for entry in ATTACKS) in shown


def test_it_takes_no_host() -> None:
    shown = runner.invoke(app, ["attack", "--help"], env={"COLUMNS": "200"}).output
    assert "--host" not in shown
    assert "--port" not in shown
