"""Calibration of the change gate: what is lost on clips, limits that keep their promise, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from latentbus.cli import app
from pipeline.codec.gate_file import GateDistance, find_gate_file
from pipeline.codec.spec import load_codec_spec
from schemas.types import AnswerType
from tests.cloud.tiny_codec import write_codec, write_vlm
from training.codec.gate import clips as clips_module
from training.codec.gate.calibrate import GateCalibration, calibrate_gate, compared_of, still_distances
from training.codec.gate.clips import Clip, ClipBench, ClipPlan, event_times_s
from training.codec.gate.losses import GateLosses, largest_limit, limits_to_test, losses_of, noise_of
from training.codec.stop.learn_then_test import Promise, betting_p_value
from training.codec.vlm import open_vlm
from training.run import RunSettings

YES_NO, COUNT = AnswerType.YES_NO, AnswerType.COUNT
ONE = GateDistance(np.zeros(1, np.int32), np.ones(1, np.int32), np.ones(1, np.float32), 1)
"""A frame is one number, and two are as far apart as the square of their difference."""


def clip_of(levels: list[int], answers: list[str], event: list[int] | None = None) -> Clip:
    """Frames of one number each, with one yes-or-no question."""
    count = len(levels)
    return Clip(
        np.array(levels, np.int16).reshape(count, 1, 1),
        np.array(answers).reshape(count, 1),
        (YES_NO,),
        np.isin(np.arange(count), event or []),
    )


def test_what_is_held_and_differs_is_lost_and_what_is_asked_is_not() -> None:
    clip = clip_of([0, 0, 3], ["no", "no", "yes"])
    found = losses_of([clip], ONE, np.array([1.0, 9.0]))[YES_NO]
    # From the first frame on: two frames; from the second on: one. The last one differs by 9.
    np.testing.assert_allclose(found.held[:, 0], [1 / 3, 1.0])
    np.testing.assert_allclose(found.differing[:, 0], [0.0, 2 / 3])


def test_a_frame_that_is_asked_is_the_one_that_later_frames_are_compared_with() -> None:
    clip = clip_of([0, 5, 5, 5], ["no", "yes", "yes", "yes"], event=[1, 2, 3])
    found = losses_of([clip], ONE, np.array([1.0]))[YES_NO]
    assert found.differing[0, 0] == 0.0
    np.testing.assert_allclose(found.held[0, 0], 5 / 6)


def test_what_noise_changes_is_not_the_gates_loss() -> None:
    flickering = clip_of([0] * 400, list(np.random.default_rng(0).choice(["no", "yes"], 400)))
    found = losses_of([flickering], ONE, np.array([1.0]))[YES_NO]
    assert 0.4 < found.differing[0, 0] < 0.6
    assert abs(found.losses[0, 0]) < 0.05
    np.testing.assert_allclose(noise_of(flickering), 0.5, atol=0.1)


def test_changes_in_events_are_no_noise() -> None:
    clip = clip_of([0, 0, 0, 0], ["no", "no", "yes", "no"], event=[2])
    assert noise_of(clip) == [0.0]
    assert losses_of([clip], ONE, np.array([1.0]))[YES_NO].losses[0, 0] > 0
    assert noise_of(clip_of([0, 0], ["no", "yes"], event=[1])) == [0.0], "one still frame has no neighbour"


def test_a_clip_without_a_question_of_a_type_loses_nothing_of_it() -> None:
    other = Clip(np.zeros((2, 1, 1), np.int16), np.array([["1"], ["2"]]), (COUNT,), np.zeros(2, np.bool_))
    found = losses_of([clip_of([0, 0], ["no", "no"]), other], ONE, np.array([1.0]))
    assert found[YES_NO].losses.tolist() == [[0.0, 0.0]]
    assert found[COUNT].losses.shape == (1, 2)


def simulated(clips: int, seed: int, slope: float = 0.002) -> GateLosses:
    """Losses that rise with the limit: at limit n a share of ``slope * n`` on average, mostly noise of either sign."""
    rng = np.random.default_rng(seed)
    limits = np.arange(1.0, 31.0)
    noise = rng.normal(0, 0.05, clips)
    rows = np.stack([np.clip(noise + (rng.random(clips) < slope * limit), -1, 1) for limit in limits])
    return GateLosses(limits, rows, rows, np.ones_like(rows), np.ones_like(rows))


@pytest.mark.parametrize("risk", [0.02, 0.05])
def test_limits_keep_their_promise_on_new_clips(risk: float) -> None:
    level, broken, found = 0.1, 0, 0
    for seed in range(60):
        accepted = largest_limit(simulated(600, seed), risk, level)
        if accepted is not None:
            found += 1
            broken += 0.002 * accepted[0] > risk
    assert broken <= 60 * (level + 0.08)
    assert found > 30, "a gate that never opens keeps any promise"


def test_too_few_clips_prove_nothing() -> None:
    assert largest_limit(simulated(40, 0, slope=0.0), 0.015, 0.05 / 3) is None


def test_gains_make_no_risk_look_smaller_than_it_is() -> None:
    rng = np.random.default_rng(1)
    losses = np.minimum(rng.normal(0, 0.1, (300, 500)) + (rng.random((300, 500)) < 0.06), 1)
    fooled = np.mean([betting_p_value(row, 0.05, 0.1) <= 0.1 for row in losses])
    assert fooled <= 0.12


def test_limits_are_tested_from_well_below_what_still_scenes_do() -> None:
    limits = limits_to_test([8.0, 12.0, 10.0])
    assert list(limits) == sorted(limits)
    assert limits[0] < 5.0 < 40.0 < limits[-1]


@pytest.mark.parametrize("seed", range(20))
def test_events_of_clips_lie_between_frames_and_apart_from_one_another(seed: int) -> None:
    times = event_times_s(np.random.default_rng(seed), 16, 5.0)
    assert times
    edges = [edge for event in times for edge in event]
    assert edges == sorted(edges)
    assert all(not float(edge / 5.0).is_integer() for edge in edges)
    assert edges[0] > 5.0, "the first frames are still"


@pytest.fixture
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(clips_module, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny VLM and a codec for it."""
    folder = tmp_path_factory.mktemp("gate")
    vlm = write_vlm(folder / "vlm")
    return vlm, write_codec(folder / "codec", vlm)


