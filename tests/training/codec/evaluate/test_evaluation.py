"""Evaluation: intervals, crossings, baselines, somebody's own frames, and the whole run on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image

from pipeline.codec.frame_fit import fit_frame
from pipeline.codec.spec import FrameFit
from schemas.errors import ArtifactError, ConfigError
from schemas.types import AnswerType
from tests.cloud.tiny_codec import write_codec, write_vlm
from tests.cloud.tiny_models import IMAGE_SIZE_PX
from training.baselines.stills import ImageSetting, container_bytes, full_grid, through_image_files
from training.baselines.tokens import prune, round_to_bits, token_baselines
from training.codec.data import Asked, AskedFrames
from training.codec.evaluate.frame_sets import own_set
from training.codec.evaluate.frames import QUICK, Evaluation, evaluate_codec
from training.codec.evaluate.intervals import Resamples, bytes_at, interval
from training.codec.evaluate.markdown import as_markdown
from training.codec.evaluate.plots import draw_plots
from training.codec.evaluate.scoreboard import Scoreboard, oracle_rows
from training.codec.own_frames import OwnFrames
from training.run import RunSettings, silent

TINY = replace(QUICK, frames=6, selection=4, prefixes=3, image_settings=2)


def run(cache: Path) -> RunSettings:
    """One thread, without lines."""
    return RunSettings(cache, threads=1, progress=silent)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `vlm` and two codecs."""
    root = tmp_path_factory.mktemp("evaluated")
    write_vlm(root / "vlm")
    write_codec(root / "first", root / "vlm")
    write_codec(root / "klt", root / "vlm")
    return root


def asked(frame: int, truth: str | None = "yes", kind: str = "existence") -> Asked:
    return Asked(frame, "Is there a car?", AnswerType.YES_NO, kind, truth)


def scoreboard(truths: list[list[str | None]], reference: list[str]) -> Scoreboard:
    questions = tuple(asked(frame, truth) for frame, row in enumerate(truths) for truth in row)
    frames = np.zeros((len(truths), 8, 8, 3), dtype=np.uint8)
    return Scoreboard(AskedFrames(frames, questions), np.array(reference))


def test_intervals_are_wider_when_questions_of_a_frame_go_together() -> None:
    resamples = Resamples.draw(100)
    owner = np.repeat(np.arange(100), 4)
    together = np.repeat(np.arange(100) % 2, 4)
    apart = np.tile([0, 1], 200)
    assert resamples.mean_of_questions(together, owner)[0] == resamples.mean_of_questions(apart, owner)[0] == 0.5
    low, high = interval(resamples.mean_of_questions(together, owner)[1:]) or (0, 0)
    # 1.96 standard errors of a fair coin thrown 100 times.
    assert low == pytest.approx(0.402, abs=0.015)
    assert high == pytest.approx(0.598, abs=0.015)
    assert interval(resamples.mean_of_questions(apart, owner)[1:]) == (0.5, 0.5)


def test_an_interval_needs_values() -> None:
    values = np.full(100, np.nan)
    values[:90] = 1.0
    assert interval(values) is None
    values[:98] = 1.0
    assert interval(values) == (1.0, 1.0)


def test_crossings_are_linear_in_the_logarithm_of_the_size() -> None:
    sizes = np.tile([[400.0], [100.0], [200.0]], (1, 4))
    # The point at 200 bytes is worse than that at 100 and must not make the curve fall.
    reached = np.tile([[0.9], [0.5], [0.4]], (1, 4))
    found = bytes_at(sizes, reached, np.array([0.7, 0.5, 0.95, 0.1]))
    assert found[0] == pytest.approx(np.sqrt(200 * 400))
    assert found[[1, 3]] == pytest.approx(100)
    assert np.isnan(found[2])


