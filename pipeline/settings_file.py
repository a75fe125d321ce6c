"""A YAML file whose every problem is reported with line, key and what is allowed there."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, SettingsError

from schemas.errors import ConfigError

MAX_SETTINGS_BYTES = 1_048_576
"""A settings file is written by a person; a video given by mistake is not read into memory."""

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_Location = tuple[str | int, ...]
_Settings = TypeVar("_Settings", bound=BaseSettings)


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A parsed file.

    Attributes:
        path: where it was read.
        values: its content, environment variables filled in.
        lines: line number of each key and list entry, by location.
    """

    path: Path
    values: dict[str, Any]
    lines: Mapping[_Location, int]

    @classmethod
    def read(cls, path: Path, environment: Mapping[str, str] | None = None) -> SettingsFile:
        """Read and parse a file.

        Args:
            path: the YAML file.
            environment: variables for ``${NAME}``; the process's own unless given.

        Raises:
            ConfigError: unreadable, no YAML, a repeated key, or a variable that is not set.
        """
        environment = os.environ if environment is None else environment
        try:
            if path.is_dir():
                raise ConfigError(str(path), "is a folder; name the YAML file in it")
            if path.stat().st_size > MAX_SETTINGS_BYTES:
                raise ConfigError(str(path), f"larger than {MAX_SETTINGS_BYTES} bytes: is this a settings file?")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(str(path), f"cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(str(path), f"is not UTF-8 text (byte {error.start})") from None
        lines: dict[_Location, int] = {}
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            if root is None:
                return cls(path, {}, lines)
            if not isinstance(root, yaml.MappingNode):
                raise ConfigError(f"{path}:1", "must be a mapping with broker, edge, worker or log")
            problems = list(_walk(root, (), lines, path, environment))
            values = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{path}:{mark.line + 1}" if mark else str(path)
            raise ConfigError(where, f"not YAML: {error.problem or error.context}") from None
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(str(path), f"not YAML: {error}") from None
        _raise(path, problems)
        return cls(path, cast("dict[str, Any]", _fill_in(values, environment)), lines)

    def validate(self, settings: type[_Settings], *, env_prefix: str, env_delimiter: str) -> _Settings:
        """The settings that this file and the environment make.

        Raises:
            ConfigError: they are wrong; all problems, each with line and key.
        """
        try:
            return settings(**{str(key): value for key, value in self.values.items()})
        except SettingsError as error:
            raise ConfigError("environment", str(error)) from None
        except ValidationError as error:
            problems = [
                self._problem(settings, dict(details), env_prefix, env_delimiter)
                for details in error.errors(include_url=False)
            ]
            _raise(self.path, problems)
            raise  # pragma: no cover - a ValidationError holds at least one problem

    def _problem(
        self, settings: type[BaseModel], details: dict[str, Any], env_prefix: str, env_delimiter: str
    ) -> ConfigError:
        location: _Location = tuple(details["loc"])
        path = location[:-1] if location and location[-1] == "[key]" else location
        key = _dotted(path)
        variable = env_prefix + env_delimiter.join(str(part).upper() for part in path)
        if variable in os.environ:
            where = f"environment variable {variable}"
        else:
            line = next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), None)
            where = f"{self.path}:{line}: {key}" if line else f"{self.path}: {key}"
        kind, message = details["type"], str(details["msg"]).removeprefix("Value error, ")
        if kind == "extra_forbidden":
            message = "unknown key" + _did_you_mean(str(path[-1]), _keys_at(settings, path[:-1]))
        elif kind == "missing":
            message = "missing"
        elif kind == "string_pattern_mismatch" and "a-z0-9_-" in message:
            message = f"{details['input']!r} is no name: lower case letters, digits, - and _, at most 32"
        elif isinstance(details.get("input"), bool | int | float | str) and not _is_secret(path):
            message = f"{message} (got {details['input']!r})"
        return ConfigError(where, message)


def _walk(
    node: yaml.Node,
    location: _Location,
    lines: dict[_Location, int],
    path: Path,
    environment: Mapping[str, str],
) -> Iterator[ConfigError]:
    """Note the line of every value below a node; yield repeated keys and unset variables."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            name = str(key_node.value)
            line = key_node.start_mark.line + 1
            if name in seen:
                yield ConfigError(f"{path}:{line}: {_dotted((*location, name))}", "the key is repeated; keep one")
            seen.add(name)
            lines[(*location, name)] = line
            yield from _walk(value_node, (*location, name), lines, path, environment)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*location, index)] = item.start_mark.line + 1
            yield from _walk(item, (*location, index), lines, path, environment)
    elif isinstance(node, yaml.ScalarNode):
        for match in _VARIABLE.finditer(str(node.value)):
            if match["name"] not in environment and match["default"] is None:
                line = node.start_mark.line + 1
                yield ConfigError(
                    f"{path}:{line}: {_dotted(location)}",
                    f"environment variable {match['name']} is not set; set it or write ${{{match['name']}:-default}}",
                )


def _fill_in(value: object, environment: Mapping[str, str]) -> object:
    if isinstance(value, dict):
        return {key: _fill_in(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill_in(item, environment) for item in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: environment.get(match["name"], match["default"] or ""), value)
    return value


def _raise(path: Path, problems: list[ConfigError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        listing = "".join(f"\n  {problem}" for problem in problems)
        raise ConfigError(str(path), f"{len(problems)} problems:{listing}")


def _dotted(location: _Location) -> str:
    return ".".join(str(part) for part in location) or "file"


def _is_secret(location: _Location) -> bool:
    return any("password" in str(part) for part in location)


def _keys_at(settings: type[BaseModel], location: _Location) -> list[str]:
    """Keys that a section knows; follows optional sections and mappings of sections."""
    annotation: Any = settings
    for part in location:
        model = _model_in(annotation)
        if model is not None and part in model.model_fields:
            annotation = model.model_fields[str(part)].annotation
    model = _model_in(annotation)
    return [] if model is None else [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""
