"""What a chaos run is asked for."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from latentbus.chaos.plan import FaultKind
from latentbus.reports.output_files import json_target
from latentbus.reports.results_page import MarkdownOption
from pipeline.config.camera_settings import MAX_INTERVAL_S


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
        markdown: where the figures are written as a page.
        work_dir: settings, logs, database of the broker.
    """

    questions: Annotated[int, typer.Option(help="Questions to ask, at least.", min=1)] = 2000
    faults: Annotated[int, typer.Option(help="Faults to inject, spread over the questions.", min=0)] = 40
    seed: Annotated[int, typer.Option(help="Seed of the fault plan; drawn unless given.", min=0)] = field(
        default_factory=lambda: random.SystemRandom().randrange(1_000_000)
    )
    kinds: Annotated[tuple[FaultKind, ...], typer.Option("--kind", help="Only this kind of fault; repeatable.")] = (
        tuple(FaultKind)
    )
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=16)] = 3
    sites: Annotated[int, typer.Option(help="Edge processes.", min=1, max=16)] = 2
    cameras_per_site: Annotated[int, typer.Option("--cameras", help="Cameras of each site.", min=1, max=16)] = 2
    questions_per_camera: int = 3
    standing_per_ad_hoc: int = 10
    interval_s: Annotated[
        float, typer.Option("--interval", help="Seconds between frames of a camera.", min=0.1, max=MAX_INTERVAL_S)
    ] = 1.0
    deadline_s: Annotated[
        float, typer.Option("--deadline", help="Deadline of each question in seconds.", min=1, max=600)
    ] = 15.0
    uplink_kbps: float = 256.0
    keepalive_s: int = 5
    codec: Annotated[Path | None, typer.Option(help="Codec folder; the bundled one unless given.")] = None
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file.", callback=json_target)
    ] = None
    markdown: MarkdownOption = None
    work_dir: Annotated[Path, typer.Option(help="Generated settings, logs, database of the broker.")] = Path(".chaos")

    @property
    def detection_s(self) -> float:
        """Time in which the broker calls a silent client dead (MQTT 5, section 3.1.2.10)."""
        return 1.5 * self.keepalive_s
