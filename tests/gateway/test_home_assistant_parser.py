"""What the gateway publishes, and the examples, in Home Assistant's own parser."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from schemas.types import AnswerType
from tests.gateway.test_discovery import House, asked
from tests.gateway.views import view
from tests.source_names import ROOT

PYTHONS = "LATENTBUS_HOME_ASSISTANT"
"""Pythons with Home Assistant in their environments, with colons between; scripts/install_home_assistant.sh."""
pytestmark = [
    pytest.mark.skipif(not os.environ.get(PYTHONS), reason="make test-extras runs it: it installs Home Assistant"),
    pytest.mark.timeout(300),
]
SCRIPT = ROOT / "scripts" / "check_home_assistant.py"
EXAMPLES = ROOT / "examples" / "home-assistant"


def checked(python: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [python, SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


def written(house: House, path: Path) -> Path:
    said = {topic: json.loads(payload) for topic, payload in house.broker.items() if payload.startswith(b"{")}
    discovery = [payload for topic, payload in said.items() if topic.endswith("/config")]
    states = {topic: payload for topic, payload in said.items() if topic.endswith("/state")}
    path.write_text(json.dumps({"discovery": discovery, "states": states}))
    return path


def house() -> House:
    """A question of each kind, with an answer or without."""
    made = House(
        asked(),
        asked("people", text="How many people?", answer_type=AnswerType.COUNT),
        asked("door", text="What of the door?", answer_type=AnswerType.CHOICE, options=("open", "shut")),
        asked("colour", text="Which colour?", answer_type=AnswerType.WORD),
        asked("seen", text="What is there? {{ 7 * 7 }}", answer_type=AnswerType.TEXT),
    )
    made.state.observe(view(1), 1.0)
    made.state.observe(view(2, "3", question_id="people"), 1.0)
    made.state.observe(view(3, "open", question_id="door"), 1.0)
    made.state.observe(view(4, "a <b>car</b> {{ 7 * 7 }}", question_id="seen"), 1.0)
    made.said()
    made.fleet.observe_question("north", "colour", None)
    made.said()
    made.said(60)
    return made


@pytest.mark.parametrize("python", os.environ.get(PYTHONS, "").split(":"))
def test_every_entity_is_good(python: str, tmp_path: Path) -> None:
    done = checked(python, written(house(), tmp_path / "messages.json"), EXAMPLES)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("4 entities, 2 automations and 1 sensor of the examples are good"), done.stdout


@pytest.mark.parametrize("python", os.environ.get(PYTHONS, "").split(":"))
def test_what_is_wrong_is_found(python: str, tmp_path: Path) -> None:
    path = written(house(), tmp_path / "messages.json")
    messages = json.loads(path.read_text())
    next(iter(messages["discovery"][0]["cmps"].values()))["stat_t"] = "lb/#/no"
    messages["discovery"][0]["cmps"]["door sensor"]["stat_t"] = "lb/#/no"
    path.write_text(json.dumps(messages))
    assert checked(python, path, EXAMPLES).returncode != 0
