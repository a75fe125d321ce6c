"""A log opens in a reader that is not ours: ``@mcap/core``, an implementation in another language."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.recording.format import GAP_TOPIC, PROPERTIES_TOPIC, Compression
from pipeline.recording.reader import LogReader
from schemas import topics
from schemas.export import json_schema
from schemas.messages import Open, Question
from tests.node_packages import find_node, installed
from tests.recording.golden_log import ATTACHMENTS, CURRENT, GAP, METADATA, path_of, write

PACKAGES = ("@mcap/core@2.2.2", "@mcap/support@1.1.0")
SCRIPT = Path(__file__).with_name("foreign_reader.mjs")


@pytest.fixture(scope="session")
def node() -> Path:
    return find_node()


@pytest.fixture(scope="session")
def modules(node: Path, pytestconfig: pytest.Config) -> Path:
    return installed(node, PACKAGES, pytestconfig)


def foreign_view(node: Path, modules: Path, path: Path) -> dict[str, Any]:
    run = subprocess.run(
        [str(node), str(SCRIPT), str(path), str(modules)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    view: dict[str, Any] = json.loads(run.stdout)
    return view


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check(view: dict[str, Any], name: str = CURRENT) -> None:
    """Compare what the foreign reader saw with what was recorded."""
    with LogReader(path_of(name)) as reader:
        expected = list(reader.messages())
    question, ask, root = ("question/harbour", "ask/gate/phone-3", "lb/v2") if name == CURRENT else (
        "question", "ask/gate", "lb/v1"
    )  # fmt: skip
    seen = [message for message in view["messages"] if message["topic"] not in (PROPERTIES_TOPIC, GAP_TOPIC)]
    assert [
        (message["topic"], message["sequence"], int(message["log_time"]), message["sha256"]) for message in seen
    ] == [(message.topic, message.sequence, message.time_ns, digest(message.payload)) for message in expected]
    assert all(message["publish_time"] == message["log_time"] for message in view["messages"])

    # What a generic viewer shows: JSON topics as objects, QoS and retain flag of each channel.
    of_asks = next(message for message in seen if message["topic"] == f"{root}/{ask}")
    assert of_asks["json"]["text"] == "How many cars wait?"
    channels = {channel["topic"]: channel for channel in view["channels"]}
    assert channels[f"{root}/{question}/q2"]["metadata"] == {"qos": "1", "retain": "true"}
    assert channels[f"{root}/{question}/q2"]["message_encoding"] == "json"
    assert channels[f"{root}/open/main/gate"]["message_encoding"] == "msgpack"
    assert (channels["home/kitchen/temperature"]["schema"], channels["home/kitchen/temperature"]["messages"]) == (
        None,
        1,
    )

    # What MQTT has and MCAP has no place for.
    companions = [message for message in view["messages"] if message["topic"] == PROPERTIES_TOPIC]
    assert [message["sequence"] for message in companions] == [
        message.sequence for message in expected if message.properties is not None
    ]
    camera = "/gate" if root == topics.ROOT else ""  # it stands there since wire version 2
    assert companions[0]["json"]["response_topic"] == f"{root}/reply/phone-3{camera}/ask-7f"
    (gap,) = (message for message in view["messages"] if message["topic"] == GAP_TOPIC)
    assert gap["json"] == {"first_sequence": GAP.first_sequence, "count": GAP.count, "reason": GAP.reason}

    assert view["profile"] == "latentbus"
    assert view["metadata"]["latentbus"] == {**METADATA["latentbus"], "format_version": "1"}
    assert view["metadata"]["replay"] == METADATA["replay"]
    assert view["attachments"] == {
        name: {"media_type": media_type, "sha256": digest(data)} for name, (media_type, data) in ATTACHMENTS.items()
    }


@pytest.mark.parametrize("name", ["v1", CURRENT])
def test_the_golden_logs_open_in_a_foreign_reader(node: Path, modules: Path, name: str) -> None:
    # A log keeps the schemas of its day, which are not those of today.
    view = foreign_view(node, modules, path_of(name))
    check(view, name)
    assert {view["schemas"][f"latentbus.{name}"]["encoding"] for name in ("Question", "Open", "Answer")} == {
        "jsonschema"
    }


@pytest.mark.parametrize("compression", Compression)
def test_a_log_of_today_opens_with_every_compression(
    node: Path, modules: Path, tmp_path: Path, compression: Compression
) -> None:
    path = tmp_path / "log.mcap"
    write(path, compression)
    view = foreign_view(node, modules, path)
    check(view)
    for message in (Question, Open):
        schema = view["schemas"][f"latentbus.{message.__name__}"]
        assert schema == {"encoding": "jsonschema", "content": json_schema(message)}
    assert set(view["chunks"]) == {"" if compression is Compression.NONE else compression.value}