def test_the_oracle_sends_the_shortest_prefix_that_agrees() -> None:
    scores = scoreboard([["yes", "no"], ["yes"]], ["yes", "no", "yes"])
    texts = np.array([["yes", "yes", "no"], ["no", "no", "no"], ["no", "no", "maybe"]])
    sizes = np.array([[10, 11], [20, 21], [40, 41]])
    rows = oracle_rows(scores, texts, sizes, (1, 2, 4))
    # First question at once, the second at the second rung, the third never: sent whole.
    assert rows["question"].row["payload_bytes"] == round((10 + 20 + 41) / 3, 1)
    assert rows["question"].row["agreement"] == round(2 / 3, 4)
    # No prefix agrees on both questions of the first frame.
    assert rows["frame"].row["payload_bytes"] == (40 + 41) / 2
    # What the whole latent says is first said at: 20, 20, 41 bytes.
    assert rows["question_whole"].row["payload_bytes"] == round((20 + 20 + 41) / 3, 1)
    assert rows["frame_whole"].row["payload_bytes"] == (20 + 41) / 2


def test_ratios_are_one_against_oneself_and_two_against_twice_the_bytes() -> None:
    scores = scoreboard([["yes"], ["yes"], ["no"], ["no"]], ["yes", "yes", "no", "no"])
    full = scores.point(scores.reference, np.full(4, 1000))
    half = scores.point(np.array(["yes", "no", "no", "no"]), np.full(4, 50))
    good = scores.point(scores.reference, np.full(4, 100))
    large = scores.point(scores.reference, np.full(4, 200))
    assert scores.ratio([half, good], [half, good], full)["ratio"] == 1.0
    found = scores.ratio([good], [large], full)
    assert (found["ratio"], found["ci95"]) == (2.0, [2.0, 2.0])
    assert scores.ratio([good], [], full)["ratio"] is None


def test_without_truths_agreement_is_what_counts() -> None:
    scores = scoreboard([[None], [None]], ["a", "b"])
    point = scores.point(np.array(["a", "c"]), np.full(2, 10))
    assert scores.measure == "agreement"
    assert point.row["accuracy"] is None
    assert point.row["agreement"] == 0.5
    assert scores.ratio([point], [point], scores.point(scores.reference, np.full(2, 99)))["ratio"] is None


def test_a_file_costs_more_on_the_wire_than_it_holds() -> None:
    scores = scoreboard([["yes"], ["yes"]], ["yes", "yes"])
    wire = scores.wire_bytes(np.array([100, 20_000]))
    assert wire[0] > 200
    assert 20_000 < wire[1] < 22_000


def test_image_files_come_back_at_their_first_size_whatever_the_threads() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    for setting in (
        ImageSetting("JPEG", 32, 30),
        ImageSetting("WEBP", 64, 0),
        ImageSetting("AVIF", 32, 20, speed=8),
        ImageSetting("JXL", 32, 20),
    ):
        decoded, sizes = through_image_files(frames, setting)
        again, same = through_image_files(frames, setting, threads=3)
        assert decoded.shape == frames.shape
        np.testing.assert_array_equal(decoded, again)
        np.testing.assert_array_equal(sizes, same)
        assert 0 < container_bytes(setting) < sizes.min()


def test_the_grid_reaches_from_32_px_to_the_full_size() -> None:
    assert {setting.size_px for setting in full_grid(256)} == {32, 48, 64, 96, 128, 192, 256}
    assert {setting.size_px for setting in full_grid(32)} == {32}
    assert {setting.format for setting in full_grid(64)} == {"JPEG", "WEBP", "AVIF", "JXL"}
    assert min(setting.quality for setting in full_grid(64) if setting.format == "WEBP") == 0


def test_pruning_keeps_the_tokens_that_stand_out() -> None:
    mean = torch.ones(6, 4)
    tokens = mean.repeat(2, 1, 1)
    tokens[0, 3] += 5
    tokens[1, 5] -= 5
    pruned = prune(tokens, tokens * 10, mean, 1)
    torch.testing.assert_close(pruned[0, 3], tokens[0, 3] * 10)
    torch.testing.assert_close(pruned[1, 5], tokens[1, 5] * 10)
    torch.testing.assert_close(pruned[0, :3], mean[:3])


