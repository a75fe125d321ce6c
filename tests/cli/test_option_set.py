"""Options that are declared once, as fields of a dataclass."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from latentbus.options.option_set import Typed, with_option_sets
from schemas.errors import ConfigError

SEED = 17


def _number(text: str) -> float:
    if not text.isdecimal():
        raise ConfigError("--number", f"{text} is none")
    return float(text)


@dataclass(frozen=True, slots=True)
class Part:
    files: Annotated[tuple[Path, ...], typer.Argument(help="What to read.")]
    rate_hz: Annotated[float, typer.Option("--rate", help="How fast.", min=1)] = 2.0
    names: Annotated[tuple[str, ...], typer.Option("--name", help="Repeatable.")] = ("all",)
    number: Annotated[float | None, typer.Option(help="Parsed."), Typed(str, _number)] = None
    seed: Annotated[int, typer.Option(help="Drawn unless given.")] = field(default_factory=lambda: SEED)
    inner: int = 5


@dataclass(frozen=True, slots=True)
class Other:
    fast: Annotated[bool, typer.Option("--fast", help="A flag.")] = False


def run(*arguments: str) -> tuple[list[Any], str]:
    taken: list[Any] = []
    app = typer.Typer()

    @app.command()
    @with_option_sets
    def command(part: Part, other: Other, plain: Annotated[int, typer.Option(help="One of its own.")] = 3) -> None:
        """What it does."""
        taken.extend((part, other, plain))

    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"}, catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return taken, result.output


def test_defaults_are_those_of_the_dataclass() -> None:
    assert run("a")[0] == [Part((Path("a"),)), Other(), 3]
    assert Part((Path("a"),)).seed == SEED


def test_each_field_is_an_option_under_its_name_or_the_one_that_it_gives() -> None:
    arguments = ("a", "b", "--rate", "7", "--name", "x", "--name", "y", "--number", "12", "--seed", "4", "--fast")
    part = Part((Path("a"), Path("b")), 7.0, ("x", "y"), 12.0, 4)
    assert run(*arguments, "--plain", "9")[0] == [part, Other(fast=True), 9]


def test_help_shows_them_in_their_order_and_nothing_that_is_no_option() -> None:
    taken, shown = run("--help")
    assert taken == []
    assert "What it does." in shown
    assert re.findall(r"--(\w+) ", shown)[:6] == ["rate", "name", "number", "seed", "fast", "plain"]
    assert "inner" not in shown
    assert "[default: 2.0]" in shown


def test_wrong_values_are_refused_by_typer_or_by_the_field() -> None:
    taken, shown = run("a", "--rate", "0")
    assert (taken, "--rate" in shown) == ([], True)
    taken, shown = run()
    assert (taken, "Missing argument" in shown) == ([], True)
    with pytest.raises(ConfigError, match="--number: x is none"):
        run("a", "--number", "x")
