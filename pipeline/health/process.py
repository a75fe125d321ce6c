"""What a process knows of itself: its disks, clock and certificates. Figures and the time go in, signs come out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.health.conditions import HealthKind, Sign, Subject
from pipeline.protocol.asking_rules import CLOCK_IS_SET_S

DISK_BAD: Final = (0.05, 256_000_000)
DISK_OVER: Final = (0.08, 400_000_000)
"""Share of a disk, and bytes, that are left: under one of the first two it fills, over both others it does not."""
CERTIFICATE_BAD_S: Final = 30 * 86_400.0
STEP_S: Final = 60.0
"""A clock that is set by so much was wrong, or is."""
STEP_HOLDS_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Room of a disk, in bytes."""

    free_bytes: int
    total_bytes: int


def disk_sign(subject: Subject, name: str, part: str, space: DiskSpace) -> Sign:
    """Whether a disk fills.

    Args:
        subject: whose disk it is.
        name: its name.
        part: what is kept there.
        space: its room.
    """
    share = space.free_bytes / max(1, space.total_bytes)
    filling = share < DISK_BAD[0] or space.free_bytes < DISK_BAD[1]
    well = share > DISK_OVER[0] and space.free_bytes > DISK_OVER[1]
    bad = True if filling else False if well else None
    return Sign(HealthKind.DISK_FILLING, subject, name, bad, part, f"{space.free_bytes / 1e6:,.0f} MB left")


def certificate_signs(subject: Subject, name: str, ends_s: Mapping[str, float], wall_s: float) -> Iterator[Sign]:
    """Whether certificates end soon.

    Args:
        subject: whose they are.
        name: its name.
        ends_s: when each of them ends, in seconds since 1970.
        wall_s: now.
    """
    for part, end_s in ends_s.items():
        left_s = end_s - wall_s
        days = f"{left_s / 86_400:.0f} days"
        yield Sign(HealthKind.CERTIFICATE_ENDING, subject, name, left_s < CERTIFICATE_BAD_S, part, days)


class ClockWatch:
    """Notices a clock that is wrong.

    Attributes:
        steps: how often it was set by :data:`STEP_S` or more.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._offset_s: float | None = None
        self._stepped_s: float | None = None

    def sign(self, subject: Subject, name: str, wall_s: float, now_s: float) -> Sign:
        """Look at the clock.

        Args:
            subject: whose clock it is.
            name: its name.
            wall_s: what it says, in seconds since 1970.
            now_s: monotonic time that goes on while the machine sleeps.
        """
        offset_s = wall_s - now_s
        if self._offset_s is not None and abs(offset_s - self._offset_s) >= STEP_S:
            self.steps += 1
            self._stepped_s = now_s
        self._offset_s = offset_s
        stepped = self._stepped_s is not None and now_s - self._stepped_s < STEP_HOLDS_S
        return Sign(HealthKind.CLOCK_WRONG, subject, name, stepped or wall_s < CLOCK_IS_SET_S)
