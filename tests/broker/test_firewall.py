"""The rule per address: what a cap on connections alone lets happen, and what the rule makes of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import broker_config
from broker_config.firewall import CONNECTIONS_PER_ADDRESS, firewall_rules
from broker_config.fleet_folder import FleetFolder
from broker_config.limits import MAX_CONNECTIONS
from tests.broker.flood import CAP


def why_not() -> str:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    missing = [tool for tool in ("unshare", "nft") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    made = subprocess.run(["unshare", "-n", "nft", "list", "ruleset"], capture_output=True, text=True, check=False)
    return f"no network namespace with nftables here: {made.stderr.strip()}" if made.returncode else ""


def flooded(mode: str) -> dict[str, object]:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-m", "tests.broker.flood", mode],
        cwd=Path(broker_config.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_shipped_file_is_the_generated_one_and_a_fleet_gets_one_for_its_port(tmp_path: Path) -> None:
    assert (Path(broker_config.__file__).parent / "broker.nft").read_text() == firewall_rules(8883)
    fleet = FleetFolder.create(tmp_path / "fleet", ["127.0.0.1"], port=9883)
    assert (fleet.broker / "broker.nft").read_text() == firewall_rules(9883)
    assert "tcp dport 9883 " in firewall_rules(9883)


def test_no_address_can_take_all_connections_of_the_broker() -> None:
    assert 4 * CONNECTIONS_PER_ADDRESS < MAX_CONNECTIONS
    assert CONNECTIONS_PER_ADDRESS < CAP


@pytest.mark.broker
def test_one_address_cannot_lock_others_out() -> None:
    if reason := why_not():
        pytest.skip(reason)
    # The cap alone bounds memory and makes the lock-out easier: the flooder has it all, with no certificate.
    assert flooded("open") == {"held": CAP, "failed": "", "bystander": False}
    assert flooded("ruled") == {
        "held": CONNECTIONS_PER_ADDRESS,
        "failed": "ConnectionRefusedError",
        "bystander": True,
    }
