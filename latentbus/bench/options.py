"""What the ``bench`` commands are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import typer

from latentbus.reports.output_files import json_target
from latentbus.reports.results_page import MarkdownOption
from pipeline.config.serving_settings import ModelPrecision

NEEDED_RECORD_HZ: Final = 8_000
"""Messages a second that the recorder must take without a loss."""

FiguresOption: TypeAlias = Annotated[
    Path | None, typer.Option("--json", help="Write every figure to this file.", callback=json_target)
]


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How much is measured.

    Attributes:
        json_file: where every figure is written.
        markdown: where they are written as a page.
        work_dir: where the logs go, in a folder of their own that is removed afterwards; None is the system's.
        publishers: ``mosquitto_pub`` processes.
        payload_bytes: of each message.
        first_hz: rate that the search for the fastest one begins with.
        repeats: runs that count, of recorder and replay.
        most_hz: rate that the search does not exceed.
        factor: between two rates of that search.
        record_s: seconds of each run of the recorder.
        seek_log_bytes: size of the log that is opened cold.
        probes: times that it is opened.
        recover_log_bytes: size of the log that is cut.
    """

    json_file: FiguresOption = None
    markdown: MarkdownOption = None
    work_dir: Annotated[
        Path | None, typer.Option(help="Disk to measure: needs 2.5 GB for a while. The system's folder for such else.")
    ] = None
    publishers: Annotated[int, typer.Option(help="mosquitto_pub processes that make the load.", min=1, max=64)] = 4
    payload_bytes: Annotated[int, typer.Option(help="Size of each message.", min=20, max=100_000)] = 300
    first_hz: Annotated[
        float,
        typer.Option("--rate", help="Messages a second to begin with; raised until some are lost.", min=10),
    ] = NEEDED_RECORD_HZ
    repeats: Annotated[int, typer.Option(help="Runs of which the median counts.", min=1, max=100)] = 3
    most_hz: float = 100_000
    factor: float = 1.25
    record_s: float = 10.0
    seek_log_bytes: int = 1_100_000_000
    probes: int = 40
    recover_log_bytes: int = 3_000_000


@dataclass(frozen=True, slots=True)
class EdgeBenchOptions:
    """How much is measured.

    Attributes:
        json_file: where every figure is written.
        markdown: where they are written as a page.
        codec: codec folder; None is the bundled one.
        frames: of each timing.
        compared_frames: held-out frames whose answers are compared.
        seconds: that the edge process is watched.
        install: install an edge into an empty environment.
    """

    json_file: FiguresOption = None
    markdown: MarkdownOption = None
    codec: Annotated[Path | None, typer.Option(help="Codec folder; the bundled one unless given.")] = None
    frames: Annotated[int, typer.Option(help="Frames of each timing.", min=2)] = 100
    compared_frames: Annotated[
        int, typer.Option(help="Frames whose answers are compared, five questions each; 0 compares none.", min=0)
    ] = 200
    seconds: Annotated[float, typer.Option(help="How long a real edge process is watched.", min=1)] = 15.0
    install: Annotated[
        bool, typer.Option(help="Install an edge into an empty environment to measure it; takes a minute.")
    ] = True


@dataclass(frozen=True, slots=True)
class WorkerBenchOptions:
    """What is measured of a worker's model.

    Attributes:
        json_file: where every figure is written.
        markdown: where they are written as a page.
        models: directory with a model and its codec; None is the bundled pair.
        threads: of the model, and of all that it is compared with.
        repeats: runs that count.
        precision: arithmetic of the model.
        engine: what runs it.
        url: of the vLLM server.
    """

    json_file: FiguresOption = None
    markdown: MarkdownOption = None
    models: Annotated[
        Path | None, typer.Option(help="Directory of `latentbus codec calibrate`; the bundled pair unless given.")
    ] = None
    threads: Annotated[int, typer.Option(help="Threads of the model.", min=1, max=256)] = 2
    repeats: Annotated[int, typer.Option(help="Runs of which the median counts.", min=1, max=100)] = 3
    precision: Annotated[
        ModelPrecision, typer.Option(help="Arithmetic of the model: auto, fp32, bf16, fp16 or int8.")
    ] = "auto"
    engine: Annotated[
        Literal["in-process", "vllm"], typer.Option(help="What runs the model; a vLLM server has to run already.")
    ] = "in-process"
    url: Annotated[str, typer.Option(help="Address of the vLLM server.")] = "http://127.0.0.1:8000"
