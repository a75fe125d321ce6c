"""Options of a command, declared once: as the annotated fields of the dataclass that the work takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from typer.models import ParameterInfo

_Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Typed:
    """Says of a field that a user types something else than it holds.

    Attributes:
        as_type: what is typed, ``str`` or a list of it.
        parse: makes the value of the field; raises ConfigError.
    """

    as_type: Any
    parse: Callable[[Any], Any]


def with_option_sets(command: _Command) -> _Command:
    """Let each parameter that is a dataclass stand for one option for each of its fields that typer knows.

    A field is an option when its annotation has ``typer.Option`` or ``typer.Argument``; the others keep their defaults.
    A field that is a tuple is an option that can be repeated.

    Args:
        command: its dataclasses have no positional-only parameters, and no two of them the same field.

    Returns:
        The command, as typer is to see it.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    sets: dict[str, tuple[type, list[_Option]]] = {}
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        if is_dataclass(hint) and isinstance(hint, type):
            options = _options_of(hint)
            sets[parameter.name] = hint, options
            parameters += [option.parameter for option in options]
        else:
            parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))

    def expanded(**values: Any) -> None:
        given = {}
        for name, (option_set, options) in sets.items():
            found = {option.name: option.value(values.pop(option.name)) for option in options}
            given[name] = option_set(**{field: value for field, value in found.items() if value is not _NOT_GIVEN})
        command(**given, **values)

    expanded.__name__, expanded.__doc__, expanded.__module__ = command.__name__, command.__doc__, command.__module__
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


_NOT_GIVEN: Final = object()
"""The dataclass has a default that a command line cannot show."""


@dataclass(frozen=True, slots=True)
class _Option:
    """A field as an option.

    Attributes:
        name: of the field.
        parameter: what typer sees.
        parse: makes the value of the field from what typer gives; None where that is the same.
    """

    name: str
    parameter: inspect.Parameter
    parse: Callable[[Any], Any] | None

    def value(self, typed: Any) -> Any:
        """The value of the field."""
        if self.parse is None:
            return typed
        return _NOT_GIVEN if typed is None else self.parse(typed)


def _options_of(option_set: type) -> list[_Option]:
    hints = get_type_hints(option_set, include_extras=True)
    found = []
    for field in fields(option_set):
        hint, *extras = get_args(hints[field.name]) if get_origin(hints[field.name]) is Annotated else (None,)
        info = next((extra for extra in extras if isinstance(extra, ParameterInfo)), None)
        if info is not None:
            typed = next((extra for extra in extras if isinstance(extra, Typed)), None)
            found.append(_option(field, hint, info, typed))
    return found


def _option(field: Field[Any], hint: Any, info: ParameterInfo, typed: Typed | None) -> _Option:
    parse: Callable[[Any], Any] | None = None
    if typed is not None:
        hint, parse = typed.as_type, typed.parse
    elif get_origin(hint) is tuple:
        hint, parse = list[get_args(hint)[0]], tuple  # type: ignore[misc]
    elif field.default_factory is not MISSING:
        parse = _same
    default: Any = inspect.Parameter.empty
    if parse is None:
        default = inspect.Parameter.empty if field.default is MISSING else field.default
    elif field.default is not MISSING or field.default_factory is not MISSING:
        hint, default = hint | None, None
    parameter = inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, info]
    )
    return _Option(field.name, parameter, parse)


def _same(value: Any) -> Any:
    return value
