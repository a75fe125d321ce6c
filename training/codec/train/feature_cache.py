"""The cache of visual tokens on disk, and its bound."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError
from training.run import Progress

_ROOTS: Final = "pictures-*"
_TOKENS: Final = "cache/tokens.npy"
_GB: Final = 1_000_000_000


def pictures_that_fit(wanted: int, token_shape: tuple[int, int], cache_gb: float) -> int:
    """How many pictures the cache has room for.

    Args:
        wanted: Pictures at most.
        token_shape: Visual tokens of a picture, and values of each.
        cache_gb: Its bound.

    Raises:
        ConfigError: not even one.
    """
    each_bytes = 2 * token_shape[0] * token_shape[1]
    room = int(cache_gb * _GB // each_bytes)
    if room < 1:
        raise ConfigError("--cache-gb", f"tokens of a picture take {each_bytes} bytes: allow more")
    return min(wanted, room)


def make_room(cache: Path, root: Path, needed_bytes: int, cache_gb: float, progress: Progress) -> None:
    """Delete visual tokens of other runs until those of this one fit; whoever needs them makes them again.

    Args:
        cache: Folder of all runs.
        root: Of this one.
        needed_bytes: What its tokens take.
        cache_gb: Bound of all tokens together.
        progress: Called with a line for each file.
    """
    others = [path for path in cache.glob(f"{_ROOTS}/{_TOKENS}") if path.parents[1] != root]
    others.sort(key=lambda path: path.stat().st_atime_ns)
    held = sum(path.stat().st_size for path in others)
    free = shutil.disk_usage(cache).free if cache.exists() else None
    mine = root / _TOKENS
    new_bytes = 0 if mine.exists() else needed_bytes
    for path in others:
        if held + needed_bytes <= cache_gb * _GB and (free is None or free > new_bytes):
            break
        size = path.stat().st_size
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink()
        held -= size
        free = None if free is None else free + size
        progress(f"{path}: {size / _GB:.1f} GB of visual tokens of another run deleted, to stay within --cache-gb")
