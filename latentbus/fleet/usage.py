"""Memory and processor time of a process, seen from outside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def resident_bytes(pid: int, field: str = "VmRSS") -> int:
    """Resident memory of a process; 0 when it is gone.

    Args:
        pid: process id.
        field: ``VmHWM`` for the most that it had so far, on Linux.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        if Path("/proc/self/status").exists():
            return 0
        command = ["ps", "-o", "rss=", "-p", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        return 1024 * int(done.stdout.strip() or 0)
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def cpu_s(pid: int | None) -> float | None:
    """Processor time of a process and its threads so far, where the system tells."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
