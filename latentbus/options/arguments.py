"""Arguments of the command line that become settings or messages: what is wrong with one is said of the option."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from schemas.errors import ConfigError
from schemas.problems import echo, problem_text
from schemas.types import Name

_Model = TypeVar("_Model", bound=BaseModel)
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def made_of(model: type[_Model], options: Mapping[str, str], /, **values: Any) -> _Model:
    """A model that is made of what a user typed.

    Args:
        model: its class.
        options: option or argument of each of its fields that a user gives.
        values: the values of its fields.

    Raises:
        ConfigError: a value is wrong; names the option.
    """
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _of_option(options, dict(first)) from None


def checked_name(option: str, text: str | None) -> str | None:
    """A name of a camera, site, pool or process as it was typed; None stays None.

    Raises:
        ConfigError: it cannot stand in a topic.
    """
    if text is None:
        return None
    try:
        return _NAME.validate_python(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _of_option({}, {**first, "loc": (option,)}) from None


def refuse_what_is_no_number(command: Any) -> None:
    """Let every option of a command, and of those below it, refuse ``inf`` and ``nan``, which open ranges take.

    Args:
        command: what ``typer.main.get_command`` returns.
    """
    for parameter in command.params:
        if parameter.callback is None:
            parameter.callback = _finite
    for below in getattr(command, "commands", {}).values():
        refuse_what_is_no_number(below)


def _finite(_context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(parameter.opts[0], f"{value} is no finite number")
    return value


def _of_option(options: Mapping[str, str], details: Mapping[str, Any]) -> ConfigError:
    location = details["loc"]
    option = options.get(str(location[0]), str(location[0])) if location else " ".join(dict.fromkeys(options.values()))
    problem, value = problem_text(details), details.get("input")
    quoted = isinstance(value, str | int | float) and value != "" and details["type"] != "value_error"
    return ConfigError(option, f"{echo(value)} {problem}" if quoted else problem)
