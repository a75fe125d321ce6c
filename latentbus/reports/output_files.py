"""What commands write: looked at before the work, never over what somebody else made, and said afterwards."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import typer

from schemas.errors import ConfigError

RUN_MARKER: Final = ".latentbus-run"
"""Lies in a folder of a run: the next run may delete the folder."""
RESULTS_MARK: Final = "<!-- figures: the command below writes this page; do not edit it by hand -->"
"""Stands in a page of figures: the next run may write it anew."""


def json_target(path: Path | None) -> Path | None:
    """Callback of ``--json``: the file can be written, and is new or holds JSON.

    Raises:
        ConfigError: it cannot, or holds something else.
    """
    return _target(path, "--json", "JSON", _is_json)


def html_target(path: Path | None) -> Path | None:
    """Callback of ``--html``: the file can be written, and is new or holds a page.

    Raises:
        ConfigError: it cannot, or holds something else.
    """
    return _target(path, "--html", "HTML page", _is_html)


def svg_target(path: Path | None) -> Path | None:
    """Callback of ``--picture``: the file can be written, and is new or holds SVG.

    Raises:
        ConfigError: it cannot, or holds something else.
    """
    return _target(path, "--picture", "SVG", lambda text: text.lstrip().startswith(("<svg", "<?xml")))


def markdown_target(path: Path | None) -> Path | None:
    """Callback of ``--markdown``: the file can be written, and is new or a page of figures.

    Raises:
        ConfigError: it cannot, or holds something else.
    """
    return _target(
        path, "--markdown", "page of figures", lambda text: not text.strip() or RESULTS_MARK.partition(":")[0] in text
    )


def write_text(path: Path, text: str, option: str) -> None:
    """Write a file, and say so on the standard error.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(option, f"cannot write {path}: {error.strerror}") from None
    typer.echo(f"wrote {path}", err=True)


def write_json(path: Path | None, value: object, option: str = "--json") -> None:
    """Write a value as JSON, where a file was asked for.

    Raises:
        ConfigError: it cannot be written.
    """
    if path is not None:
        write_text(path, json.dumps(value, indent=1) + "\n", option)


def fresh_run_dir(work_dir: Path) -> Path:
    """The folder ``run`` of a work directory, empty; what an earlier run left there is deleted.

    Raises:
        ConfigError: it cannot be made, or something else is in it.
    """
    run_dir = work_dir.resolve() / "run"
    try:
        if run_dir.is_symlink() or (run_dir.exists() and not run_dir.is_dir()):
            raise ConfigError("--work-dir", f"{run_dir} is no folder of ours; name another --work-dir")
        if run_dir.is_dir() and any(run_dir.iterdir()) and not (run_dir / RUN_MARKER).exists():
            raise ConfigError(
                "--work-dir", f"{run_dir} holds what no run left there: move it away, or name another --work-dir"
            )
        shutil.rmtree(run_dir, ignore_errors=True)
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / RUN_MARKER).touch()
    except OSError as error:
        raise ConfigError("--work-dir", f"{run_dir} cannot be made: {error.strerror}") from None
    return run_dir


def _target(path: Path | None, option: str, kind: str, is_ours: Callable[[str], bool]) -> Path | None:
    if path is None or (path.exists() and not path.is_file() and not path.is_dir()):
        return path  # a terminal or a pipe takes everything
    if path.is_dir():
        raise ConfigError(option, f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise ConfigError(option, f"cannot write {path}: no such folder: {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(option, f"cannot write {path}: not permitted")
    if path.exists() and path.stat().st_size:
        try:
            ours = is_ours(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            ours = False
        if not ours:
            raise ConfigError(option, f"{path} is no {kind} and would be overwritten: name another file, or delete it")
    return path


def _is_html(text: str) -> bool:
    return text.lstrip()[:14].lower().startswith(("<!doctype", "<html"))


def _is_json(text: str) -> bool:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list)
