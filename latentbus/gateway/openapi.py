"""The OpenAPI 3.1 document of the gateway, made of its table of addresses and of its models."""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from latentbus import __version__
from latentbus.gateway.endpoints import ENDPOINTS, Endpoint
from latentbus.gateway.models import AlertView, AnswerView, CamerasUpdate, FleetUpdate, ProblemView, Snapshot

_OF_ALL: Final = (400, 401, 403, 421, 429)
_REFUSALS: Final = {
    400: "It is malformed.",
    401: "It shows no valid token.",
    403: "Its token or its origin may not do this.",
    404: "There is no such camera, or the token may not know of it.",
    409: "A question of this id has no outcome yet.",
    413: "The body is too large.",
    421: "The host name is not the gateway's.",
    422: "The edge does not take the question.",
    429: "The client asks too much; see Retry-After.",
    503: "It cannot be answered now.",
    504: "The camera gave no outcome in time.",
}
_REF: Final = "#/components/schemas/{model}"
_BESIDE: Final[tuple[type[BaseModel], ...]] = (AnswerView, Snapshot, FleetUpdate, CamerasUpdate, AlertView, ProblemView)
"""What streams and refusals carry."""


def document() -> dict[str, Any]:
    """The document."""
    models = {model for endpoint in ENDPOINTS for model in (endpoint.response, endpoint.request) if model is not None}
    named = sorted({*models, *_BESIDE}, key=lambda model: model.__name__)
    _, definitions = models_json_schema([(model, "validation") for model in named], ref_template=_REF)
    schemas = definitions["$defs"]
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Latentbus gateway",
            "version": __version__,
            "description": "Ask cameras, and read what they are asked. Times are seconds since 1970.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if endpoint.response is not None:
        content["application/json"] = {"schema": _schema_of(endpoint.response)}
    if endpoint.stream:
        events = ", ".join(endpoint.stream)
        content["text/event-stream"] = {"schema": {"type": "string", "description": f"Events: {events}."}}
    if endpoint.name == "metrics":
        content["text/plain"] = {"schema": {"type": "string"}}
    if endpoint.name == "openapi":
        content["application/json"] = {"schema": {"type": "object"}}
    found: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "responses": {str(endpoint.status): {"description": "As asked.", **({"content": content} if content else {})}},
    }
    if endpoint.text:
        found["description"] = endpoint.text
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", endpoint.path)
    ]
    if endpoint.query is not None:
        properties = endpoint.query.model_json_schema(ref_template=_REF)
        definitions = properties.get("$defs", {})
        for name, schema in properties["properties"].items():
            inner = _inlined(schema, definitions)
            description = inner.pop("description", "")
            inner.pop("title", None)
            parameters.append({"name": name, "in": "query", "required": False, "description": description,
                               "schema": inner})  # fmt: skip
    if parameters:
        found["parameters"] = parameters
    if endpoint.request is not None:
        found["requestBody"] = {
            "required": True, "content": {"application/json": {"schema": _schema_of(endpoint.request)}},
        }  # fmt: skip
    refusals = {*_OF_ALL, *endpoint.statuses, *((413,) if endpoint.request is not None else ())}
    if endpoint.role is None:
        refusals -= {401}
    else:
        found["security"] = [{"token": []}]
        refusals |= {503}
    for status in sorted(refusals):
        found["responses"][str(status)] = {
            "description": _REFUSALS[status],
            "content": {"application/json": {"schema": _schema_of(ProblemView)}},
        }
    if endpoint.name == "readyz":
        found["responses"]["503"]["content"]["application/json"]["schema"] = _schema_of(
            endpoint.response or ProblemView
        )
    return found


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": _REF.format(model=model.__name__)}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A schema without references, for parameters."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {key: _inlined(value, definitions) for key, value in schema.items()}
    return [_inlined(entry, definitions) for entry in schema] if isinstance(schema, list) else schema
