"""Counters of energy that a machine may have: RAPL of its processor, or a sensor on its supply (hwmon, INA chips)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

_MICRO: Final = 1e-6
_MILLI: Final = 1e-3
_SENSORS: Final = ("ina2", "ina3")
"""Beginnings of the names of current sensors: INA219, INA226, INA231, INA260, INA3221..."""
_SAMPLE_S: Final = 0.05


class EnergyCounter(Protocol):
    """Something that counts the joules that a machine has taken.

    Attributes:
        name: what it is, for reports.
    """

    name: str

    def joules(self) -> float:
        """Energy since an arbitrary moment; never falls."""
        ...

    def close(self) -> None:
        """End what it runs in the background."""


class RaplCounter:
    """The counters of processor packages below ``/sys/class/powercap``; each begins again at its limit.

    Args:
        zones: their folders.

    Raises:
        OSError: they cannot be read; on most systems only root may.
    """

    name = "RAPL (processor packages)"

    def __init__(self, zones: Sequence[Path]) -> None:
        self._limits = {zone: _number(zone / "max_energy_range_uj") for zone in zones}
        self._last = {zone: _number(zone / "energy_uj") for zone in zones}
        self._sum_uj = 0

    def joules(self) -> float:
        """See :class:`EnergyCounter`; to be called at least once in a turn of a counter, some minutes at full load."""
        for zone, before in self._last.items():
            now = _number(zone / "energy_uj")
            self._sum_uj += now - before if now >= before else now + self._limits[zone] - before
            self._last[zone] = now
        return self._sum_uj * _MICRO

    def close(self) -> None:
        """Nothing runs."""


class SensorCounter:
    """Sensors of power, read again and again in a thread; what lies between two readings is their mean.

    Args:
        watts: read one after the other, their sum is what the machine takes.
        clock: seconds.
    """

    name = "hwmon (current sensors)"

    def __init__(self, watts: Sequence[Callable[[], float]], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._watts = watts
        self._clock = clock
        self._lock = threading.Lock()
        self._last = clock(), self._power_w()
        self._sum_j = 0.0
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="power", daemon=True).start()

    def joules(self) -> float:
        """See :class:`EnergyCounter`."""
        with self._lock:
            (before_s, before_w), now = self._last, (self._clock(), self._power_w())
            self._sum_j += (now[0] - before_s) * (before_w + now[1]) / 2
            self._last = now
            return self._sum_j

    def close(self) -> None:
        """End the thread."""
        self._ended.set()

    def _power_w(self) -> float:
        return sum(read() for read in self._watts)

    def _run(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            self.joules()


def find_counter(root: Path = Path("/")) -> tuple[EnergyCounter | None, str]:
    """The counter of this machine.

    Args:
        root: of the file system; another one in tests.

    Returns:
        The sensor of its supply where there is one, which sees the whole board; else RAPL, which sees the processor;
        else None. With it, what was found or why there is none.
    """
    watts = [read for chip in sorted(root.glob("sys/class/hwmon/hwmon*")) for read in _powers(chip)]
    if watts:
        return SensorCounter(watts), SensorCounter.name
    zones = sorted(root.glob("sys/class/powercap/intel-rapl:*"))
    packages = [zone for zone in zones if _text(zone / "name").startswith("package")]
    if not packages:
        return None, "this machine has no counter: neither RAPL nor a current sensor of hwmon"
    try:
        return RaplCounter(packages), RaplCounter.name
    except (OSError, ValueError) as error:
        return None, f"RAPL is there and cannot be read ({error}): run as root"


def _powers(chip: Path) -> list[Callable[[], float]]:
    """Readings of a sensor chip in watts: its power, or voltage times current of each channel."""
    if not _text(chip / "name").startswith(_SENSORS):
        return []
    powers = sorted(chip.glob("power*_input"))
    if powers:
        return [_product({path: _MICRO}) for path in powers]
    # Voltages and currents of an INA3221 have the same numbers.
    pairs = [(chip / f"in{path.name[4:-6]}_input", path) for path in sorted(chip.glob("curr*_input"))]
    return [_product({volts: _MILLI, amperes: _MILLI}) for volts, amperes in pairs if volts.exists()]


def _product(factors: Mapping[Path, float]) -> Callable[[], float]:
    def read() -> float:
        watts = 1.0
        for path, unit in factors.items():
            watts *= _number(path) * unit
        return watts

    return read


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