def test_eight_bits_are_close_and_sizes_are_counted() -> None:
    tokens = torch.randn(3, 64, 8, generator=torch.Generator().manual_seed(0))
    assert (round_to_bits(tokens, 8) - tokens).abs().max() <= tokens.abs().max() / 127
    sizes = {baseline.name: baseline.payload_bytes for baseline in token_baselines(tokens, tokens.mean(0))}
    assert sizes["tokens, 16 bits"].tolist() == [2 * 64 * 8] * 3
    assert sizes["tokens, 8 bits"].tolist() == [64 * 8 + 2] * 3
    assert sizes["16 of 64 tokens, 8 bits"].tolist() == [16 * 8 + 8 + 2] * 3
    assert sizes["16 of 64 tokens, merged, 8 bits"].tolist() == [16 * 8 + 64 * 4 // 8 + 2] * 3
    assert sizes["16 of 64 tokens, 2 x 2 averaged, 8 bits"].tolist() == [16 * 8 + 2] * 3


def write_own(folder: Path, lines: list[str], images: int = 4) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    for number in range(images):
        pixels: NDArray[np.uint8] = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    questions = folder / "questions.jsonl"
    questions.write_text("\n".join(lines), encoding="utf-8")
    return folder, questions


def line(frame: str = "0.png", **changes: object) -> str:
    return json.dumps({"frame": frame, "text": "Is there a car?", "answer_type": "yes_no", **changes})


def test_own_frames_are_split_and_resized(tmp_path: Path) -> None:
    folder, questions = write_own(
        tmp_path, [line(f"{number}.png", truth=" Yes") for number in (3, 0, 1, 2)] + ["", line("3.png", kind="other")]
    )
    found = own_set(OwnFrames(folder, questions), 32, FrameFit())
    assert found.report.frames.shape == (2, 32, 32, 3)
    assert len(found.selection) == 2
    everything = (*found.report.asked, *found.selection.asked)
    assert len(everything) == 5
    assert {item.kind for item in everything} == {"yes_no", "other"}
    assert {item.truth for item in everything} == {"yes", None}
    assert [item.frame for item in found.report.asked] == sorted(item.frame for item in found.report.asked)


@pytest.mark.parametrize("fit", [FrameFit(), FrameFit(filter="lanczos")])
def test_own_frames_are_fitted_as_the_edge_fits_them_and_turned_as_they_are_meant(
    tmp_path: Path, fit: FrameFit
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 160, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "plain.png")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "phone.png", exif=turned)
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(line(name) for name in ("plain.png", "phone.png")))
    (first, second) = OwnFrames(tmp_path, questions).part(0, 2, 32, fit).frames
    expected = [fit_frame(pixels, 32, fit), fit_frame(np.rot90(pixels, -1), 32, fit)]
    assert all(any(np.array_equal(frame, wanted) for frame in (first, second)) for wanted in expected)


def test_parts_of_own_frames_are_disjoint_and_together_all(tmp_path: Path) -> None:
    folder, questions = write_own(tmp_path, [line(f"{number}.png") for number in range(11)], images=11)
    own = OwnFrames(folder, questions)
    sizes = own.sizes([0.15, 0.15, 0.4, 0.3])
    assert sum(sizes) == len(own) == 11
    edges = np.cumsum([0, *sizes]).tolist()
    parts = [own.part(start, stop, 32, FrameFit()) for start, stop in pairwise(edges)]
    seen = [frame.tobytes() for part in parts for frame in part.frames]
    assert len(seen) == len(set(seen)) == 11
    assert [len(part.asked) for part in parts] == sizes
    with pytest.raises(ConfigError, match="need 7 or more"):
        OwnFrames(*write_own(tmp_path / "few", [line()], images=1)).sizes([0.15, 0.15, 0.4, 0.3])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("{", r"questions\.jsonl:2.*JSON"),
        ("[" * 100_000, r"questions\.jsonl:2.*JSON"),
        ("[]", r"questions\.jsonl:2.*object"),
        (line(text=""), r"questions\.jsonl:2.*'text'"),
        (line(text=5), r"questions\.jsonl:2.*'text'"),
        (line(truth=5), r"questions\.jsonl:2.*'truth'"),
        (line(answer_type="colour"), r"questions\.jsonl:2.*yes_no"),
        (line(answer="yes"), r"questions\.jsonl:2.*unknown keys: answer"),
        (line("../1.png"), r"questions\.jsonl:2.*outside"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, broken: str, message: str) -> None:
    folder, questions = write_own(tmp_path, [line("2.png"), broken, line("0.png"), line("3.png")])
    with pytest.raises(ConfigError, match=message):
        own_set(OwnFrames(folder, questions), 32, FrameFit())


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    folder, questions = write_own(tmp_path, [line(f"{number}.png") for number in range(3)] + [line("no.png")])
    with pytest.raises(ArtifactError, match=r"no\.png.*questions\.jsonl:4"):
        own_set(OwnFrames(folder, questions), 32, FrameFit())
    (folder / "no.png").write_text("no image")
    with pytest.raises(ArtifactError, match=r"no\.png"):
        own_set(OwnFrames(folder, questions), 32, FrameFit())
    with pytest.raises(ArtifactError, match="none"):
        OwnFrames(folder, folder / "none")
    questions.write_text(line())
    with pytest.raises(ConfigError, match="need 4 or more"):
        own_set(OwnFrames(folder, questions), 32, FrameFit())


