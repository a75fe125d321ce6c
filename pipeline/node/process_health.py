"""Looks after the health of this process: its disks, certificates and clock, and what else its kind knows."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.bus.base import ConnectionChange
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.logs import get_logger
from pipeline.config.recording_settings import RecordingSettings
from pipeline.health.certificate import ends_s
from pipeline.health.conditions import Sign, Subject, advice_of, text_of, worst_first
from pipeline.health.machine import Change, HealthMachine
from pipeline.health.process import ClockWatch, DiskSpace, certificate_signs, disk_sign
from pipeline.node.clock import wall_clock
from pipeline.node.metrics import Metrics
from pipeline.node.work_thread import WorkThread
from schemas.messages import Condition

LOOK_S: Final = 5.0
DISK_LOOK_S: Final = 30.0
"""Between two looks at disks and certificates."""
PATIENCE_S: Final = 30.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Belongings:
    """What a process keeps on disk.

    Attributes:
        folders: by what they are called in the settings.
        certificates: files in PEM, likewise.
    """

    folders: Mapping[str, Path | None]
    certificates: Mapping[str, Path | None]


def belongings_of(broker: BrokerSettings, state_dir: Path | None, recording: RecordingSettings | None) -> Belongings:
    """What an edge or worker keeps on disk, by its settings."""
    tls = broker.tls
    return Belongings(
        {"state_dir": state_dir, "recording": None if recording is None else recording.file.parent},
        {} if tls is None else {"cert_file": tls.cert_file, "ca_file": tls.ca_file},
    )


class ProcessProbe:
    """Reads what a process can tell of itself.

    Args:
        subject: what kind of process it is.
        name: its name.
        belongings: what it keeps on disk.
        metrics: where the figures are.
        clock: see :func:`~pipeline.node.clock.wall_clock`.
    """

    def __init__(
        self,
        subject: Subject,
        name: str,
        belongings: Belongings,
        metrics: Metrics,
        *,
        clock: Callable[[], tuple[float, float]] = wall_clock,
    ) -> None:
        self.clock = clock
        self._subject = subject
        self._name = name
        self._folders = {part: path for part, path in belongings.folders.items() if path is not None}
        self._certificates = {part: path for part, path in belongings.certificates.items() if path is not None}
        self._watch = ClockWatch()
        self._space: dict[str, DiskSpace] = {}
        self._ends_s: dict[str, float] = {}
        self._broker_end_s: float | None = None
        metrics.watch_gauges(
            "disk_free_bytes",
            "Room left on the disk of a folder",
            "folder",
            lambda: {part: float(space.free_bytes) for part, space in dict(self._space).items()},
        )
        metrics.watch_gauges(
            "certificate_end_timestamp_seconds",
            "When a certificate ends, in seconds since 1970",
            "certificate",
            self.certificates,
        )
        metrics.watch_counters(
            "clock_steps", "Times that the clock was set by a minute or more", (), lambda: {(): self._watch.steps}
        )

    def connection(self, change: ConnectionChange) -> None:
        """The broker came or went; its certificate is looked at as well."""
        if change.certificate_end_s is not None:
            self._broker_end_s = change.certificate_end_s

    def certificates(self) -> dict[str, float]:
        """When each certificate ends, in seconds since 1970."""
        ends_s, broker_end_s = dict(self._ends_s), self._broker_end_s
        return ends_s if broker_end_s is None else {**ends_s, "broker": broker_end_s}

    def signs(self, wall_s: float, now_s: float) -> list[Sign]:
        """What is known at this moment, good and bad.

        Args:
            wall_s: seconds since 1970.
            now_s: monotonic time.
        """
        found = [disk_sign(self._subject, self._name, part, space) for part, space in self._space.items()]
        found += certificate_signs(self._subject, self._name, self.certificates(), wall_s)
        found.append(self._watch.sign(self._subject, self._name, wall_s, now_s))
        return found

    async def run(self) -> None:
        """Read what only a disk can tell, again and again until cancelled; one that does not answer holds up nobody."""
        if not (self._folders or self._certificates):
            await asyncio.get_running_loop().create_future()
        with WorkThread("health") as thread:
            while True:
                self._space, self._ends_s = await thread.call(self.read)
                await asyncio.sleep(DISK_LOOK_S)

    def read(self) -> tuple[dict[str, DiskSpace], dict[str, float]]:
        """Room of the disks, and ends of the certificates. Blocks."""
        return _space_of(self._folders), _ends_of(self._certificates)


class ProcessHealth:
    """Judges an edge or a worker.

    Args:
        probe: what the process can tell of itself.
        metrics: where the conditions are counted.
        tell: called with what is wrong, the worst first, whenever that changes.
        more: what else is judged, good and bad.

    Attributes:
        machine: decides when a condition begins and ends.
        probe: as given.
    """

    def __init__(
        self,
        probe: ProcessProbe,
        metrics: Metrics,
        *,
        tell: Callable[[Sequence[Condition]], None],
        more: Callable[[], Iterable[Sign]],
    ) -> None:
        self.machine = HealthMachine(PATIENCE_S)
        self.probe = probe
        self._tell = tell
        self._more = more
        watch_conditions(metrics, self.machine)

    def look(self) -> None:
        """Judge once."""
        wall_s, now_s = self.probe.clock()
        changes = self.machine.observe([*self.probe.signs(wall_s, now_s), *self._more()], now_s)
        for change in changes:
            _say(change)
        if changes:
            going_on = worst_first(self.machine.going_on())
            self._tell([Condition(kind=sign.kind, about=sign.part) for sign in going_on])

    async def run(self) -> None:
        """Judge again and again, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)


def watch_conditions(metrics: Metrics, machine: HealthMachine) -> None:
    """Serve how many conditions go on."""
    metrics.watch_gauges(
        "health_conditions",
        "Conditions that go on, of the kinds that this process looks at",
        "condition",
        lambda: {kind: float(count) for kind, count in machine.counts().items()},
    )


def _space_of(folders: Mapping[str, Path]) -> dict[str, DiskSpace]:
    found = {}
    for part, path in folders.items():
        try:
            usage = shutil.disk_usage(path)
        except OSError as error:
            _log.debug("no room known", folder=str(path), problem=str(error))
        else:
            found[part] = DiskSpace(usage.free, usage.total)
    return found


def _ends_of(certificates: Mapping[str, Path]) -> dict[str, float]:
    found = {}
    for part, path in certificates.items():
        try:
            found[part] = ends_s(path.read_text(encoding="ascii", errors="replace"))
        except (OSError, ValueError) as error:
            _log.debug("no end known", certificate=str(path), problem=str(error))
    return found


def _say(change: Change) -> None:
    sign = change.sign
    if change.begins:
        _log.warning("unhealthy", condition=sign.kind, problem=text_of(sign), advice=advice_of(sign), part=sign.part)
    else:
        _log.info("healthy again", condition=sign.kind, part=sign.part)
