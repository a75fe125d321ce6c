"""JSON Schema of every message and an AsyncAPI 3.0 document of every topic, for clients in other languages.

``python -m schemas.export FILE`` writes the document; ``docs/asyncapi.json`` is its output. Schemas are in the dialect
of JSON Schema draft 07, the one that AsyncAPI 3.0 builds on. A binary message is a msgpack array, described as a tuple;
``"format": "binary"`` marks a msgpack *bin* value, whose lengths count bytes.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from schemas import messages
from schemas.docstrings import field_docstrings
from schemas.messages import BINARY_MESSAGES, JSON_MESSAGES, SCHEMA_VERSION, BinaryMessage, Message
from schemas.topics import ROOT, ROUTES, Family, Role
from schemas.wire import least_fields

ASYNCAPI_VERSION = "3.0.0"
MQTT_BINDING_VERSION = "0.2.0"
JSON_SCHEMA_DIALECT = "http://json-schema.org/draft-07/schema#"

Schema = dict[str, Any]


def json_schema(message: type[Message]) -> Schema:
    """JSON Schema (draft 07, self-contained) of a message as it stands on the wire.

    Args:
        message: a message class.

    Returns:
        An object schema for a JSON message; for a binary one the tuple ``[schema version, kind, field, ...]``.
    """
    model = message.model_json_schema()
    definitions = model.pop("$defs", {})
    fields = {name: _resolve(schema, definitions) for name, schema in model["properties"].items()}
    for name, schema in fields.items():
        description = field_description(message, name)
        if description:
            schema["description"] = description
    if issubclass(message, BinaryMessage):
        _positional(fields)
    head = {"$schema": JSON_SCHEMA_DIALECT, "title": message.__name__, "description": _summary(message)}
    if not issubclass(message, BinaryMessage):
        required = [name for name in fields if name in model.get("required", ())]
        return {
            **head,
            "type": "object",
            "properties": fields,
            "required": required,
            "additionalProperties": False,
        }
    items: list[Schema] = [
        {"title": "schema version", "const": SCHEMA_VERSION},
        {"title": "kind", "const": int(message.kind), "description": f"Tag of {message.__name__}."},
        *({"title": name, **schema} for name, schema in fields.items()),
    ]
    return {
        **head,
        "type": "array",
        "items": items,
        "minItems": len(items) - len(fields) + least_fields(message),
        "maxItems": len(items),
        "additionalItems": False,
    }


def _positional(fields: dict[str, Schema]) -> None:
    """Fields of an array: those that have their default are left out up to the end, so that the last is never nil."""
    for schema in fields.values():
        schema.pop("default", None)
    last = next(reversed(fields.values()))
    present = [kind for kind in last.pop("anyOf", ()) if kind != {"type": "null"}]
    last.update(present[0] if len(present) == 1 else {"anyOf": present} if present else {})


def field_description(owner: type, name: str) -> str:
    """The docstring below a field of a message or of :class:`~schemas.messages.QueryRef`; empty if it has none."""
    for base in owner.__mro__:
        text = _field_docstrings().get((base.__name__, name))
        if text is not None:
            return text
    return ""


def asyncapi() -> Schema:
    """AsyncAPI 3.0 document of all topics: one channel for each family, one operation for each role and direction."""
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "Latentbus",
            "version": f"{SCHEMA_VERSION}",
            "description": (
                f"Wire protocol of Latentbus over MQTT 5, all topics below {ROOT}/. Messages with content type "
                "application/msgpack are arrays in the order given here, the others JSON objects. "
                "Guide: docs/protocol.md; every field: docs/protocol-reference.md."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "127.0.0.1:1883",
                "protocol": "mqtt",
                "protocolVersion": "5.0",
                "description": "Any MQTT 5 broker with shared subscriptions.",
            }
        },
        "channels": {family.value: _channel(family) for family in Family},
        "operations": _operations(),
        "components": {"messages": {message.__name__: _component(message) for message in _all_messages()}},
    }


def _all_messages() -> tuple[type[Message], ...]:
    return (*BINARY_MESSAGES, *JSON_MESSAGES)


def _channel(family: Family) -> Schema:
    route = ROUTES[family]
    return {
        "address": "/".join((ROOT, family, *(f"{{{level}}}" for level in route.levels))),
        "description": route.purpose,
        "parameters": {level: {"description": _LEVEL_MEANING[level]} for level in route.levels},
        "messages": {m.__name__: {"$ref": f"#/components/messages/{m.__name__}"} for m in route.messages},
    }


_LEVEL_MEANING = {
    "pool": "Worker pool; a pool holds exactly one model and codec.",
    "site": "Site, one edge process; it owns its standing questions.",
    "camera": "Camera, unique in the fleet.",
    "worker": "Worker process.",
    "question_id": "Standing question of the site.",
    "client": "The asking client; a broker rule binds it to the client's identity.",
    "query_id": "The client's own id of its question or message.",
    "request_id": "The client's own id of its request for events.",
    "kind": "edge, worker, gateway or recorder.",
    "id": "Name of the process.",
}


def _operations() -> Schema:
    operations: Schema = {}
    for family, route in ROUTES.items():
        for action, roles in (("send", route.senders), ("receive", route.receivers)):
            for role in roles:
                operations[f"{role}_{action}s_{family}"] = _operation(family, action, role)
    return operations


def _operation(family: Family, action: str, role: Role) -> Schema:
    route = ROUTES[family]
    operation: Schema = {
        "action": action,
        "summary": f"{role} {action}s: {route.purpose}",
        "channel": {"$ref": f"#/channels/{family}"},
        "tags": [{"name": role.value}],
        "messages": [{"$ref": f"#/channels/{family}/messages/{message.__name__}"} for message in route.messages],
    }
    binding: Schema = {"qos": route.qos, "bindingVersion": MQTT_BINDING_VERSION}
    if action == "send":
        binding["retain"] = route.retain
    operation["bindings"] = {"mqtt": binding}
    answered = {Family.ASK: Family.REPLY, Family.QUESTION: Family.RECEIPT, Family.CONFIG: Family.RECEIPT}.get(family)
    if answered is not None:
        operation["reply"] = {
            "address": {"location": "$message.header#/ResponseTopic"},
            "channel": {"$ref": f"#/channels/{answered}"},
        }
    return operation


def _component(message: type[Message]) -> Schema:
    binary = issubclass(message, BinaryMessage)
    return {
        "name": message.__name__,
        "title": message.__name__,
        "summary": _summary(message),
        "contentType": "application/msgpack" if binary else "application/json",
        "payload": {key: value for key, value in json_schema(message).items() if key != "$schema"},
    }


def _summary(message: type[Message]) -> str:
    return inspect.cleandoc(message.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def _resolve(node: Any, definitions: Schema) -> Any:
    """Pydantic's 2020-12 output in draft 07: references inlined, tuples as ``items``, no generated titles."""
    if isinstance(node, list):
        return [_resolve(child, definitions) for child in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        siblings = {key: child for key, child in node.items() if key != "$ref"}
        return _resolve({**definitions[name], "title": name, **siblings}, definitions)
    resolved = {key: _resolve(child, definitions) for key, child in node.items() if key not in ("title", "prefixItems")}
    if "prefixItems" in node:
        resolved["items"] = [_item(node["title"], item, definitions) for item in node["prefixItems"]]
        resolved["additionalItems"] = False
    return resolved


def _item(owner: str, item: Schema, definitions: Schema) -> Schema:
    """One item of a named tuple; its title is its only name."""
    name = item["title"].lower().replace(" ", "_")
    description = _field_docstrings().get((owner, name))
    return {"title": name, **_resolve(item, definitions), **({"description": description} if description else {})}


@cache
def _field_docstrings() -> dict[tuple[str, str], str]:
    """Docstrings below fields, by class and field name."""
    return field_docstrings(
        import_module(module.name) for module in iter_modules(messages.__path__, f"{messages.__name__}.")
    )


def render() -> str:
    """The AsyncAPI document as text."""
    return json.dumps(asyncapi(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the document to the file that is named, or to standard output."""
    if arguments:
        Path(arguments[0]).write_text(render(), encoding="utf-8")
    else:
        sys.stdout.write(render())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
