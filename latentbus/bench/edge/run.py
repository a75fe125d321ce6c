"""``latentbus bench edge``: everything that is measured of an edge, one after the other."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentbus.bench.edge.encoders import EncoderTimes, compare_answers, time_encoders
from latentbus.bench.edge.energy import find_counter
from latentbus.bench.edge.install_size import InstallSize, install_size
from latentbus.bench.edge.path import PATHS
from latentbus.bench.edge.process import EdgeRun, run_edge_process
from latentbus.bench.options import EdgeBenchOptions
from pipeline.codec.bundled import bundled_codec_dir, bundled_vlm_dir
from pipeline.codec.spec import Precision
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import sample_scene
from schemas.errors import LatentbusError, LocalError

INSTALL_LIMIT_BYTES: Final = 350_000_000
RSS_LIMIT_BYTES: Final = 250_000_000
NEEDED_AGREEMENT: Final = 0.99
CAMERA_PX: Final = 720
"""Edge of the pictures, as cameras of 720 lines give them."""
FIRST_SEED: Final = 81_000_000
PICTURES: Final = 8
_LARGEST: Final = 8
_PATH_LIMIT_S: Final = 900.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EdgeBench:
    """What was measured; None where it could not be, for a reason in the notes."""

    install: InstallSize | None
    edge: EdgeRun | None
    times: Mapping[Precision, EncoderTimes]
    agreement: float | None
    compared_questions: int | None
    paths: Mapping[str, Mapping[str, Any] | None]
    energy_counter: str
    notes: list[str]

    @property
    def import_torch(self) -> bool | None:
        """Whether an edge has loaded torch."""
        codec = self.paths.get("codec-fp32")
        if self.edge is not None and self.edge.torch is not None:
            return self.edge.torch
        return None if codec is None else bool(codec["torch"])

    def missed(self) -> list[str]:
        """What was measured and is not as it should be."""
        install, edge = self.install, self.edge
        checks = {
            f"install_bytes over {INSTALL_LIMIT_BYTES:,}": install is not None
            and install.install_bytes is not None
            and install.install_bytes > INSTALL_LIMIT_BYTES,
            "torch is installed with an edge": install is not None and install.torch,
            f"rss_peak_bytes over {RSS_LIMIT_BYTES:,}": edge is not None and edge.rss_peak_bytes > RSS_LIMIT_BYTES,
            "the edge process did not end in good order": edge is not None and edge.exit_status != 0,
            f"fp32_int8_answer_agreement below {NEEDED_AGREEMENT}": self.agreement is not None
            and self.agreement < NEEDED_AGREEMENT,
            "an edge imports torch": self.import_torch is True,
        }
        return [what for what, wrong in checks.items() if wrong]

    def as_dict(self) -> dict[str, Any]:
        """Every figure, as plain data."""
        by = {name: asdict(times) for name, times in self.times.items()}
        fp32 = self.times.get("fp32")
        install = self.install
        return {
            "install_bytes": None if install is None else install.install_bytes,
            "install_torch": None if install is None or install.install_bytes is None else install.torch,
            "rss_peak_bytes": None if self.edge is None else self.edge.rss_peak_bytes,
            "encode_ms_p50": {name: times["ms_p50"] for name, times in by.items()},
            "encode_cpu_ms_p50": {name: times["cpu_ms_p50"] for name, times in by.items()},
            "codec_share": None if fp32 is None else fp32.codec_share,
            "codec_share_int8": self.times["int8"].codec_share if "int8" in self.times else None,
            "fp32_int8_answer_agreement": self.agreement,
            "compared_questions": self.compared_questions,
            "import_torch": self.import_torch,
            "energy_counter": self.energy_counter,
            "paths": {name: None if figures is None else dict(figures) for name, figures in self.paths.items()},
            "edge_process": None if self.edge is None else asdict(self.edge),
            "installed": {} if install is None else dict(list(install.by_package.items())[:_LARGEST]),
            "missed": self.missed(),
            "notes": self.notes,
        }


async def bench_edge(options: EdgeBenchOptions, progress: Progress) -> EdgeBench:
    """Measure everything that can be measured here.

    Args:
        options: how much.
        progress: told what is measured now.

    Raises:
        ArtifactError: there is no usable codec.
    """
    folder = options.codec or bundled_codec_dir()
    pictures = await asyncio.to_thread(pictures_of_a_camera)
    progress("both encoders, in turn")
    times, notes = await asyncio.to_thread(time_encoders, folder, pictures, options.frames)
    counter, energy = find_counter()
    if counter is not None:
        counter.close()
    paths: dict[str, Mapping[str, Any] | None] = {}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "pictures.npy"
        await asyncio.to_thread(np.save, file, np.stack(pictures))
        for name in PATHS:
            if name == "codec-int8" and "int8" not in times:
                paths[name] = None
                continue
            progress(f"path {name}")
            paths[name], problem = await _path(name, file, folder, options.frames)
            if problem:
                notes.append(f"path {name}: {problem}")
    edge = None
    progress(f"an edge process, {options.seconds:.0f} s")
    try:
        edge = await run_edge_process(folder, duration_s=options.seconds)
    except LocalError as error:
        notes.append(f"rss_peak_bytes: {error}")
    agreement, questions = None, None
    if options.compared_frames and "int8" in times:
        progress("answers of both encoders")
        agreement, questions, problem = await asyncio.to_thread(_agreement, folder, options.compared_frames)
        if problem:
            notes.append(f"fp32_int8_answer_agreement: {problem}")
    install = None
    if options.install:
        progress("an edge in an empty environment")
        install = await asyncio.to_thread(install_size)
        notes.append(f"install_bytes: {install.how}")
    return EdgeBench(install, edge, times, agreement, questions, paths, energy, notes)


def pictures_of_a_camera(count: int = PICTURES) -> list[NDArray[np.uint8]]:
    """Rendered pictures, uint8 [720, 720, 3]."""
    return [render(sample_scene(FIRST_SEED + number), CAMERA_PX) for number in range(count)]


def _agreement(folder: Path, frames: int) -> tuple[float | None, int | None, str | None]:
    try:
        with tempfile.TemporaryDirectory() as cache:
            parity = compare_answers(folder, bundled_vlm_dir(), Path(cache), frames)
    except ModuleNotFoundError as error:
        return None, None, f"not measured: needs a worker's packages ({error.name}): pip install 'latentbus[cloud]'"
    except LatentbusError as error:
        return None, None, f"not measured: {error}"
    return parity.answers_agreeing, parity.questions, None


async def _path(name: str, pictures: Path, folder: Path, frames: int) -> tuple[Mapping[str, Any] | None, str | None]:
    """Figures of a path that runs in a process of its own, or why there are none."""
    command = (sys.executable, "-m", "latentbus.bench.edge.path", name, str(pictures))
    process = await asyncio.create_subprocess_exec(
        *command,
        *("--frames", str(frames), "--codec", str(folder)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_PATH_LIMIT_S):
            out, err = await process.communicate()
    except TimeoutError:
        return None, f"took more than {_PATH_LIMIT_S:.0f} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        last = (err.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        return None, f"not measured: {last}"
    figures: Mapping[str, Any] = json.loads(out.splitlines()[-1])
    return figures, None
