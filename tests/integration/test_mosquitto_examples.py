"""The examples with Mosquitto's clients run as they are printed, against a whole fleet."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.integration.conftest import Fleet
from tests.source_names import ROOT

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(shutil.which("mosquitto_rr") is None, reason="the clients of Mosquitto are not installed"),
]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "examples" / "mosquitto" / "README.md").read_text(), re.DOTALL)


async def run(block: str, config: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", block,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "XDG_CONFIG_HOME": str(config)},
    )  # fmt: skip
    try:
        async with asyncio.timeout(100):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{block}\n{err.decode()}"
    return out.decode()


def json_of(line: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(line[line.index("{") :])
    return found


async def test_every_command_runs_as_printed(fleet: Fleet, tmp_path: Path) -> None:
    for client in ("mosquitto_sub", "mosquitto_pub", "mosquitto_rr"):
        (tmp_path / client).write_text(f"-h {fleet.broker.host}\n-p {fleet.broker.port}\n")
    worker, edge = await fleet.worker("w1"), await fleet.edge()
    statuses, answers, asked, standing, camera = [await run(block, tmp_path) for block in BLOCKS]
    await edge.drain()
    await worker.drain()
    assert {line.split()[0] for line in statuses.splitlines()} == {"lb/v2/status/edge/north", "lb/v2/status/worker/w1"}
    assert len(answers.splitlines()) == 3
    assert {json_of(line)["question_id"] for line in answers.splitlines()} <= {"car", "count"}
    assert json_of(asked)["query_id"] == "gate/@alice/q1"
    assert json_of(standing)["text"] == "Is there a bus?"
    topic, size, payload = camera.split(" ", 2)
    assert topic == "lb/v2/answer/gate"
    assert len(payload.strip().encode()) == int(size)
