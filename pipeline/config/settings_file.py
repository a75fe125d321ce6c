"""A YAML file whose every problem is reported with line, key and what is allowed there."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from schemas.errors import ConfigError
from schemas.problems import MAX_ECHO_CHARS, echo, problem_text
from schemas.types import NAME_PATTERN

MAX_SETTINGS_BYTES = 262_144
"""A settings file is written by a person, 25 KB for the largest site; a video given by mistake is not read."""
MAX_SETTINGS_VALUES = 10_000
"""Values after anchors are expanded: a few lines of anchors that name each other may stand for billions."""
MAX_SETTINGS_DEPTH = 32
MAX_VALUE_CHARS = 65_536
"""One value that names environment variables, with them filled in; any other is as long as it stands in the file."""
_MAX_PROBLEMS = 20
CHECKED = "checked"
"""Type of a custom error of pydantic for what a check reports with its place: the file's report leaves it out."""
_OF_WRONG_TAGS = (ValueError, ArithmeticError, AttributeError, LookupError, TypeError)
"""What PyYAML raises for a value that is not what its tag says, ``!!int x`` or ``!!timestamp x``."""

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Where PyYAML has it, the parser of libyaml: it takes ``{text: A car?}``, which the other one calls no YAML."""
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_TEXT_TAG = "tag:yaml.org,2002:str"
_BOOL_TAG = "tag:yaml.org,2002:bool"
Location = tuple[str | int, ...]
"""Where a value stands: keys, and numbers of list entries."""
Check = Callable[[Mapping[str, Any]], Iterable[tuple[Location, str]]]
"""Finds what the types cannot: from values as they stand, right or wrong, to places and what is wrong there."""
_Settings = TypeVar("_Settings", bound=BaseSettings)


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A parsed file.

    Attributes:
        path: where it was read.
        values: its content, environment variables filled in.
        lines: line number of each key and list entry, by location.
        texts: each value that is no section and no list, as it stands in the file, by location.
        origins: where a value stands in the file, by its location, where that is somewhere else.
    """

    path: Path
    values: dict[str, Any]
    lines: Mapping[Location, int]
    texts: Mapping[Location, str] = field(default_factory=dict)
    origins: Mapping[Location, Location] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        path: Path,
        environment: Mapping[str, str] | None = None,
        *,
        prune: Callable[[yaml.MappingNode], None] | None = None,
        may_lack: Callable[[Location], bool] | None = None,
    ) -> SettingsFile:
        """Read and parse a file.

        Args:
            path: the YAML file.
            environment: variables for ``${NAME}``; the process's own unless given.
            prune: takes sections out that whoever reads has no use for, before anything is made of them.
            may_lack: whether a value may name a variable that is not set; it stays as it stands then.

        Raises:
            ConfigError: unreadable, no YAML, a repeated key, or a variable that is not set.
        """
        environment = os.environ if environment is None else environment
        try:
            if path.is_dir():
                raise ConfigError(str(path), "is a folder; name the YAML file in it")
            # A device or a pipe has no size of its own.
            with path.open("rb") as stream:
                content = stream.read(MAX_SETTINGS_BYTES + 1)
            if len(content) > MAX_SETTINGS_BYTES:
                raise ConfigError(str(path), f"larger than {MAX_SETTINGS_BYTES} bytes: is this a settings file?")
            text = content.decode("utf-8")
        except OSError as error:
            raise ConfigError(str(path), f"cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(str(path), f"is not UTF-8 text (byte {error.start})") from None
        content_of = _Content(path, environment, may_lack or (lambda _location: False))
        try:
            loader = _Loader(_bounded(yaml.parse(text, Loader=_PARSER), path))
            root = loader.get_single_node()
            if root is None:
                return cls(path, {}, content_of.lines)
            if not isinstance(root, yaml.MappingNode):
                raise ConfigError(f"{path}:1", "must be a mapping of sections, such as broker, edge, worker or sites")
            if prune is not None:
                prune(root)
            content_of.check(root, ())
            _raise(path, content_of.problems, len(content_of.problems))
            values = content_of.fill_in(loader.construct_document(root))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{path}:{mark.line + 1}" if mark else str(path)
            raise ConfigError(where, f"not YAML: {error.problem or error.context}") from None
        except (yaml.YAMLError, *_OF_WRONG_TAGS) as error:
            raise ConfigError(str(path), f"not YAML: {echo(str(error))}") from None
        return cls(path, cast("dict[str, Any]", values), content_of.lines, content_of.texts)

    def validate(
        self, settings: type[_Settings], *, env_prefix: str, env_delimiter: str, checks: Sequence[Check] = ()
    ) -> _Settings:
        """The settings that this file and the environment make.

        Args:
            settings: what they must be.
            env_prefix: how the names of environment variables begin.
            env_delimiter: what stands between the keys in such a name.
            checks: what else is looked at, whatever the types say.

        Raises:
            ConfigError: they are wrong; all problems, each with line and key.
        """
        problems: dict[str, ConfigError] = {}
        made = None
        checked: list[str] = []
        try:
            environment = EnvSettingsSource(settings, env_prefix=env_prefix, env_nested_delimiter=env_delimiter)()
            made = settings(**self.values)
        except SettingsError as error:
            raise ConfigError("environment", str(error)) from None
        except ValidationError as error:
            found = [details for details in error.errors(include_url=False) if details["type"] != CHECKED]
            checked = [details["msg"] for details in error.errors(include_url=False) if details["type"] == CHECKED]
            # A wrong default is wrong wherever it is taken, and reported once.
            for details in found:
                problem = self._problem(settings, dict(details), env_prefix, env_delimiter)
                problems.setdefault(str(problem), problem)
        values = _overlaid(self.values, environment)
        for location, text in (entry for check in checks for entry in check(values)):
            problem = ConfigError(self._where(location, env_prefix, env_delimiter), text)
            problems.setdefault(str(problem), problem)
        _raise(self.path, list(problems.values()), len(problems))
        if made is None:
            # No check has met it: what the types say stands for it, in our own words all the same.
            raise ConfigError(str(self.path), "; ".join(checked) or "its parts contradict each other")
        return made

    def _where(self, location: Location, env_prefix: str, env_delimiter: str) -> str:
        variable = env_prefix + env_delimiter.join(str(part).upper() for part in location)
        if variable in os.environ:
            return f"environment variable {variable}"
        location = self._origin(location)
        key = _dotted(location)
        line = next((self.lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in self.lines), None)
        return f"{self.path}:{line}: {key}" if line else f"{self.path}: {key}"

    def _origin(self, location: Location) -> Location:
        """Where a value stands in the file: that of the nearest section that is known, and the rest."""
        for count in range(len(location), 0, -1):
            found = self.origins.get(location[:count])
            if found is not None:
                return (*found, *location[count:])
        return location

    def _problem(
        self, settings: type[BaseModel], details: dict[str, Any], env_prefix: str, env_delimiter: str
    ) -> ConfigError:
        location: Location = tuple(details["loc"])
        path = location[:-1] if location and location[-1] == "[key]" else location
        where = self._where(path, env_prefix, env_delimiter)
        kind, message, value = details["type"], problem_text(details), details.get("input")
        if kind == "extra_forbidden":
            message += _did_you_mean(str(path[-1]), _keys_at(settings, path[:-1]))
        elif kind == "string_pattern_mismatch" and details["ctx"]["pattern"] == NAME_PATTERN:
            message = f"{echo(value)} {message}"
        elif kind == "string_type" and isinstance(value, bool | int | float):
            message += ": put it in quotes"
            if not _is_secret(path):
                message += f", {self.texts.get(self._origin(path), str(value))[:MAX_ECHO_CHARS]!r}"
        elif kind != "value_error" and isinstance(value, bool | int | float | str) and not _is_secret(path):
            message = f"{message} (got {echo(value)})"
        return ConfigError(where, message)


def _resolvers_of_yaml_1_2() -> dict[Any, list[tuple[str, re.Pattern[str]]]]:
    """``true`` and ``false`` alone are boolean. In YAML 1.1 ``no``, ``on`` and the like are, too."""
    resolvers = {
        first: [entry for entry in entries if entry[0] != _BOOL_TAG]
        for first, entries in Resolver.yaml_implicit_resolvers.items()
    }
    for first in "tTfF":
        boolean = (_BOOL_TAG, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"))
        resolvers[first] = [*resolvers.get(first, []), boolean]
    return resolvers


class _Loader(Composer, SafeConstructor, Resolver):
    """Nodes, then values, from events that somebody else has parsed and bounded."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._events = events
        self._next: yaml.Event | None = None

    def peek_event(self) -> yaml.Event | None:
        """The next event, which stays the next; None after the last."""
        if self._next is None:
            self._next = next(self._events, None)
        return self._next

    def check_event(self, *choices: type[yaml.Event]) -> bool:
        """Whether the next event is one of these."""
        return isinstance(self.peek_event(), choices)

    def get_event(self) -> yaml.Event | None:
        """Take the next event."""
        event, self._next = self.peek_event(), None
        return event

    def construct_integer(self, node: yaml.ScalarNode) -> int | str:
        """An integer. ``12:30`` is a text, as in YAML 1.2, and not 750; a long one would take a while to add up."""
        return str(node.value) if ":" in node.value else int(self.construct_yaml_int(node))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping. Its keys are texts as they stand: a camera may be called ``no`` or ``7``."""
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = _TEXT_TAG
        return super().construct_mapping(node, deep)

    yaml_implicit_resolvers = _resolvers_of_yaml_1_2()
    yaml_constructors = {  # noqa: RUF012 - as the base class has it
        **SafeConstructor.yaml_constructors,
        "tag:yaml.org,2002:int": construct_integer,
    }


def _bounded(events: Iterator[yaml.Event], path: Path) -> Iterator[yaml.Event]:
    """Events up to the first that is nested too deeply or one too many, so that nobody builds what nobody wrote."""
    depth = nodes = 0
    for event in events:
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_SETTINGS_DEPTH:
            raise _too_deep(path)
        if nodes > 2 * MAX_SETTINGS_VALUES:  # a key and its value
            raise _too_many(path)
        yield event


@dataclass(slots=True)
class _Content:
    """What stands in a file: checks the nodes before anything is made of them, and fills in variables.

    Attributes:
        path: the file.
        environment: variables.
        may_lack: whether a value may name one that is not set.
        lines: line of every value, by location.
        texts: every value that is no section and no list, as it stands, by location.
        problems: repeated keys, keys that are no text, unset variables, values that grow too long.
    """

    path: Path
    environment: Mapping[str, str]
    may_lack: Callable[[Location], bool]
    lines: dict[Location, int] = field(default_factory=dict)
    texts: dict[Location, str] = field(default_factory=dict)
    problems: list[ConfigError] = field(default_factory=list)
    _values: int = 0
    _checked: set[int] = field(default_factory=set)
    _filled: dict[str, str] = field(default_factory=dict)

    def check(self, node: yaml.Node, location: Location) -> None:
        """Check a node and what is below it.

        Raises:
            ConfigError: nested too deeply, or too many values. An alias counts like what it stands for.
        """
        self._values += 1
        if len(location) > MAX_SETTINGS_DEPTH:
            raise _too_deep(self.path)
        if self._values > MAX_SETTINGS_VALUES:
            raise _too_many(self.path)
        if isinstance(node, yaml.MappingNode):
            self._check_mapping(node, location)
            return
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.lines[(*location, index)] = item.start_mark.line + 1
                self.check(item, (*location, index))
            return
        self.texts[location] = str(node.value)
        if id(node) not in self._checked:  # aliases of one text have one problem
            self._checked.add(id(node))
            self._check_text(str(node.value), node.start_mark.line + 1, location)

    def _check_mapping(self, node: yaml.MappingNode, location: Location) -> None:
        seen: set[str] = set()
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(line, location, "a key must be a text")
                continue
            name = str(key_node.value)
            if name in seen:
                self._problem(line, (*location, name), "the key is repeated; keep one")
            seen.add(name)
            self.lines[(*location, name)] = line
            self.check(value_node, (*location, name))

    def _check_text(self, text: str, line: int, location: Location) -> None:
        found = list(_VARIABLE.finditer(text))
        for name in dict.fromkeys(match["name"] for match in found if match["default"] is None):
            if name not in self.environment and not self.may_lack(location):
                problem = f"environment variable {name} is not set; set it or write ${{{name}:-default}}"
                self._problem(line, location, problem)
        grown = sum(len(self._value_of(match)) - len(match[0]) for match in found)
        if found and len(text) + grown > MAX_VALUE_CHARS:
            self._problem(line, location, f"longer than {MAX_VALUE_CHARS} characters")

    def fill_in(self, value: object) -> object:
        """A value with its variables filled in."""
        if isinstance(value, dict):
            return {key: self.fill_in(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill_in(item) for item in value]
        if isinstance(value, str):
            if value not in self._filled:
                self._filled[value] = _VARIABLE.sub(self._value_of, value)
            return self._filled[value]
        return value

    def _value_of(self, variable: re.Match[str]) -> str:
        default = variable[0] if variable["default"] is None else variable["default"]
        return self.environment.get(variable["name"], default)

    def _problem(self, line: int, location: Location, problem: str) -> None:
        self.problems.append(ConfigError(f"{self.path}:{line}: {_dotted(location)}", problem))


def _too_deep(path: Path) -> ConfigError:
    return ConfigError(str(path), f"nested more than {MAX_SETTINGS_DEPTH} levels deep")


def _too_many(path: Path) -> ConfigError:
    return ConfigError(str(path), f"more than {MAX_SETTINGS_VALUES} values, anchors expanded")


def _raise(path: Path, problems: Sequence[ConfigError], count: int) -> None:
    """Raise the problems, of which there are so many, if there are any."""
    if count == 1:
        raise problems[0]
    if problems:
        listing = "".join(f"\n  {problem}" for problem in problems[:_MAX_PROBLEMS])
        if count > _MAX_PROBLEMS:
            listing += f"\n  and {count - _MAX_PROBLEMS} more"
        raise ConfigError(str(path), f"{count} problems:{listing}")


def _overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values with others laid over them, section by section."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[key] = _overlaid(cast("Mapping[str, Any]", under), value) if both else value
    return merged


def _dotted(location: Location) -> str:
    return ".".join(str(part)[:MAX_ECHO_CHARS] for part in location) or "file"


def _is_secret(location: Location) -> bool:
    return any("password" in str(part) or part in ("token", "secret", "url", "addresses") for part in location)


def _keys_at(settings: type[BaseModel], location: Location) -> list[str]:
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
