"""An edge whose camera stands still asks once, says now and then that the answer holds on, and asks what changes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from edge_nodes.change_gate import make_change_gate
from latentbus.options.validate import load_and_check
from pipeline.codec.gate_file import GATE_FILE, GateDistance, GateFile, GateLimits
from pipeline.codec.spec import STOP_FILE, load_codec_spec
from pipeline.codec.stop_file import StopFile, save_stop_file
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import ChangeGateSettings, EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.protocol.renewals import renewed_query_id
from pipeline.protocol.stop_rule import StopRule
from schemas import topics
from schemas.errors import ArtifactError, ConfigError
from schemas.messages import Ask, QueryOutcome, Question
from schemas.types import AnswerType, Outcome
from tests.edge.running import Running, listening, running
from tests.edge.support import LATENT_DIM, LATENTS, ScriptedWorker, grey, write_codec, write_video

SYMBOLS = LATENTS * LATENT_DIM
FRAMES = 40
"""Of each scene, at 40 a second."""


def write_gate(codec: Path, *, risk: float = 0.015) -> GateFile:
    """Two frames are the same if no symbol differs by more than one step; nothing is proved for words."""
    every = np.arange(SYMBOLS, dtype=np.int32)
    compared = GateDistance(every, np.ones(SYMBOLS, np.int32), np.ones(SYMBOLS, np.float32), 1)
    limits = (GateLimits(risk, {AnswerType.YES_NO: 1.0}),)
    closed = {AnswerType.WORD: "lost 0.02"}
    gate = GateFile(load_codec_spec(codec).fingerprint.hex(), risk, limits, compared, closed, {})
    gate.save(codec)
    return gate


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    folder = write_codec(tmp_path / "codec")
    write_gate(folder)
    return folder


def settings_of(
    codec: Path, broker: BrokerSettings, source: Path, gate: ChangeGateSettings | None = None
) -> LatentbusSettings:
    camera = CameraSettings(source=str(source), interval_s=0.03, questions=("car", "color"))
    questions = {
        "car": QuestionSettings(text="Is there a car?", answer_type=AnswerType.YES_NO, deadline_ms=20_000),
        "color": QuestionSettings(text="What color is it?", answer_type=AnswerType.WORD, deadline_ms=20_000),
    }
    edge = EdgeSettings(
        site="depot", codec=codec, cameras={"gate": camera}, questions=questions,
        change_gate=gate or ChangeGateSettings(),
    )  # fmt: skip
    return LatentbusSettings(broker=broker, edge=edge)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """One scene, then another, again and again."""
    first, second = grey(60), grey(60)
    second[:, 32:] = 200
    return write_video(tmp_path / "video.mp4", [first] * FRAMES + [second] * FRAMES, fps=40)


async def served(worker: ScriptedWorker, edge: Running, asked: list[list[str]]) -> None:
    """Answer everything, and keep what was asked of each frame."""
    while True:
        camera, opened = await worker.next_open()
        asked.append([ref.question_id for ref in opened.queries])
        await worker.answer_all(camera, opened)


@pytest.mark.broker
async def test_a_scene_is_asked_once_and_again_when_it_changes(
    codec: Path, broker_settings: BrokerSettings, video: Path
) -> None:
    settings = settings_of(codec, broker_settings, video, ChangeGateSettings(max_age_s=60, renew_s=60))
    asked: list[list[str]] = []
    async with ScriptedWorker(broker_settings) as worker, running(settings) as edge:
        serving = asyncio.create_task(served(worker, edge, asked))
        # Nothing is proved for words, so every frame is sent; the other question goes with few of them.
        await edge.watcher.until(lambda: len(edge.watcher.frames) >= 60)
        serving.cancel()
    cars = sum("car" in questions for questions in asked)
    assert all("color" in questions for questions in asked)
    assert 2 <= cars <= len(asked) / 3


@pytest.mark.broker
async def test_what_holds_on_is_told_with_the_answer_that_it_renews(
    codec: Path, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    still = write_video(tmp_path / "still.mp4", [grey(60)] * FRAMES, fps=40)
    settings = settings_of(codec, broker_settings, still, ChangeGateSettings(max_age_s=1000, renew_s=1))
    asked: list[list[str]] = []
    async with (
        ScriptedWorker(broker_settings) as worker,
        listening(broker_settings, topics.outcome_topic("gate")) as reader,
        running(settings) as edge,
    ):
        serving = asyncio.create_task(served(worker, edge, asked))
        _, told = await reader.next(QueryOutcome)
        serving.cancel()
        assert isinstance(told, QueryOutcome)
        assert (told.outcome, told.question_id, told.owner) == (Outcome.UNCHANGED, "car", "site/depot")
        answered = [end.query_id for end in edge.watcher.ended if end.question.question_id == "car" and end.answer]
        assert renewed_query_id(told) in answered
        assert told.age_ms is not None
        assert isinstance(told.age_ms, int)
        assert told.age_ms >= 1000
        assert worker_risk(edge) == pytest.approx(0.005)


def worker_risk(edge: Running) -> float | None:
    """The risk that the pool is left of the question that may be held back."""
    return next(end.question.risk for end in edge.watcher.ended if end.question.question_id == "car")


@pytest.mark.broker
async def test_a_clients_question_is_asked_of_a_scene_that_does_not_change(
    codec: Path, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    still = write_video(tmp_path / "still.mp4", [grey(60)] * FRAMES, fps=40)
    settings = settings_of(codec, broker_settings, still)
    assert settings.edge is not None
    camera = settings.edge.cameras["gate"].model_copy(update={"questions": ("car",)})
    settings = settings.model_copy(update={"edge": settings.edge.model_copy(update={"cameras": {"gate": camera}})})
    async with (
        ScriptedWorker(broker_settings) as worker,
        listening(broker_settings) as client,
        running(settings) as edge,
    ):
        name, opened = await worker.next_open()
        await worker.answer_all(name, opened)
        await edge.watcher.until(lambda: edge.watcher.ended)
        await client.ask("gate", Ask(query_id="a1", text="Is there a car?", answer_type=AnswerType.YES_NO))
        while True:
            name, opened = await worker.next_open()
            if any(ref.ad_hoc for ref in opened.queries):
                break
            await worker.answer_all(name, opened)
        assert [ref.question_id for ref in opened.queries if ref.ad_hoc] == ["a1"]


def edge_of(codec: Path, **changes: object) -> EdgeSettings:
    settings = settings_of(codec, BrokerSettings(), Path("test:1")).edge
    assert settings is not None
    return settings.model_copy(update=changes)


def test_the_pools_risk_is_shared(codec: Path) -> None:
    spec = load_codec_spec(codec)
    wanted = Question(site="depot", question_id="car", text="Is there a car?", answer_type=AnswerType.YES_NO)
    gate = make_change_gate(edge_of(codec), codec, spec)
    assert gate is not None
    assert gate.share(wanted).risk == pytest.approx(0.005), "without a stop rule a third of the gate's own"
    rule = StopRule((4, LATENTS), (2.0, 0.0), {}, 0.05)
    save_stop_file(codec, StopFile(rule))
    gate = make_change_gate(edge_of(codec), codec, spec)
    assert gate is not None
    assert gate.share(wanted).risk == 0.0125
    (codec / STOP_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match="no usable stop rule"):
        make_change_gate(edge_of(codec), codec, spec)


def test_switches_of_site_camera_and_question(codec: Path) -> None:
    spec, edge = load_codec_spec(codec), edge_of(codec)
    assert make_change_gate(edge_of(codec, change_gate=ChangeGateSettings(enabled=False)), codec, spec) is None
    camera = edge.cameras["gate"]
    questions = edge.questions | {"car": edge.questions["car"].model_copy(update={"change_gate": False})}
    wanted = Question(site="depot", question_id="car", text="Is there a car?", answer_type=AnswerType.YES_NO)
    gate = make_change_gate(edge_of(codec, questions=questions), codec, spec)
    assert gate is not None
    assert gate.share(wanted) == wanted
    for change in ({"change_gate": False}, {"fit": "crop"}):
        cameras = {"gate": camera.model_copy(update=change)}
        gate = make_change_gate(edge_of(codec, cameras=cameras), codec, spec)
        assert gate is not None
        assert gate.settings.open_cameras == {"gate"}


@pytest.mark.parametrize("content", [None, "{"])
def test_an_edge_without_a_usable_gate_asks_everything(
    codec: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = codec / GATE_FILE
    if content is None:
        path.unlink()
    else:
        path.write_text(content, encoding="utf-8")
    assert make_change_gate(edge_of(codec), codec, load_codec_spec(codec)) is None
    assert "standing questions are asked of every frame" in capsys.readouterr().out


def test_a_gate_of_another_codec_is_reported_by_validate_and_closes_nothing(
    codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = codec / GATE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "ab" * 32}), encoding="utf-8")
    file = tmp_path / "site.yaml"
    text = f"edge:\n  site: depot\n  codec: {codec}\n  cameras:\n    gate: {{source: 'test:1'}}\n"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="abababab"):
        load_and_check(file)
    file.write_text(text + "  change_gate: {enabled: false}\n", encoding="utf-8")
    assert load_and_check(file).edge is not None
    assert make_change_gate(edge_of(codec), codec, load_codec_spec(codec)) is None
    assert "abababab" in capsys.readouterr().out


def test_answers_must_be_renewed_before_they_are_too_old() -> None:
    with pytest.raises(ValueError, match="renew_s 700 is above max_age_s 600"):
        ChangeGateSettings(renew_s=700)


def test_questions_that_stay_closed_are_told_at_the_start(codec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_change_gate(edge_of(codec), codec, load_codec_spec(codec))
    said = capsys.readouterr().out
    assert "some standing questions are asked of every frame" in said
    assert "lost 0.02" in said
