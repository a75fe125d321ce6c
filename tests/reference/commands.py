"""Tables of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer.main

from analysis.markdown import table
from latentbus.cli import app

_STATUS = re.compile(r"Exit status:? (.*?\.)(?=\s|$)")


def exit_statuses() -> str:
    """What each command says of its exit status."""
    rows = []
    for name, command in all_commands(typer.main.get_command(app)):
        text = " ".join((command.help or "").split())
        if found := _STATUS.search(text):
            rows.append((f"`latentbus {name}`", found[1].removesuffix(".")))
    return table(("command", "exit status"), rows)


def all_commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command below a group with its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command
