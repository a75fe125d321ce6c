"""What ``latentbus bench uplink`` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from latentbus.reports.output_files import json_target
from latentbus.reports.results_page import MarkdownOption


@dataclass(frozen=True, slots=True)
class UplinkBenchOptions:
    """How much is measured.

    Attributes:
        json_file: where every figure is written.
        markdown: where they are written as a page.
        duration_s: of each count.
        interval_s: of each camera.
    """

    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every figure to this file.", callback=json_target)
    ] = None
    markdown: MarkdownOption = None
    duration_s: Annotated[float, typer.Option("--duration", help="Seconds of each count.", min=1, max=3_600)] = 60.0
    interval_s: Annotated[float, typer.Option("--interval", help="Seconds between frames.", min=0.1, max=600)] = 1.0