@pytest.mark.usefixtures("in_one_process")
def test_calibration_writes_a_gate_that_an_edge_can_read_and_says_what_is_closed(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    vlm, codec = made
    lines: list[str] = []
    run = RunSettings(tmp_path, threads=1, progress=lines.append)
    wanted = GateCalibration(Promise(0.6, 0.5, by_type=True), clips=6, frames=4, still_clips=2)
    report = calibrate_gate(vlm, codec, run, wanted)
    gate = find_gate_file(codec, load_codec_spec(codec))
    assert gate is not None
    assert gate.risk == 0.6
    assert {str(kind) for kind in gate.closed} == set(report["closed"])
    assert {str(kind) for limits in gate.limits if limits.risk == 0.6 for kind in limits.by_type} == set(
        report["limits"]
    )
    assert set(report["limits"]) | set(report["closed"]) == {"yes_no", "count", "word"}
    assert gate.calibrated_on["clips"] == 6
    strict = calibrate_gate(vlm, codec, run, GateCalibration(clips=6, frames=4, still_clips=2))
    assert strict["limits"] == {}
    assert strict["closed"]["word"] == "a risk of 0.015 needs 271 clips at least, here are 6"
    gate = find_gate_file(codec, load_codec_spec(codec))
    assert gate is not None
    assert gate.limit(AnswerType.WORD, 0.015) is None


@pytest.mark.usefixtures("in_one_process")
def test_clips_are_measured_once_and_are_the_same_again(made: tuple[Path, Path], tmp_path: Path) -> None:
    vlm_dir, codec = made
    spec = load_codec_spec(codec)
    vlm, frozen = open_vlm(vlm_dir, "tiny", tiles_per_edge=spec.tiles_per_edge, frame_size_px=spec.tile_px)

    def measured(cache: Path, count: int) -> list[Clip]:
        bench = ClipBench(vlm, frozen, codec, spec, RunSettings(cache, threads=1, progress=lambda _: None))
        return list(bench.measure(ClipPlan("calibration", count, 5)))

    first, again, more = measured(tmp_path / "a", 2), measured(tmp_path / "b", 2), measured(tmp_path / "a", 3)
    for one, other in ((first, again), (first, more)):
        for before, now in zip(one, other, strict=False):
            np.testing.assert_array_equal(before.symbols, now.symbols)
            np.testing.assert_array_equal(before.texts, now.texts)
    bench = ClipBench(vlm, frozen, codec, spec, RunSettings(tmp_path / "a", threads=1, progress=lambda _: None))
    still = list(bench.measure(ClipPlan("still", 2, 5), asks=False))
    assert not any(clip.event.any() for clip in still)
    compared = compared_of(bench.transform, still)
    assert len(compared.unit) == spec.latent_count * spec.latent_dim
    assert all(np.isfinite(still_distances(still, compared)))


def test_the_command_wants_a_codec_that_may_be_written() -> None:
    done = CliRunner().invoke(app, ["codec", "calibrate-gate"])
    assert done.exit_code != 0
    assert "--codec" in str(done.exception)