def test_a_run_measures_everything_and_can_be_drawn(made: Path, tmp_path: Path) -> None:
    report = evaluate_codec(Evaluation(made / "vlm", [made / "first", made / "klt"], run(tmp_path / "cache"), TINY))
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again == report
    sizes = [row["payload_bytes"] for row in report["prefixes"]]
    assert sizes == sorted(sizes)
    assert all(row["wire_bytes"] > row["payload_bytes"] + 90 for row in report["prefixes"])
    assert all(0 <= row["agreement_ci95"][0] <= row["agreement"] <= row["agreement_ci95"][1] for row in report["klt"])
    assert report["full"]["agreement"] == 1.0
    assert report["oracle"]["question"]["payload_bytes"] <= sizes[-1]
    assert report["oracle"]["question"]["agreement"] >= report["prefixes"][-1]["agreement"]
    assert {row["family"] for row in report["baselines"]} == {"images", "tokens", "features"}
    assert {row["path"] for row in report["delay"]} == {"at_once", "image", "ladder"}
    for row in report["delay"]:
        assert row["delay_s"]["32"] > row["delay_s"]["1000"] > 0.1 * row["rounds"]
    assert sum(row["answers"] for row in report["predicted_quality"]) == len(sizes) * report["questions"]
    errors = [row["predicted_error"] for row in report["predicted_quality"]]
    assert errors == sorted(errors)
    table = as_markdown(report)
    assert all(str(row["setting"]) in table for row in report["baselines"])
    for path in draw_plots(report, tmp_path / "plots"):
        with Image.open(path) as image:
            assert image.width > 600
        assert path.stat().st_size < 200_000


def test_own_frames_without_truths_are_evaluated(made: Path, tmp_path: Path) -> None:
    own = OwnFrames(*write_own(tmp_path / "own", [line(f"{number}.png") for number in range(4)]))
    wanted = Evaluation(made / "vlm", [made / "first"], run(tmp_path / "cache"), TINY, own=own)
    report = evaluate_codec(wanted)
    assert report["frames"] == 2
    assert report["full"]["accuracy"] is None
    assert report["ratios_measured_at"] == "95% of the full agreement"
    assert report["klt"] == []
    as_markdown(report)
    names = {path.name for path in draw_plots(report, tmp_path / "plots")}
    assert names == {"rate-agreement.png", "delay.png", "predicted-quality.png"}


def test_another_model_and_mixed_points_are_refused(made: Path, tmp_path: Path) -> None:
    other = write_vlm(tmp_path / "vlm", seed=1)
    with pytest.raises(ArtifactError, match="was made for tiny"):
        evaluate_codec(Evaluation(other, [made / "klt"], run(tmp_path), TINY))
    write_codec(made / "larger", made / "vlm", image_size_px=2 * IMAGE_SIZE_PX)
    with pytest.raises(ConfigError, match="operating points"):
        evaluate_codec(Evaluation(made / "vlm", [made / "klt", made / "larger"], run(tmp_path), TINY))
