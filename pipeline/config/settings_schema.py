"""JSON Schema of a settings file, for editors that complete and check YAML while it is written.

It describes the file as it stands, before variables and defaults are filled in: a number may be written as
``${NAME}``, and what ``defaults`` give may be left out. What a schema cannot say, ``latentbus validate`` checks.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from typing import Any, Final

from pydantic import BaseModel

from pipeline.config.settings import LatentbusSettings
from schemas.docstrings import field_docstrings

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]

_VARIABLE: Final[Schema] = {"type": "string", "pattern": r"\$\{", "description": "Taken from the environment."}
_SITE, _CAMERA, _QUESTION, _ALERT = "EdgeSettings", "CameraSettings", "QuestionSettings", "AlertConditionSettings"
_DEFAULTS: Final = {"site": _SITE, "camera": _CAMERA, "question": _QUESTION, "alert": _ALERT}


def settings_schema() -> Schema:
    """The schema of a settings file (draft 2020-12, self-contained)."""
    schema = LatentbusSettings.model_json_schema(by_alias=True)
    definitions: Schema = schema.pop("$defs")
    _describe(schema, definitions)
    definitions["Variable"] = _VARIABLE
    for name in ("Site", "Pool"):
        base = definitions[{"Site": _SITE, "Pool": "WorkerSettings"}[name]]
        key = {"Site": "site", "Pool": "pool"}[name]
        required = [field for field in base.get("required", ()) if field != key]
        definitions[name] = {**deepcopy(base), "title": name, "required": required}
    for kind, name in _DEFAULTS.items():
        partial = {key: value for key, value in deepcopy(definitions[name]).items() if key != "required"}
        definitions[f"Default{kind.title()}"] = {**partial, "title": f"Default{kind.title()}"}
    defaults = {kind: {"$ref": f"#/$defs/Default{kind.title()}"} for kind in _DEFAULTS}
    definitions["DefaultsSettings"]["properties"] = defaults
    del definitions["DefaultSite"]["properties"]["site"]
    own = {kind: value for kind, value in defaults.items() if kind != "site"}
    for name in (_SITE, "Site"):
        definitions[name]["properties"]["defaults"] = {
            "type": "object",
            "additionalProperties": False,
            "description": "What its cameras, questions and alerts take where they leave a key out.",
            "properties": own,
        }
    # A question of the site may be a change of one of the fleet, and any key may come from the defaults.
    for name in (_CAMERA, _QUESTION):
        definitions[name] = {key: value for key, value in definitions[name].items() if key != "required"}
    for key, name in (("sites", "Site"), ("pools", "Pool")):
        (pattern,) = schema["properties"][key]["patternProperties"]
        allowed = {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]}
        schema["properties"][key]["patternProperties"] = {pattern: allowed}
    made = {
        "$schema": DIALECT,
        "title": "Latentbus settings",
        "description": "Settings of a fleet or of one process; see docs/configuration.md.",
        **{key: value for key, value in schema.items() if key not in ("title", "description")},
        "$defs": definitions,
    }
    return dict(_with_variables(made))


def _describe(schema: Schema, definitions: Schema) -> None:
    """Give every key the docstring of its field."""
    models = _models(LatentbusSettings)
    texts = field_docstrings({sys.modules[model.__module__] for model in models.values()})
    for name, model in models.items():
        properties = (schema if model is LatentbusSettings else definitions.get(name, {})).get("properties", {})
        for base in reversed(model.__mro__):
            for field_name, field in getattr(base, "model_fields", {}).items():
                if text := texts.get((base.__name__, field_name)):
                    properties.get(field.alias or field_name, {})["description"] = text


def _models(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """A model and those of its sections, by name."""
    found: dict[str, type[BaseModel]] = {}
    pending: list[Any] = [model]
    while pending:
        annotation = pending.pop()
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        if is_model and annotation.__name__ not in found:
            found[annotation.__name__] = annotation
            pending += [field.annotation for field in annotation.model_fields.values()]
        pending += getattr(annotation, "__args__", ())
    return found


def _with_variables(node: Any) -> Any:
    """Numbers and truths may be variables as well."""
    if isinstance(node, list):
        return [_with_variables(child) for child in node]
    if not isinstance(node, dict):
        return node
    made = {key: _with_variables(child) for key, child in node.items()}
    if made.get("type") in ("integer", "number", "boolean"):
        made.pop("title", None)
        outside = {key: made.pop(key) for key in ("description", "default") if key in made}
        return {"anyOf": [made, {"$ref": "#/$defs/Variable"}], **outside}
    return made
