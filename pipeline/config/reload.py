"""What differs between two readings of the settings, and whether a running process can take it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from pydantic import BaseModel

from pipeline.config.settings import LatentbusSettings
from schemas.errors import ConfigError

Path: TypeAlias = tuple[str, ...]
"""Keys from a section on; ``*`` stands for any one."""


def cold_changes(before: BaseModel, after: BaseModel, hot: Sequence[Path]) -> list[str]:
    """Keys that have changed and take effect at a start alone.

    Args:
        before: the settings that a process runs with.
        after: those that were read again.
        hot: keys that may change, with all that is below them.
    """
    return [".".join(path) for path in _changes(before.model_dump(), after.model_dump(), (), hot)]


def check_shared(before: LatentbusSettings, after: LatentbusSettings) -> None:
    """Whether what every process reads is as it was: the connection and the log are made at the start.

    Raises:
        ConfigError: it has changed.
    """
    changed = [
        f"{name}.{key}"
        for name, old, new in (("broker", before.broker, after.broker), ("log", before.log, after.log))
        for key in cold_changes(old, new, ())
    ]
    if changed:
        raise ConfigError(", ".join(changed), "takes effect after a restart")


def _changes(before: Any, after: Any, path: Path, hot: Sequence[Path]) -> Iterator[Path]:
    if before == after or any(_matches(path, pattern) for pattern in hot):
        return
    if not (isinstance(before, dict) and isinstance(after, dict)):
        yield path
        return
    for key in dict.fromkeys((*before, *after)):
        if key in before and key in after:
            yield from _changes(before[key], after[key], (*path, key), hot)
        elif not any(_matches((*path, key), pattern) for pattern in hot):
            yield (*path, key)


def _matches(path: Path, pattern: Path) -> bool:
    return len(path) == len(pattern) and all(wanted in ("*", key) for key, wanted in zip(path, pattern, strict=True))
