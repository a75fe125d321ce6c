"""Room on the disk, asked for before the work."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError

_SPARE: Final = 1.05


def check_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Make sure that a file will fit.

    Args:
        folder: Where it is to be written.
        needed_bytes: Its size.
        what: It holds.

    Raises:
        ConfigError: there is less room.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < _SPARE * needed_bytes:
        raise ConfigError(
            "--cache",
            f"{what} take {needed_bytes / 1e9:.1f} GB, {folder} has {free_bytes / 1e9:.1f} GB: name a folder on "
            "another disk, or take fewer with --max-pictures",
        )
