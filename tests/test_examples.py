"""Examples that other programs read: what can be said of them without those programs."""

from __future__ import annotations

import json
from typing import Any

import yaml

from schemas import topics
from schemas.messages import Ask
from tests.source_names import ROOT

EXAMPLES = ROOT / "examples"
CORE_NODES = {"tab", "mqtt-broker", "mqtt in", "mqtt out", "switch", "function", "inject", "debug"}


def flow() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((EXAMPLES / "node-red" / "flows.json").read_text(encoding="utf-8"))
    return found


def test_the_flow_is_of_node_reds_own_nodes_and_wired_to_what_is_there() -> None:
    nodes = {node["id"]: node for node in flow()}
    assert len(nodes) == len(flow())
    assert {node["type"] for node in nodes.values()} <= CORE_NODES
    for node in nodes.values():
        assert {target for wire in node.get("wires", ()) for target in wire} <= set(nodes)
        assert node.get("broker", "lb-broker") in ("lb-broker", "localhost")
        assert node["type"] in ("tab", "mqtt-broker") or node["z"] == "lb-flow"
    assert nodes["lb-broker"]["protocolVersion"] == "5"


def test_topics_of_the_flow_are_those_of_the_fleet() -> None:
    listened = {node["topic"] for node in flow() if node["type"] == "mqtt in"}
    assert listened == {topics.family_filter(topics.Family.ANSWER), "lb/v2/reply/node-red/+/+"}
    [question] = [node["func"] for node in flow() if node["id"] == "lb-question"]
    assert f'"{topics.ask_topic("gate", "node-red")}"' in question
    assert f"`{topics.reply_topic('node-red', 'gate', 'id').removesuffix('id')}${{id}}`" in question
    assert {"query_id", "text", "answer_type"} <= set(Ask.model_fields)


def test_yaml_of_home_assistant_can_be_read() -> None:
    automations = yaml.safe_load((EXAMPLES / "home-assistant" / "automations.yaml").read_text(encoding="utf-8"))
    assert [entry["alias"] for entry in automations] == ["A car at the gate", "The camera at the gate is away"]
    [sensor] = yaml.safe_load((EXAMPLES / "home-assistant" / "mqtt.yaml").read_text(encoding="utf-8"))["binary_sensor"]
    assert sensor["state_topic"] == topics.answer_topic("gate")
    assert sensor["availability_topic"] == topics.status_topic("edge", "north")
