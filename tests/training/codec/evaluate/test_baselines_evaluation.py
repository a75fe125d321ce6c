"""Fixed cameras evaluated end to end on a tiny model: a video file, rendered clips, and what a report may claim."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from latentbus.cli import app
from pipeline.codec.spec import FrameFit
from schemas.errors import ArtifactError, ConfigError, SourceError
from schemas.types import AnswerType
from tests.cloud.tiny_codec import encode, random_symbols, write_codec, write_vlm
from tests.cloud.tiny_models import FAMILIES
from training.codec.data import Asked, AskedFrames
from training.codec.evaluate.intervals import Resamples
from training.codec.evaluate.markdown import video_as_markdown
from training.codec.evaluate.scoreboard import Scoreboard
from training.codec.evaluate.sequences import SURVEILLANCE_QUESTIONS, rendered_clips, video_sequence
from training.codec.evaluate.video import VIDEO_QUICK, VideoEvaluation, evaluate_video
from training.codec.key_frames import coded_by_policy
from training.codec.own_frames import read_standing_questions
from training.run import RunSettings, silent

TINY = replace(VIDEO_QUICK, frames=6, clips=2, clip_frames=4, known=4, selection=4, prefixes=2, settings=2, losses=1)
QUESTIONS = (
    Asked(0, "Is there a car?", AnswerType.YES_NO, "car", None, "video"),
    Asked(0, "How many people are there?", AnswerType.COUNT, "people", None, "video"),
)


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
    """A folder with `vlm`, two codecs and `yard.mp4`: 25 frames, 10 a second."""
    root = tmp_path_factory.mktemp("fixed")
    write_vlm(root / "vlm")
    write_codec(root / "first", root / "vlm")
    write_codec(root / "klt", root / "vlm")
    noise = np.random.default_rng(0)
    with av.open(str(root / "yard.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(25):
            picture = np.full((64, 96, 3), 10 * number, dtype=np.uint8)
            picture[20:40, 3 * number : 3 * number + 16] = noise.integers(0, 256, (20, 16, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return root


@pytest.fixture(scope="module")
def video_report(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    wanted = VideoEvaluation(
        made / "vlm",
        [made / "first", made / "klt"],
        run(tmp_path_factory.mktemp("cache")),
        TINY,
        made / "yard.mp4",
        QUESTIONS,
        every_s=0.3,
    )
    return evaluate_video(wanted)


def test_frames_of_a_video_are_taken_at_their_times(made: Path) -> None:
    found = video_sequence(made / "yard.mp4", 32, FrameFit(), QUESTIONS, every_s=0.5)
    assert found.data.frames.shape == (5, 32, 32, 3)
    # Frame n is 10 n bright: 0.0, 0.5, 1.0, 1.5 and 2.0 seconds.
    assert np.abs(found.data.frames[:, 0, 0, 0].astype(int) - [0, 50, 100, 150, 200]).max() < 12
    assert [(item.frame, item.text) for item in found.data.asked[2:4]] == [(1, item.text) for item in QUESTIONS]
    assert len(found.source["sha256"]) == 64
    assert len(video_sequence(made / "yard.mp4", 32, FrameFit(), every_s=0.1, frames=7).data) == 7
    with pytest.raises(ConfigError, match="gives 3 frames, one every 1 s; 4 or more"):
        video_sequence(made / "yard.mp4", 32, FrameFit())
    (made / "no.mp4").write_text("no video")
    with pytest.raises(SourceError, match=r"no\.mp4"):
        video_sequence(made / "no.mp4", 32, FrameFit())


def test_each_question_of_a_video_is_a_kind_of_its_own() -> None:
    assert len({item.kind for item in SURVEILLANCE_QUESTIONS}) == len(SURVEILLANCE_QUESTIONS)


def test_clips_are_cameras_that_stand_still_and_know_the_truth() -> None:
    found = rendered_clips(2, 16, 48)
    assert found.bounds == [(0, 16), (16, 32)]
    assert found.data.frames.shape == (32, 48, 48, 3)
    assert all(item.truth for item in found.data.asked)
    frames = found.data.frames.astype(float)
    # Of most pixels only the noise is new: objects come and go before a place that stays.
    within, between = np.median(np.abs(frames[0] - frames[15])), np.median(np.abs(frames[15] - frames[16]))
    assert 0 < within < between / 2
    # Answers change, or else the first frame would do.
    for first, last in found.bounds:
        truths = {(item.text, item.truth) for item in found.data.asked if first <= item.frame < last}
        assert len(truths) > len({text for text, _ in truths})
    again = rendered_clips(2, 16, 48)
    np.testing.assert_array_equal(again.data.frames, found.data.frames)


def test_a_spread_of_frames_keeps_its_questions() -> None:
    found = rendered_clips(2, 4, 48)
    part = found.spread(3)
    assert len(part) == 3
    np.testing.assert_array_equal(part.frames[-1], found.data.frames[-1])
    texts = [item.text for item in part.asked if item.frame == 2]
    assert texts == [item.text for item in found.data.asked if item.frame == 7]


def test_a_camera_that_stands_still_is_coded_given_key_frames(made: Path) -> None:
    moving = [encode(symbols, made / "first") for symbols in random_symbols(6, seed=3)]
    still = [encode(random_symbols(1, seed=3)[0], made / "first")] * 40
    assert not any(frame.key_bytes for frame in coded_by_policy(moving))
    coded = coded_by_policy(still)
    keys = [number for number, frame in enumerate(coded) if frame.key_bytes]
    assert len(keys) == 1
    whole = still[0].latent_count
    assert coded[keys[0]].key_bytes == still[0].size_bytes(whole)
    assert coded[0].sent is coded[0].latent
    assert coded[-1].sent.size_bytes(whole) < still[0].size_bytes(whole) / 2


def test_everything_is_measured_beside_what_sends_nothing(video_report: dict[str, object]) -> None:
    report = json.loads(json.dumps(video_report, allow_nan=False))
    assert report == video_report
    assert (report["frames"], report["questions"]) == (6, 12)
    assert report["full"]["agreement"] == report["full"]["balanced_agreement"] == 1.0
    families = {row["family"] for row in report["baselines"]}
    assert families == {"images", "video", "tokens", "features", "feature_video"}
    for row in (*report["baselines"], *report["prefixes"], *report["others"]["klt"]):
        assert 0 <= row["balanced_agreement_ci95"][0] <= row["balanced_agreement_ci95"][1] <= 1
        assert row["wire_bytes"] > row["payload_bytes"] > 0
        assert row["bits_per_value"] == pytest.approx(8 * row["payload_bytes"] / 512, abs=1e-3)
    for name in ("empty_prefix", "constant_answer", "first_answer"):
        assert report[name]["payload_bytes"] == report[name]["wire_bytes"] == 0
        assert 0 <= report[name]["balanced_agreement"] <= 1
    assert {row["baseline"] for row in report["ratios"]} == {"image", "video", "features", "klt"}
    for row in report["ratios"]:
        assert (row["not_claimed"] is None) or row["ratio"] is None
    assert {row["key_interval"] for row in report["packet_loss"]} == {30}
    assert all(row["late_receiver_waits_s"] > 0 for row in report["packet_loss"])
    table = video_as_markdown(report)
    assert all(str(row["setting"]) in table for row in (*report["baselines"], *report["packet_loss"]))
    assert "nothing sent: the empty prefix" in table


def test_clips_are_evaluated_with_truths_and_on_each_camera_by_itself(made: Path, tmp_path: Path) -> None:
    report = evaluate_video(VideoEvaluation(made / "vlm", [made / "first"], run(tmp_path), TINY))
    assert report["frames"] == 8
    assert report["full"]["accuracy"] is not None
    assert report["others"] == {}
    assert {row["measure"] for row in report["ratios"]} == {"accuracy", "agreement", "balanced_agreement"}


@pytest.mark.parametrize("family", ["fastvlm", "llava"])
def test_a_model_of_another_family_is_evaluated(made: Path, tmp_path: Path, family: str) -> None:
    model, processor = FAMILIES[family]()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "vlm")
    size_px = int(model.config.vision_config.image_size)
    write_codec(tmp_path / "codec", tmp_path / "vlm", image_size_px=size_px)
    wanted = VideoEvaluation(
        tmp_path / "vlm",
        [tmp_path / "codec"],
        run(tmp_path / "cache"),
        TINY,
        made / "yard.mp4",
        QUESTIONS,
        every_s=0.3,
    )
    report = evaluate_video(wanted)
    assert report["frame_px"] == size_px
    assert {row["family"] for row in report["baselines"]} >= {"images", "video", "features"}


def test_no_ratio_is_claimed_where_nothing_does_nearly_as_well() -> None:
    asked = [Asked(frame, "Is there a car?", AnswerType.YES_NO, "car", None) for frame in range(100)]
    reference = np.array(["no"] * 80 + ["yes"] * 20)
    scoreboard = Scoreboard(AskedFrames(np.zeros((100, 8, 8, 3), dtype=np.uint8), tuple(asked)), reference)
    full = scoreboard.point(reference, np.full(100, 1000))
    ours, theirs = scoreboard.point(reference, np.full(100, 50)), scoreboard.point(reference, np.full(100, 200))
    trivial = scoreboard.trivial(np.array(["no"] * 100))
    assert trivial["constant_answer"].row["agreement"] == 0.8
    assert trivial["constant_answer"].row["balanced_agreement"] == 0.5
    nothing = list(trivial.values())
    claimed = scoreboard.ratio([ours], [theirs], full, trivial=nothing, measure="agreement")
    assert (claimed["ratio"], claimed["not_claimed"]) == (4.0, None)
    nearer = scoreboard.ratio([ours], [theirs], full, trivial=nothing, measure="agreement", share=0.9)
    assert nearer["ratio"] is None
    assert nearer["ci95"] is None
    assert nearer["not_claimed"] == "sending nothing reaches 80.0%, within 10 points of 90.0%"
    assert nearer["baseline_payload_bytes"] == 200
    balanced = scoreboard.ratio([ours], [theirs], full, trivial=nothing, measure="balanced_agreement", share=0.9)
    assert balanced["ratio"] == 4.0
    wire = scoreboard.ratio([ours], [theirs], full, trivial=nothing, size="wire_bytes")
    assert wire["baseline_wire_bytes"] - wire["wire_bytes"] == pytest.approx(150, abs=2)


def test_frames_that_follow_one_another_are_drawn_together() -> None:
    weights = Resamples.draw(10, block=4).weights
    assert weights.shape[1] == 10
    for first, last in ((0, 4), (4, 8), (8, 10)):
        assert (weights[:, first:last] == weights[:, first : first + 1]).all()
    assert not (weights[:, 0] == weights[:, 4]).all()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"frame": "a.png", "text": "Is it?", "answer_type": "yes_no"}', "unknown keys: frame"),
        ('{"text": "Is it?"}', "'answer_type' must be a text"),
        ("[]", r'not an object such as \{"text"'),
        ("", "holds no question"),
    ],
)
def test_questions_of_a_video_name_no_frame(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"text": "Is it dark?", "answer_type": "yes_no"}\n')
    (found,) = read_standing_questions(path)
    assert (found.kind, found.domain) == ("Is it dark?", "video")
    path.write_text(line)
    with pytest.raises(ConfigError, match=problem):
        read_standing_questions(path)


def test_the_command_reads_a_video_and_its_questions(made: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"text": "Is it dark?", "answer_type": "yes_no"}\n')
    done = CliRunner().invoke(
        app,
        [
            *("codec", "eval", "--quick", "--video", str(made / "yard.mp4"), "--questions", str(questions)),
            *("--vlm", str(made / "vlm"), "--codec", str(made / "first"), "--every", "0.5", "--count", "4"),
            *("--cache", str(tmp_path), "--threads", "1"),
            *("--json", str(tmp_path / "video.json"), "--markdown", str(tmp_path / "video.md")),
        ],
    )
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "video.json").read_text(encoding="utf-8"))
    assert (report["sequences"], report["frames"], report["questions"]) == ("yard.mp4", 4, 4)
    assert report["source"]["questions"] == ["Is it dark?"]
    assert "yard.mp4" in (tmp_path / "video.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--video", "none.avi"], "no such file: none.avi; .*codec fetch-video"),
        (["--clips", "--questions", __file__], "--clips: come with their own"),
        (["--clips", "--photos", __file__], "--photos: is for frames that do not follow"),
        (["--clips", "--plots", "plots"], "--plots: is for frames"),
    ],
)
def test_options_that_do_not_go_together_are_named(options: list[str], problem: str) -> None:
    done = CliRunner().invoke(app, ["codec", "eval", *options])
    assert isinstance(done.exception, ConfigError)
    with pytest.raises(ConfigError, match=problem):
        raise done.exception


def test_the_command_that_fetches_prints_where_the_video_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vtest.avi").write_bytes(b"kept")
    done = CliRunner().invoke(app, ["codec", "fetch-video", "--cache", str(tmp_path)])
    assert done.output.strip() == str(tmp_path / "vtest.avi")
    monkeypatch.setenv("PATH", str(tmp_path))
    failed = CliRunner().invoke(app, ["codec", "fetch-video", "--cache", str(tmp_path / "empty")])
    assert isinstance(failed.exception, ArtifactError)
