"""Memory of this process, and what there is for it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Final

_KIB: Final = 1024


def peak_bytes() -> int:
    """Most memory that this process has had so far."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(_KIB * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    # Elsewhere; on Linux this one begins with what the process had that started this one.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _KIB


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process may still take: what the system has, within the limits of its control groups.

    Args:
        root: of the file system; another one in tests.

    Returns:
        None where the system does not tell.
    """
    found = [_of_system(root), *_of_groups(root)]
    known = [amount for amount in found if amount is not None]
    return min(known) if known else None


def _of_system(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines()
        return next(_KIB * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _of_groups(root: Path) -> list[int | None]:
    """Room in the group of this process and in each that it is in (cgroup v2)."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    path = next((line.partition("::")[2] for line in lines if line.startswith("0::")), "")
    group = Path(path.lstrip("/"))
    return [_room(root / "sys/fs/cgroup" / folder) for folder in (group, *group.parents)]


def _room(folder: Path) -> int | None:
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = (folder / "memory.current").read_text(encoding="ascii").strip()
        return None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None
