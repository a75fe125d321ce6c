"""``latentbus bench edge``: counters of energy, sizes, paths, and what is said where something is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from latentbus.bench.edge import energy, run
from latentbus.bench.edge.encoders import EncoderTimes, time_encoders
from latentbus.bench.edge.energy import RaplCounter, SensorCounter, find_counter
from latentbus.bench.edge.install_size import InstallSize, sizes
from latentbus.bench.edge.path import PathFigures, measure, path_of
from latentbus.bench.edge.process import EdgeRun, has_mapped
from latentbus.bench.edge.run import EdgeBench
from latentbus.cli import app
from tests.edge.support import grey, write_codec


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")
    return path


def rapl(root: Path, number: int, name: str, uj: int, limit_uj: int = 1_000_000) -> Path:
    zone = root / f"sys/class/powercap/intel-rapl:{number}"
    write(zone / "name", name)
    write(zone / "max_energy_range_uj", limit_uj)
    return write(zone / "energy_uj", uj)


def test_a_machine_without_a_counter_says_so(tmp_path: Path) -> None:
    assert find_counter(tmp_path) == (
        None,
        "this machine has no counter: neither RAPL nor a current sensor of hwmon",
    )
    write(tmp_path / "sys/class/hwmon/hwmon0/name", "coretemp")
    write(tmp_path / "sys/class/hwmon/hwmon0/power1_input", 5)
    assert find_counter(tmp_path)[0] is None, "another chip's"


def test_rapl_counts_the_packages_over_their_limits(tmp_path: Path) -> None:
    first = rapl(tmp_path, 0, "package-0", 900_000)
    second = rapl(tmp_path, 1, "package-1", 10_000)
    rapl(tmp_path, 2, "psys", 77)
    counter, name = find_counter(tmp_path)
    assert isinstance(counter, RaplCounter)
    assert name == counter.name
    assert counter.joules() == 0
    write(first, 950_000)
    assert counter.joules() == pytest.approx(0.05)
    write(first, 20_000)  # it began again at 1,000,000
    write(second, 40_000)
    assert counter.joules() == pytest.approx(0.05 + 0.07 + 0.03)
    counter.close()


def test_a_counter_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    rapl(tmp_path, 0, "package-0", 1)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    counter, problem = find_counter(tmp_path)
    assert counter is None
    assert "run as root" in problem


@pytest.mark.parametrize(
    ("name", "files", "watts"),
    [
        ("ina226", {"power1_input": 2_500_000}, 2.5),
        ("ina3221", {"in1_input": 5_000, "curr1_input": 400, "in2_input": 3_000, "curr2_input": 100}, 2.3),
    ],
)
def test_a_sensor_is_read_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, int], watts: float
) -> None:
    monkeypatch.setattr(energy, "_SAMPLE_S", 3600.0)
    chip = tmp_path / "sys/class/hwmon/hwmon3"
    write(chip / "name", name)
    for file, value in files.items():
        write(chip / file, value)
    rapl(tmp_path, 0, "package-0", 1)
    counter, _ = find_counter(tmp_path)
    assert isinstance(counter, SensorCounter), "it sees the whole board, RAPL the processor alone"
    counter.close()
    time_s = [100.0]
    readings = [watts, watts, 3 * watts]
    counter = SensorCounter([lambda: readings.pop(0)], clock=lambda: time_s[0])
    time_s[0] = 110.0
    assert counter.joules() == pytest.approx(10 * watts)
    time_s[0] = 112.0
    assert counter.joules() == pytest.approx(10 * watts + 2 * 2 * watts), "the mean of both readings"
    counter.close()


class Steady:
    """A counter of a machine that takes 2 J each time it is looked at."""

    name = "steady"

    def __init__(self) -> None:
        self.count = 0.0

    def joules(self) -> float:
        self.count += 2.0
        return self.count

    def close(self) -> None:
        pass


def test_a_path_is_measured_by_its_frames() -> None:
    shown: list[int] = []

    def work(picture: NDArray[np.uint8]) -> int:
        shown.append(int(picture[0, 0, 0]))
        return 10 * len(shown)

    figures = measure(work, [grey(1), grey(2)], 4, Steady(), idle_s=0.0)
    assert shown == [1, 1, 2, 1, 2], "one more warms up"
    assert figures.bytes_per_frame == (20 + 30 + 40 + 50) / 4
    assert figures.joules == 0.5
    assert figures.joules_above_idle is not None
    assert figures.joules_above_idle < figures.joules
    assert measure(work, [grey(1)], 2, None).joules is None


def test_the_codec_path_sends_the_whole_latent_and_the_upload_a_jpeg(codec_dir: Path) -> None:
    assert 0 < path_of("codec-fp32", codec_dir)(grey(96)) < 100
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert path_of("jpeg", codec_dir)(noise) > path_of("jpeg", codec_dir)(grey(96, 64, 64)) > 100


@pytest.fixture
def codec_dir(tmp_path: Path) -> Path:
    return write_codec(tmp_path / "codec", tokens=True)


def test_a_path_runs_in_a_process_of_its_own_without_torch(codec_dir: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "pictures.npy", np.stack([grey(9), grey(99)]))
    command = [sys.executable, "-m", "latentbus.bench.edge.path", "codec-fp32", str(tmp_path / "pictures.npy")]
    done = subprocess.run(
        [*command, "--frames", "3", "--codec", str(codec_dir)], check=True, capture_output=True, text=True
    )
    figures = PathFigures(**json.loads(done.stdout))
    assert figures.torch is False
    assert 10_000_000 < figures.rss_peak_bytes < 250_000_000
    assert figures.bytes_per_frame > 0


def test_encoders_are_timed_in_turn_and_a_missing_one_is_named(codec_dir: Path, tmp_path: Path) -> None:
    times, notes = time_encoders(codec_dir, [grey(9)], 3)
    assert list(times) == ["fp32"]
    assert times["fp32"].codec_share is not None
    assert 0 <= times["fp32"].codec_share <= 1
    assert notes == ["no encoder in 8-bit integers: latentbus codec export --codec codec --int8"]
    times, notes = time_encoders(write_codec(tmp_path / "old"), [grey(9)], 2)
    assert times["fp32"].codec_share is None
    assert any("shows no visual tokens" in note for note in notes)


def test_sizes_are_those_of_installed_files() -> None:
    found = sizes()
    assert found["onnxruntime"] > 30_000_000
    assert 10_000 < found["structlog"] < 10_000_000


def test_a_library_is_found_in_a_process() -> None:
    import os

    assert has_mapped(os.getpid(), "libc") in (True, None)
    assert has_mapped(os.getpid(), "no such library") in (False, None)
    assert has_mapped(2**22 + 1, "libc") is None


GOOD = EdgeBench(
    install=InstallSize(349_000_000, {"av": 100}, False, "here"),
    edge=EdgeRun(0, 249_000_000, 200_000_000, 0.1, 9.0, 60, 180, 99.0, torch=False),
    times={"fp32": EncoderTimes(9.0, 8.5, 0.05), "int8": EncoderTimes(7.0, 6.5, 0.06)},
    agreement=0.99,
    compared_questions=1000,
    paths={"codec-fp32": {"torch": False}, "vlm": None},
    energy_counter="none",
    notes=[],
)


def test_a_report_has_the_keys_that_are_promised_and_says_what_is_missed() -> None:
    report = GOOD.as_dict()
    assert report["install_bytes"] == 349_000_000
    assert report["rss_peak_bytes"] == 249_000_000
    assert report["encode_ms_p50"] == {"fp32": 9.0, "int8": 7.0}
    assert report["codec_share"] == 0.05
    assert report["fp32_int8_answer_agreement"] == 0.99
    assert report["import_torch"] is False
    assert report["missed"] == []
    assert GOOD.install is not None
    assert GOOD.edge is not None
    for change, missed in (
        ({"install": replace(GOOD.install, install_bytes=350_000_001)}, "install_bytes over"),
        ({"install": replace(GOOD.install, torch=True)}, "torch is installed"),
        ({"edge": replace(GOOD.edge, rss_peak_bytes=250_000_001)}, "rss_peak_bytes over"),
        ({"edge": replace(GOOD.edge, exit_status=3)}, "did not end in good order"),
        ({"edge": replace(GOOD.edge, torch=True)}, "imports torch"),
        ({"agreement": 0.98}, "fp32_int8_answer_agreement below"),
    ):
        found = replace(GOOD, **change).missed()
        assert len(found) == 1
        assert missed in found[0]


def test_what_could_not_be_measured_is_not_missed() -> None:
    empty = EdgeBench(None, None, {}, None, None, {}, "none", ["no broker"])
    assert empty.missed() == []
    report = empty.as_dict()
    assert report["install_bytes"] is report["rss_peak_bytes"] is report["import_torch"] is None


def test_the_command_writes_its_figures_and_ends_with_their_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measured(options: object, progress: object) -> EdgeBench:
        return replace(GOOD, agreement=0.5)

    monkeypatch.setattr(run, "bench_edge", measured)
    out = tmp_path / "edge.json"
    done = CliRunner().invoke(app, ["bench", "edge", "--json", str(out)])
    assert done.exit_code == 1
    assert json.loads(out.read_text())["missed"] == ["fp32_int8_answer_agreement below 0.99"]
    shown = CliRunner().invoke(app, ["bench", "edge", "--help"]).output
    assert "Examples" in shown
    assert "Exit status" in shown
