"""``bench gate``: what leaves of a camera with and without a gate, and how late and how often an answer is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from latentbus.bench.gate_site import Watched, camera_report, changes_of, run_site
from latentbus.cli import app
from pipeline.codec.spec import TABLES_FILE, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.change_gate import ChangeGate, GateSettings
from schemas.errors import ArtifactError
from schemas.types import AnswerType
from tests.cloud.tiny_codec import write_codec as write_tiny_codec
from tests.cloud.tiny_codec import write_vlm
from tests.edge.support import LATENT_DIM, LATENTS, write_codec
from tests.edge.test_change_gate import write_gate

FRAMES = 600
EVENT = (300, 320)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_codec(tmp_path_factory.mktemp("bench"), prediction=True)
    write_gate(folder)
    return folder


def watched(kind: AnswerType = AnswerType.YES_NO) -> Watched:
    """Ten minutes of a scene in which one symbol flickers, and something stands there for twenty seconds."""
    symbols = np.zeros((FRAMES, LATENTS, LATENT_DIM), np.int32)
    symbols[:, 3, 3] = np.random.default_rng(0).integers(0, 2, FRAMES)
    symbols[EVENT[0] : EVENT[1], 2:5] += 4
    texts = np.full((FRAMES, 1), "no", dtype="<U3")
    texts[EVENT[0] : EVENT[1]] = "yes"
    return Watched("yard", 1.0, symbols, texts, [("Is there a car?", kind)], np.zeros(1), [(EVENT[0], EVENT[1] - 1)])


def gate_of(codec: Path) -> ChangeGate:
    return ChangeGate(write_gate(codec), GateSettings(max_age_s=600.0, renew_s=180.0))


def test_a_still_scene_costs_nearly_nothing_and_its_event_is_answered(codec: Path) -> None:
    tables, camera = FrequencyTables.load(codec / TABLES_FILE), watched()
    runs = {
        "without_gate": run_site(camera, tables, key_frames=False),
        "key_frames": run_site(camera, tables),
        "gate": run_site(camera, tables, gate=gate_of(codec)),
    }
    report = camera_report(camera, runs, 0.015)
    assert report["bytes_an_hour_without"] > report["bytes_an_hour_key_frames"] > 10 * report["bytes_an_hour_gate"]
    assert runs["gate"].asked.sum() == 3, "the first frame, the event, and when it is over"
    assert (report["events"], report["events_not_asked"]) == (1, 0)
    assert (report["answer_changes"], report["answer_changes_missed"]) == (2, 0)
    assert report["change_answered_after_s_max"] == 0.3
    assert report["answers_differing"] == 0.0
    # Statuses, notes that answers hold on, and pings where nothing else is said are counted.
    assert set(runs["gate"].wire_bytes) >= {"open", "outcome", "status", "question", "ping"}
    assert runs["gate"].wire_bytes["ping"] > 0
    assert runs["key_frames"].wire_bytes["ping"] == 0


def test_where_nothing_is_proved_the_gate_saves_nothing(codec: Path) -> None:
    tables, camera = FrequencyTables.load(codec / TABLES_FILE), watched(AnswerType.WORD)
    gated = run_site(camera, tables, gate=gate_of(codec))
    assert gated.asked.all()
    assert gated.wire_bytes["open"] == run_site(camera, tables).wire_bytes["open"]


def test_an_event_that_the_gate_does_not_see_is_reported(codec: Path) -> None:
    tables, camera = FrequencyTables.load(codec / TABLES_FILE), watched()
    camera.symbols[EVENT[0] : EVENT[1], 2:5] -= 4
    runs = dict.fromkeys(("without_gate", "key_frames"), run_site(camera, tables)) | {
        "gate": run_site(camera, tables, gate=gate_of(codec))
    }
    report = camera_report(camera, runs, 0.015)
    assert report["events_not_asked"] == 1
    assert report["answer_changes_missed"] == 1
    assert report["answers_differing"] == round(20 / FRAMES, 4)
    assert report["answers_differing_by_gate"] == round(20 / FRAMES, 4)


def test_only_changes_that_last_are_waited_for() -> None:
    own = np.array([*"aaabaaabbbbaaa"]).reshape(-1, 1)
    late = np.array([*"aaaaaaaaabbaaa"]).reshape(-1, 1)
    changes = changes_of(own, late, 2.0)
    assert (changes.count, changes.missed) == (2, 0)
    assert changes.delays_s == (4.3, 0.3)
    never = changes_of(own, np.full_like(own, "a"), 2.0)
    assert (never.count, never.missed, never.delays_s) == (2, 1, (0.3,))


def test_a_codec_without_a_gate_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    vlm = write_vlm(tmp_path / "vlm")
    codec = write_tiny_codec(tmp_path / "codec", vlm)
    assert load_codec_spec(codec).latent_count
    done = CliRunner().invoke(app, ["bench", "gate", "--vlm", str(vlm), "--codec", str(codec), "--no-video"])
    assert isinstance(done.exception, ArtifactError)
    assert "has no change gate: run `latentbus codec calibrate-gate`" in str(done.exception)


def test_the_help_shows_examples() -> None:
    done = CliRunner().invoke(app, ["bench", "gate", "--help"])
    assert done.exit_code == 0
    assert "latentbus bench gate --json gate.json" in " ".join(done.output.split())
