"""Keeping a database that cannot be used for whoever wants to look, so that a new one can be begun."""

from __future__ import annotations

from pathlib import Path


def set_aside(path: Path, suffix: str) -> Path:
    """Move a file of SQLite, and what belongs to it, out of the way.

    Args:
        path: the file.
        suffix: what stands for its own suffix from now on; a number follows where that name is taken.

    Returns:
        Where it is now.

    Raises:
        OSError: it cannot be moved.
    """
    aside, number = path.with_suffix(f".{suffix}"), 1
    while aside.exists():
        number += 1
        aside = path.with_suffix(f".{suffix}-{number}")
    for ending in ("", "-wal", "-shm"):
        part = path.with_name(f"{path.name}{ending}")
        if part.exists():
            part.replace(aside.with_name(f"{aside.name}{ending}"))
    return aside
