"""What a chaos run is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latentbus.chaos.plan import FaultKind


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """Options of ``latentbus chaos``.

    Attributes:
        questions: queries to ask, at least; more when the faults take longer.
        faults: faults to inject.
        seed: of the plan.
        kinds: kinds of fault.
        workers: worker processes.
        sites: edge processes.
        cameras_per_site: cameras of each.
        questions_per_camera: standing questions of each camera.
        standing_per_ad_hoc: standing questions to each ad-hoc one.
        interval_s: time between frames of a camera.
        deadline_s: deadline of standing and ad-hoc questions.
        uplink_kbps: rate of each site's uplink.
        keepalive_s: MQTT keep alive; one and a half of it is the time in which a broker notices a silent client.
        codec: codec folder; None takes the bundled one.
        json_file: where the report is written.
        work_dir: settings, logs, database of the broker.
    """

    questions: int = 2000
    faults: int = 40
    seed: int = 0
    kinds: tuple[FaultKind, ...] = tuple(FaultKind)
    workers: int = 3
    sites: int = 2
    cameras_per_site: int = 2
    questions_per_camera: int = 3
    standing_per_ad_hoc: int = 10
    interval_s: float = 1.0
    deadline_s: float = 15.0
    uplink_kbps: float = 256.0
    keepalive_s: int = 5
    codec: Path | None = None
    json_file: Path | None = None
    work_dir: Path = Path(".chaos")

    @property
    def detection_s(self) -> float:
        """Time in which the broker calls a silent client dead (MQTT 5, section 3.1.2.10)."""
        return 1.5 * self.keepalive_s
