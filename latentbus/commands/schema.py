"""``latentbus schema``: what a program can be told about the files of Latentbus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

schema_app = typer.Typer(help="JSON Schema of what a person writes.", no_args_is_help=True)


@schema_app.callback()
def schema() -> None:
    """JSON Schema of what a person writes."""


@schema_app.command("config", epilog="Example: latentbus schema config --out latentbus.schema.json")
def schema_config(
    out: Annotated[Path | None, typer.Option(help="File to write; standard output unless given.")] = None,
) -> None:
    """JSON Schema of the settings file, for completion in an editor.

    Editors that use the YAML language server find it by a first line such as
    `# yaml-language-server: $schema=latentbus.schema.json`.
    """
    import json

    from pipeline.config.settings_schema import settings_schema
    from schemas.errors import ConfigError

    text = json.dumps(settings_schema(), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", f"cannot write {out}: {error.strerror}") from None
    typer.echo(f"{out}: schema of the settings file")
