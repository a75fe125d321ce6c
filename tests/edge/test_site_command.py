"""``latentbus site`` against a real edge: profile and snoozes, from the command line."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest

from pipeline.config.asking_settings import ProfileSettings
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from schemas.utc_time import utc_seconds
from tests.edge.running import running

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]


async def site(broker: BrokerSettings, *arguments: str) -> tuple[int, str]:
    """Exit status and output of the command."""
    command = [sys.executable, "-m", "latentbus", "site", *arguments, "--port", str(broker.port), "--id", "boss"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode().strip()


async def test_an_operator_switches_snoozes_and_wakes_from_the_command_line(
    broker_settings: BrokerSettings, codec_dir: Path
) -> None:
    edge = EdgeSettings(
        site="depot",
        codec=codec_dir,
        cameras={"gate": CameraSettings(source="test:1", questions=("car",))},
        questions={"car": QuestionSettings(text="A car?")},
        profiles={"night": ProfileSettings(questions=())},
    )
    async with running(LatentbusSettings(broker=broker_settings, edge=edge)) as ran:
        await ran.ready()
        assert await site(broker_settings, "show", "depot") == (0, '{"site": "depot"}')
        assert await site(broker_settings, "profile", "depot", "night") == (0, "depot: profile night")
        status, said = await site(
            broker_settings, "snooze", "depot", "--camera", "gate", "--alert", "car", "--for", "600"
        )
        assert status == 0
        assert said.startswith("depot: profile night, camera gate snoozed until 20"), "the profile stays"
        _, shown = await site(broker_settings, "show", "depot")
        found = json.loads(shown)
        assert found["profile"] == "night"
        assert 590 < utc_seconds(found["snoozed_cameras"]["gate"]) - time.time() <= 600
        status, said = await site(broker_settings, "wake", "depot", "--camera", "gate")
        assert (status, "camera gate" in said, "alert car" in said) == (0, False, True)
        status, said = await site(broker_settings, "profile", "depot", "party")
        assert (status, said) == (
            1,
            "latentbus: site depot: nothing was changed: no profile party in the settings; there are night",
        )
        assert await site(broker_settings, "wake", "depot") == (0, "depot: profile night")
        assert await site(broker_settings, "profile", "depot", "--of-the-settings") == (0, "depot: as the settings say")
    status, said = await site(broker_settings, "show", "nowhere")
    assert (status, said) == (1, "latentbus: site nowhere: no edge of that name is known to this broker")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["profile", "depot"], "name one, or say --of-the-settings"),
        (["profile", "depot", "night", "--of-the-settings"], "name one, or say --of-the-settings"),
        (["snooze", "depot"], "say what: --camera or --alert"),
        (["show", "Depot"], "is no name"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_anything_is_asked(arguments: list[str], problem: str) -> None:
    status, said = await site(BrokerSettings(port=1), *arguments)
    assert status == 2
    assert problem in said
