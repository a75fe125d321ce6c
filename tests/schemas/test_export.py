"""The exported schemas say what the wire does."""

from __future__ import annotations

import json
import re
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import export, wire
from schemas.messages import BINARY_MESSAGES, JSON_MESSAGES, BinaryMessage, Message, QueryRef
from schemas.topics import LEVELS, MESSAGES, ROUTES, Family
from schemas.types import FrameId
from tests.schemas.strategies import BY_MESSAGE

MESSAGE_CLASSES = (*BINARY_MESSAGES, *JSON_MESSAGES)
by_message = pytest.mark.parametrize("message", MESSAGE_CLASSES, ids=[m.__name__ for m in MESSAGE_CLASSES])
DOCUMENT = export.asyncapi()

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str, bytes),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
KEYWORDS = {
    "$schema", "title", "description", "default", "type", "format", "const", "enum", "anyOf", "minimum", "maximum",
    "minLength", "maxLength", "pattern", "minItems", "maxItems", "items", "additionalItems", "properties", "required",
    "additionalProperties", "patternProperties", "maxProperties",
}  # fmt: skip


def violations(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """What a JSON Schema validator would say, for the keywords that the export uses."""
    assert schema.keys() <= KEYWORDS, schema.keys() - KEYWORDS
    if "anyOf" in schema:
        return [] if any(not violations(value, option) for option in schema["anyOf"]) else [f"{where}: anyOf"]
    found = []
    if "type" in schema:
        types = TYPES[schema["type"]]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            return [f"{where}: {type(value).__name__} is no {schema['type']}"]
    if "type" in schema and schema["type"] == "string":
        if isinstance(value, bytes) != (schema.get("format") == "binary"):
            found.append(f"{where}: binary and text confused")
        if "pattern" in schema and not re.search(schema["pattern"], value):
            found.append(f"{where}: pattern")
    if "const" in schema and value != schema["const"]:
        found.append(f"{where}: const")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: enum")
    for keyword, size in (("Length", len), ("Items", len), ("imum", float)):
        if f"min{keyword}" in schema and size(value) < schema[f"min{keyword}"]:
            found.append(f"{where}: min{keyword}")
        if f"max{keyword}" in schema and size(value) > schema[f"max{keyword}"]:
            found.append(f"{where}: max{keyword}")
    if isinstance(value, list) and "items" in schema:
        items = schema["items"]
        schemas = items if isinstance(items, list) else [items] * len(value)
        if isinstance(items, list) and len(value) > len(items) and schema.get("additionalItems") is False:
            found.append(f"{where}: additionalItems")
        for number, (child, child_schema) in enumerate(zip(value, schemas, strict=False)):
            found += violations(child, child_schema, f"{where}[{number}]")
    if isinstance(value, dict):
        found += [f"{where}: {name} is missing" for name in schema.get("required", ()) if name not in value]
        if len(value) > schema.get("maxProperties", len(value)):
            found.append(f"{where}: maxProperties")
        patterns = schema.get("patternProperties", {})
        for name, child in value.items():
            for pattern in (pattern for pattern in patterns if re.search(pattern, name)):
                found += violations(child, patterns[pattern], f"{where}.{name}")
            if patterns:
                continue
            if name in schema["properties"]:
                found += violations(child, schema["properties"][name], f"{where}.{name}")
            elif schema.get("additionalProperties") is False:
                found.append(f"{where}: {name} is not known")
    return found


def on_the_wire(message: Message) -> Any:
    data = wire.encode(message)
    return msgpack.unpackb(data) if isinstance(message, BinaryMessage) else json.loads(data)


@by_message
@given(data=st.data())
@settings(max_examples=30)
def test_encoded_messages_satisfy_their_schema(message: type[Message], data: st.DataObject) -> None:
    value = on_the_wire(data.draw(BY_MESSAGE[message]))

    assert violations(value, export.json_schema(message)) == []


@by_message
@given(data=st.data())
@settings(max_examples=30)
def test_schema_refuses_what_the_wire_refuses(message: type[Message], data: st.DataObject) -> None:
    value = on_the_wire(data.draw(BY_MESSAGE[message]))
    too_much = {**value, "unknown": 1} if isinstance(value, dict) else [*value, 1, 1, 1]

    assert violations(too_much, export.json_schema(message))


@by_message
def test_schema_is_self_contained_and_names_every_field(message: type[Message]) -> None:
    schema = export.json_schema(message)

    assert "$ref" not in json.dumps(schema)
    if issubclass(message, BinaryMessage):
        assert [item["title"] for item in schema["items"]] == ["schema version", "kind", *message.model_fields]
        assert schema["items"][1]["const"] == int(message.kind)
        # A field of an array has no default: it stands there, or it and all after it are left out.
        assert not [item["title"] for item in schema["items"] if "default" in item]
        assert {"type": "null"} not in schema["items"][-1].get("anyOf", ())
    else:
        assert list(schema["properties"]) == list(message.model_fields)


@by_message
def test_every_field_says_what_it_means(message: type[Message]) -> None:
    assert [name for name in message.model_fields if not export.field_description(message, name)] == []


def test_items_of_named_tuples_keep_their_names() -> None:
    open_ = DOCUMENT["components"]["messages"]["Open"]["payload"]["items"]
    frame = next(item for item in open_ if item["title"] == "frame")
    queries = next(item for item in open_ if item["title"] == "queries")

    assert [item["title"] for item in frame["items"]] == list(FrameId._fields)
    assert [item["title"] for item in queries["items"]["items"]] == list(QueryRef._fields)


def references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [reference for child in node for reference in references(child)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if "$ref" in node else []
    return own + [reference for child in node.values() for reference in references(child)]


def test_asyncapi_references_resolve() -> None:
    found = references(DOCUMENT)

    assert len(found) > 2 * len(ROUTES)
    for reference in found:
        node: Any = DOCUMENT
        assert reference.startswith("#/")
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        assert node


def test_asyncapi_has_the_parts_that_version_3_requires() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    for server in DOCUMENT["servers"].values():
        assert {"host", "protocol"} <= server.keys()
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        assert operation["channel"]["$ref"].startswith("#/channels/")
        for message in operation["messages"]:
            # The specification: an operation may only name messages of its own channel.
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


@pytest.mark.parametrize("family", Family)
def test_asyncapi_channels_are_the_topics(family: Family) -> None:
    channel = DOCUMENT["channels"][family]

    assert re.findall(r"\{(\w+)\}", channel["address"]) == list(LEVELS[family]) == list(channel["parameters"])
    assert list(channel["messages"]) == [message.__name__ for message in MESSAGES[family]]


@pytest.mark.parametrize("family", Family)
def test_every_topic_has_a_sender_and_a_receiver(family: Family) -> None:
    actions = [
        operation["action"]
        for operation in DOCUMENT["operations"].values()
        if operation["channel"]["$ref"] == f"#/channels/{family}"
    ]

    assert set(actions) == {"send", "receive"}


def test_ask_says_where_its_reply_goes() -> None:
    reply = DOCUMENT["operations"]["client_sends_ask"]["reply"]

    assert reply["channel"]["$ref"] == "#/channels/reply"
    assert reply["address"]["location"].startswith("$message.header#/")


def test_command_writes_the_document(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "asyncapi.json"

    assert export.main([str(target)]) == 0
    assert export.main([]) == 0

    assert json.loads(target.read_text(encoding="utf-8")) == DOCUMENT
    assert capsys.readouterr().out == target.read_text(encoding="utf-8")
