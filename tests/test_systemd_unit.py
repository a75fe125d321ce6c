"""The unit that runs an edge as a service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from edge_nodes.health import ENCODE_LIMIT_S
from latentbus.cli import EXIT_USAGE
from pipeline.node.runtime import DRAIN_TIMEOUT_S
from tests.source_names import ROOT

UNIT = ROOT / "deploy/systemd/latentbus-edge.service"
MOST_EXPOSED = 2.0
"""Of 10, by the tool's own weights; an unhardened service has 9.6."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and "LATENTBUS_NO_SKIPS" not in os.environ, reason="no systemd-analyze"
)


@pytest.fixture
def unit() -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def test_the_unit_agrees_with_the_process(unit: ConfigParser) -> None:
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert float(service["WatchdogSec"]) >= ENCODE_LIMIT_S, "a slow frame is no reason to restart"
    assert float(service["TimeoutStopSec"]) > DRAIN_TIMEOUT_S
    assert service["RestartPreventExitStatus"] == str(EXIT_USAGE), "wrong settings stay wrong"
    assert service["ExecStart"].split()[1:] == ["edge", "--config", "/etc/latentbus/edge.yaml"]
    assert unit["Unit"]["StartLimitIntervalSec"] == "0", "a site is never given up"


def test_the_recipe_in_the_docs_names_the_files_of_the_unit(unit: ConfigParser) -> None:
    recipe = (ROOT / "docs/operations.md").read_text()
    service = unit["Service"]
    for path in (
        service["ExecStart"].split()[0],
        service["ExecStart"].split()[-1],
        service["EnvironmentFile"].lstrip("-"),
    ):
        assert path in recipe or str(Path(path).parent) in recipe, path
    assert f"/var/lib/{service['StateDirectory']}" in recipe


@needs_systemd
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "latentbus"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/latentbus/bin/latentbus", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


@needs_systemd
def test_the_service_is_exposed_little() -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED
