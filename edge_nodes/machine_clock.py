"""A clock of this machine that outlives a process, and the name of the time since the machine was switched on."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class MachineClock:
    """Time since the machine was switched on, its sleep included; nothing sets it, and it ends with the power.

    Attributes:
        boot: name of this switching on; two times of different names cannot be compared.
    """

    boot: str

    @classmethod
    def of_this_machine(cls) -> MachineClock:
        """The clock; where the system has no name for its start, times of two processes cannot be compared."""
        try:
            return cls(_BOOT_ID.read_text(encoding="ascii").strip() or secrets.token_hex(16))
        except (OSError, ValueError):
            return cls(secrets.token_hex(16))

    def now_s(self) -> float:
        """Seconds since the machine was switched on."""
        clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        return time.clock_gettime(clock)
