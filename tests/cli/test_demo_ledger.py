"""The demo's own arithmetic: ledger, truth, figures, the search for a baseline."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Literal
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from latentbus.demo import image_search
from latentbus.demo.cameras import DemoCamera, edge_settings, guess_answer_type, prepare_cameras
from latentbus.demo.evaluation import accuracy_of_run
from latentbus.demo.headline import FIRST_ANSWERS, Headline
from latentbus.demo.image_search import STRIDE, ImageSearch, Score
from latentbus.demo.ledger import DemoLedger
from latentbus.demo.options import DemoOptions
from latentbus.demo.picture import write_picture
from latentbus.demo.scoring import same_answer
from latentbus.demo.summary import Rows, Summary
from latentbus.demo.view import Heading, final_table, live_table, progress_line
from latentbus.fleet.frame_log import FrameLogReader
from schemas.errors import ConfigError
from schemas.identity import standing_query_id
from schemas.messages import Answer, QueryOutcome
from schemas.types import AnswerType, FrameId, Outcome
from training.baselines.stills import ImageSetting, default_settings, through_image_files

FRAME = FrameId(1, 1)


def answer(
    question_id: str, text: str, outcome: Outcome | None, *, latents: int = 3, looks: int = 1, worker: str = "w1"
) -> Answer:
    return Answer(
        query_id=standing_query_id("gate", FRAME, question_id),
        owner="site/north",
        camera="gate",
        frame=FRAME,
        attempt=1,
        question_id=question_id,
        worker=worker,
        outcome=outcome,  # type: ignore[arg-type]
        text=text,
        score=0.9,
        latents=latents,
        payload_bytes=10,
        looks=looks,
    )


def opened(ledger: DemoLedger, *question_ids: str, index: int = 0) -> None:
    queries = [standing_query_id("gate", FRAME, question_id) for question_id in question_ids]
    ledger.frame_opened("gate", FRAME, index=index, captured_s=100.0, query_ids=queries)


def test_times_count_from_the_capture_and_the_first_answer_may_be_provisional() -> None:
    ledger = DemoLedger()
    # The answer overtakes the frame log, which is written with a delay.
    ledger.observe(answer("q1", "no", None), 100.2)
    opened(ledger, "q1")
    ledger.observe(answer("q1", "yes", None, latents=5, looks=2), 100.4)
    entry = ledger.observe(answer("q1", "yes", Outcome.ANSWERED, latents=8, looks=3), 100.5)
    assert entry is not None
    assert (entry.provisional_text, entry.text, entry.latents) == ("yes", "yes", 8)
    figures = ledger.figures()
    assert figures.first_answer_ms_p50 == pytest.approx(200)
    assert figures.final_answer_ms_p50 == pytest.approx(500)
    assert figures.refined_share == 1.0


def test_an_answer_from_the_first_prefix_is_not_refined() -> None:
    ledger = DemoLedger()
    opened(ledger, "q1", "q2")
    ledger.observe(answer("q1", "yes", Outcome.ANSWERED, latents=3), 101)
    ledger.observe(answer("q2", "yes", Outcome.ANSWERED, latents=5, looks=2), 101)
    assert ledger.figures().refined_share == 0.5


def test_the_first_terminal_counts_and_repeats_are_counted_apart() -> None:
    ledger = DemoLedger()
    opened(ledger, "q1")
    ledger.observe(answer("q1", "yes", Outcome.ANSWERED), 101)
    ledger.observe(answer("q1", "yes", Outcome.ANSWERED, worker="w2"), 102)
    ledger.observe(answer("q1", "no", Outcome.ANSWERED, worker="w2"), 103)
    ledger.observe(answer("q1", "late", None), 104)
    (entry,) = ledger.opened
    assert (entry.text, entry.decided_s, entry.provisional_text) == ("yes", 101, "")
    figures = ledger.figures()
    assert (figures.repeated_terminals, figures.conflicting_terminals) == (1, 1)
    assert figures.answers_by_worker == {"w1": 1}


def test_a_query_without_outcome_is_undecided_and_an_unknown_answer_no_question() -> None:
    ledger = DemoLedger()
    opened(ledger, "q1")
    ledger.observe(answer("q9", "yes", Outcome.ANSWERED), 101)
    figures = ledger.figures()
    assert (figures.questions, figures.undecided) == (1, 1)
    assert figures.outcomes[Outcome.ANSWERED] == 0
    assert figures.final_answer_ms_p50 is None


def test_bytes_go_to_their_frame_and_all_to_the_total(tmp_path: Path) -> None:
    path = tmp_path / "frames.jsonl"
    ledger = DemoLedger()
    log = FrameLogReader(path)
    ledger.read(log)
    frame = {"kind": "frame", "camera": "gate", "frame": "00000001-1", "index": 7, "captured_s": 100.0}
    lines = [
        {**frame, "query_ids": ["gate/00000001-1/q1", "gate/@alice/visitor-1", "gate/@bob/visitor-1"]},
        {"kind": "sent", "camera": "gate", "frame": "00000001-1", "wire_bytes": 300, "latent_bytes": 100},
        {"kind": "sent", "camera": "north", "frame": None, "wire_bytes": 50, "latent_bytes": 0},
        {"kind": "source", "camera": "gate", "up": False},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    # A line that is still being written is taken in later, once.
    path.write_text(text[:-20])
    ledger.read(log)
    path.write_text(text)
    ledger.read(log)
    ledger.read(log)
    row = ledger.frames["gate", FRAME]
    assert (row.index, row.captured_s, row.wire_bytes, row.payload_bytes) == (7, 100.0, 300, 100)
    assert (ledger.wire_bytes, ledger.payload_bytes) == (350, 100)
    assert [query.question_id for query in ledger.opened] == ["q1", "visitor-1", "visitor-1"]
    assert ledger.figures().uplink_wire_bytes_per_question == pytest.approx(350 / 3)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("answered", 0), ("degraded", 0), ("superseded", 0), ("expired", 1), ("failed", 1), (None, 1)],
)
def test_exit_status_is_zero_only_when_every_question_ended_well(outcome: str | None, status: int) -> None:
    ledger = DemoLedger()
    opened(ledger, "q1")
    if outcome in ("answered", "degraded"):
        ledger.observe(answer("q1", "yes", Outcome(outcome)), 101)
    elif outcome is not None:
        query_id = standing_query_id("gate", FRAME, "q1")
        ledger.observe(
            QueryOutcome(
                query_id=query_id,
                owner="site/north",
                camera="gate",
                frame=FRAME,
                question_id="q1",
                outcome=Outcome(outcome),  # type: ignore[arg-type]
            ),
            101,
        )
    summary = Summary(ledger.figures(), None, 0, Rows(), 10.0, 64.0)
    assert summary.exit_status == status
    figures = summary.to_json()
    assert figures["answered"] == (outcome == "answered")
    assert figures["degraded"] == (outcome == "degraded")


def test_a_run_without_questions_is_no_success() -> None:
    assert Summary(DemoLedger().figures(), None, 0, Rows(), 10.0, 64.0).exit_status == 1


def test_the_json_has_the_keys_that_are_promised(tmp_path: Path) -> None:
    Summary(DemoLedger().figures(), None, 0, Rows(), 10.0, 64.0).write_json(tmp_path / "out.json")
    promised = {
        "questions", "answered", "degraded", "failed", "accuracy", "accuracy_uncompressed",
        "payload_bytes_per_question", "uplink_wire_bytes_per_question", "refined_share",
        "first_answer_ms_p50", "final_answer_ms_p50", "final_answer_ms_p95",
    }  # fmt: skip
    assert promised <= set(json.loads((tmp_path / "out.json").read_text()))


def test_answers_are_scored_against_the_clip(clip: Path) -> None:
    (camera,) = prepare_cameras(DemoOptions(videos=(clip,)), print)
    assert camera.truth is not None
    question_id = next(iter(camera.questions))
    index = next(n for n in range(50) if camera.truth.truth(n, question_id) is not None)
    truth = camera.truth_at(index, question_id)
    assert truth is not None
    # A looping source counts on; the clip begins again.
    assert camera.truth_at(index + camera.truth.frame_count, question_id) == truth
    ledger = DemoLedger()
    query_id = standing_query_id(camera.name, FRAME, question_id)
    ledger.frame_opened(camera.name, FRAME, index=index, captured_s=0, query_ids=[query_id])
    reply = answer(question_id, f" {truth.upper()}. ", Outcome.ANSWERED)
    ledger.observe(reply.model_copy(update={"query_id": query_id, "camera": camera.name}), 1.0)
    assert accuracy_of_run([camera], ledger) == (1.0, 1)


def test_same_answer_ignores_case_and_full_stop_only() -> None:
    assert same_answer("Top left.", "top  left")
    assert not same_answer("top", "top left")


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Is there a car?", AnswerType.YES_NO),
        ("How many cars are there?", AnswerType.COUNT),
        ("What color is the car?", AnswerType.WORD),
        ("Where is the dog?", AnswerType.WORD),
        ("What is happening?", AnswerType.TEXT),
        ("", AnswerType.TEXT),
    ],
)
def test_answer_type_of_a_question(question: str, expected: AnswerType) -> None:
    assert guess_answer_type(question) is expected


def test_own_videos(tmp_path: Path, clip: Path) -> None:
    own = tmp_path / "Front Door (1).mp4"
    own.write_bytes(clip.read_bytes())
    (camera,) = prepare_cameras(DemoOptions(videos=(own,), questions=("Is it open?",)), print)
    assert camera.name == "front-door-1-1"
    assert [question.text for question in camera.questions.values()] == ["Is it open?"]
    assert camera.truth_at(3, "v1q1") is None
    (unasked,) = prepare_cameras(DemoOptions(videos=(own,)), print)
    assert len(unasked.questions) == 3
    settings = edge_settings([camera], DemoOptions(), tmp_path, tmp_path / "codec")
    assert settings.cameras["front-door-1-1"].questions == ("v1q1",)
    with pytest.raises(ConfigError, match="several clips bring a question q0"):
        prepare_cameras(DemoOptions(videos=(clip, clip)), print)


def test_a_rendered_clip_that_was_damaged_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentbus.demo.cameras.CLIP_DURATION_S", 2.0)
    options = DemoOptions(cameras=1, work_dir=tmp_path)
    said: list[str] = []
    (camera,) = prepare_cameras(options, said.append)
    whole = camera.video.read_bytes()
    camera.video.write_bytes(whole[:600])
    prepare_cameras(options, said.append)
    assert len(said) == 2
    assert len(camera.video.read_bytes()) > 600


def test_rendered_clips_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentbus.demo.cameras.CLIP_DURATION_S", 2.0)
    options = DemoOptions(cameras=9, work_dir=tmp_path)
    said: list[str] = []
    cameras = prepare_cameras(options, said.append)
    assert len(said) == len({camera.name for camera in cameras}) == 9
    ids = [question_id for camera in cameras for question_id in camera.questions]
    assert len(ids) == len(set(ids)) == 27
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}
    prepare_cameras(options, said.append)
    assert len(said) == 9
    # Damaged truth, or a clip of other settings, is written again.
    next(tmp_path.glob("clips/gate-*.truth.json")).write_text("{}")
    prepare_cameras(options, said.append)
    assert len(said) == 10
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()} != written


def one_query(clip: Path) -> tuple[DemoCamera, DemoLedger]:
    """A camera, and one query of it that was answered after a refinement."""
    (camera,) = prepare_cameras(DemoOptions(videos=(clip,)), print)
    question_id = next(iter(camera.questions))
    ledger = DemoLedger()
    query_id = standing_query_id(camera.name, FRAME, question_id)
    ledger.frame_opened(camera.name, FRAME, index=0, captured_s=10, query_ids=[query_id])
    ledger.sent(camera.name, FRAME, wire_bytes=321, payload_bytes=99)
    for reply in (
        answer(question_id, "red", None),
        answer(question_id, "purple", Outcome.ANSWERED, latents=17, looks=2),
    ):
        ledger.observe(reply.model_copy(update={"query_id": query_id, "camera": camera.name}), 10.25)
    return camera, ledger


def test_table_and_line_show_the_latest_query(clip: Path) -> None:
    camera, ledger = one_query(clip)
    heading = Heading("127.0.0.1:1", 2.0, 64, "2 of 2")
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(live_table([camera], ledger, heading))
    shown = console.export_text()
    for part in ("purple", "17", "321", "250", "1 questions, 1 decided", "workers 2 of 2"):
        assert part in shown
    assert progress_line(ledger, heading).endswith("answered 1")


def test_the_picture_of_a_run_is_one_svg_that_loads_nothing(clip: Path, tmp_path: Path) -> None:
    camera, ledger = one_query(clip)
    path = tmp_path / "demo.svg"
    write_picture(path, final_table([camera], ledger, Heading("127.0.0.1:1", 2.0, 64, "2 of 2")), "latentbus demo")
    drawn = ElementTree.parse(path)
    shown = "".join(drawn.getroot().itertext()).replace("\N{NO-BREAK SPACE}", " ")
    for part in ("latentbus demo", "purple", "321", "workers 2 of 2", "red (3 latents) -> purple"):
        assert part in shown
    assert re.findall(r"(?:href|src)\s*=|url\((?!#)|@import|https?://(?!www\.w3\.org)", path.read_text()) == []


class TestImageSearch:
    """The cheapest setting that reaches a target, judged by a rule in place of a model."""

    # Grey blocks of eight pixels: a small file blurs their edges, a large one keeps them.
    pixels = (
        np.random.default_rng(0).integers(0, 255, (20, 8, 8, 1), dtype=np.uint8).repeat(8, 1).repeat(8, 2).repeat(3, 3)
    )

    def search(self, worst_error: float, *, also_wrong: int = 0) -> ImageSetting | None:
        """Files are right when they are this close to their frame; the run was wrong about the first few frames."""
        judged: Counter[int] = Counter()

        def score(pixels: NDArray[np.uint8], frames: Sequence[int]) -> Score:
            judged.update(frames)
            error = np.abs(pixels.astype(float) - self.pixels[list(frames)]).mean(axis=(1, 2, 3))
            return Score(int((error <= worst_error).sum()), len(frames))

        def target(frames: Sequence[int]) -> Score:
            return Score(sum(frame >= also_wrong for frame in frames), len(frames))

        found = ImageSearch(self.pixels, target, score, lambda: None).cheapest()
        assert len(set(judged.values())) <= 2, "a stage judges its own frames only"
        return found

    def mean_bytes(self, setting: ImageSetting | None) -> float:
        assert setting is not None
        return float(through_image_files(self.pixels, setting)[1].mean())

    def test_finds_the_cheapest_and_none_where_there_is_none(self) -> None:
        easy, hard = self.search(255), self.search(8)
        assert self.mean_bytes(easy) < self.mean_bytes(hard)
        assert self.search(-1) is None
        # Where the run itself is wrong about everything, any file is as good.
        assert self.search(-1, also_wrong=20) == easy

    def test_finds_one_where_time_is_short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cheapest = self.search(8)
        tries = count()
        # Time for a try of every fifth size, and for nothing after.
        limit = len(default_settings(64)) // STRIDE + 2
        monkeypatch.setattr(image_search, "SEARCH_LIMIT_S", limit)
        monkeypatch.setattr(image_search, "time", SimpleNamespace(monotonic=lambda: next(tries)))
        found = self.search(8)
        assert found is not None
        errors = np.abs(through_image_files(self.pixels, found)[0].astype(float) - self.pixels).mean(axis=(1, 2, 3))
        assert errors.max() <= 8
        assert self.mean_bytes(cheapest) <= self.mean_bytes(found)

    def test_can_be_stopped(self) -> None:
        def stop() -> None:
            raise KeyboardInterrupt

        nothing = Score(0, 1)
        with pytest.raises(KeyboardInterrupt):
            ImageSearch(self.pixels, lambda frames: nothing, lambda pixels, frames: nothing, stop).cheapest()


def test_the_headline_shows_the_first_answers_and_every_refinement_once() -> None:
    ledger = DemoLedger()
    for number in range(8):
        frame = FrameId(1, number)
        query_id = f"gate/{frame}/q"
        ledger.frame_opened("gate", frame, index=number, captured_s=10.0, query_ids=[query_id])
        ledger.sent("gate", frame, wire_bytes=200 + number, payload_bytes=90)
    headline = Headline(ledger, {"q": "Is there a car?"})
    assert headline.lines() == []

    def hear(number: int, *, latents: int, looks: int, text: str, outcome: Literal[Outcome.ANSWERED] | None) -> None:
        frame = FrameId(1, number)
        message = Answer(
            query_id=f"gate/{frame}/q", owner="site/north", camera="gate", frame=frame, attempt=1, question_id="q",
            worker="w1", outcome=outcome, text=text, score=0.9, latents=latents, payload_bytes=90, looks=looks,
        )  # fmt: skip
        ledger.observe(message, 10.25)

    for number in range(6):
        hear(number, latents=22, looks=1, text="no", outcome=Outcome.ANSWERED)
    lines = headline.lines()
    assert len(lines) == FIRST_ANSWERS
    assert lines[0] == "answer   gate: Is there a car? -> no  (22 latents, 200 bytes for the frame, 250 ms)"
    assert headline.latest_refinement == ""
    hear(6, latents=22, looks=1, text="no", outcome=None)
    assert headline.lines() == []
    hear(6, latents=32, looks=2, text="yes", outcome=Outcome.ANSWERED)
    refined = "refined  gate: Is there a car? -> no (22 latents) -> yes  (32 latents, 206 bytes for the frame, 250 ms)"
    assert headline.lines() == [refined]
    assert headline.latest_refinement == refined
    hear(7, latents=22, looks=1, text="no", outcome=Outcome.ANSWERED)
    assert headline.lines() == []
