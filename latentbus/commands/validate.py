"""``latentbus validate``: a settings file, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = "Example: latentbus validate site.yaml"


def validate(
    file: Annotated[Path, typer.Argument(help="YAML file.")],
    show: Annotated[bool, typer.Option(help="Print the settings in full, defaults filled in, secrets hidden.")] = False,
) -> None:
    """Check a settings file: every problem with its line, its key and what is allowed there."""
    from latentbus.options.validate import load_and_check

    settings = load_and_check(file)
    if show:
        import yaml

        from edge_nodes.sources import redacted

        typer.echo(redacted(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)), nl=False)
    else:
        sections = [name for name in ("edge", "worker", "gateway") if getattr(settings, name) is not None]
        named = {"site": list(settings.sites), "pool": list(settings.pools)}
        sections += [f"{kind}s {', '.join(of_kind)}" for kind, of_kind in named.items() if of_kind]
        typer.echo(f"{file}: good ({', '.join(['broker', *sections])})")
