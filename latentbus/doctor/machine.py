"""Clock and disk of this machine."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import latentbus
from edge_nodes.check.findings import Finding, Verdict
from pipeline.config.settings import LatentbusSettings

LEAST_FREE_BYTES: Final = 200_000_000
LITTLE_FREE_BYTES: Final = 1_000_000_000
LITTLE_FREE_SHARE: Final = 0.05
_TIME_ERROR: Final = 5
"""What adjtimex(2) returns while nothing keeps the clock right."""
_MB: Final = 1_000_000


def check_clock(now_s: float | None = None, synchronised: bool | None = None) -> Finding:
    """Whether the clock can be right: certificates, budgets of a day and schedules go by it.

    Args:
        now_s: seconds since 1970; of the clock unless given.
        synchronised: whether something keeps it right; asked of the system unless given.
    """
    now_s = time.time() if now_s is None else now_s
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    fix = "set it, and run a time service such as systemd-timesyncd or chrony"
    installed_s = Path(latentbus.__file__).stat().st_mtime
    if now_s < installed_s:
        return Finding("clock", Verdict.BAD, f"{shown}, which is before this software was installed", fix)
    if synchronised is None:
        synchronised = _synchronised()
    if synchronised is None:
        return Finding("clock", Verdict.UNKNOWN, f"{shown}; this system does not tell whether it is kept right")
    if not synchronised:
        return Finding("clock", Verdict.WARN, f"{shown}; nothing keeps it right", fix)
    return Finding("clock", Verdict.GOOD, f"{shown}, kept right by a time service")


def _synchronised() -> bool | None:
    """Whether the kernel knows the clock to be right; None where it cannot be asked."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        state: int = library.adjtimex(ctypes.create_string_buffer(512))  # zeros: nothing is changed
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def folders_of(settings: LatentbusSettings) -> dict[str, Path]:
    """Folders that a process with these settings writes to, by the setting that names them."""
    found: dict[str, Path | None] = {}
    if settings.edge is not None:
        edge = settings.edge
        found["edge.state_dir"] = edge.state_dir
        found["edge.recording.file"] = None if edge.recording is None else edge.recording.file.parent
        found["edge.frame_log"] = None if edge.frame_log is None else edge.frame_log.parent
    if settings.worker is not None:
        recording = settings.worker.recording
        found["worker.recording.file"] = None if recording is None else recording.file.parent
    if settings.gateway is not None:
        found["gateway.state_dir"] = settings.gateway.state_dir
    return {name: path for name, path in found.items() if path is not None}


def check_disks(folders: Iterable[tuple[str, Path]]) -> list[Finding]:
    """Whether each folder can be written and has room; folders of one disk together.

    Args:
        folders: with the settings that name them.
    """
    findings: list[Finding] = []
    names: dict[int, list[str]] = {}
    places: dict[int, Path] = {}
    for name, folder in folders:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not os.access(there, os.W_OK):
            fix = f"give the user of the process the right to write it: chown, or another {name}"
            findings.append(Finding("disk", Verdict.BAD, f"{name}: {there} is not writable", fix))
            continue
        device = there.stat().st_dev
        names.setdefault(device, []).append(name)
        places.setdefault(device, there)
    findings += [_room(places[device], ", ".join(names[device])) for device in places]
    return findings or [Finding("disk", Verdict.GOOD, "nothing is stored by these settings")]


def _room(place: Path, names: str) -> Finding:
    usage = shutil.disk_usage(place)
    share = usage.free / usage.total if usage.total else 0.0
    found = f"{names}: {usage.free / _MB:,.0f} MB of {usage.total / _MB:,.0f} MB are free"
    figures = {"free_bytes": usage.free, "total_bytes": usage.total, "folder": str(place)}
    fix = "delete what is not needed, or name folders on another disk"
    if usage.free < LEAST_FREE_BYTES:
        return Finding("disk", Verdict.BAD, found, fix, figures)
    if usage.free < LITTLE_FREE_BYTES or share < LITTLE_FREE_SHARE:
        return Finding("disk", Verdict.TIGHT, found, fix, figures)
    return Finding("disk", Verdict.GOOD, found, None, figures)
