"""The command as a user runs it: help at once, one clear line for each mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from latentbus.cli import app, main
from pipeline.config.broker_settings import BrokerSettings
from pipeline.protocol.settings import ClientProtocolSettings
from schemas.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
runner = CliRunner()
# What ``--help`` may load: no model, video or network library.
HELP_PACKAGES = {
    "latentbus", "analysis", "pipeline", "schemas", "broker_config", "typer", "rich", "markdown_it", "mdurl",
    "pygments", "shellingham", "annotated_doc", "pydantic", "pydantic_core", "pydantic_settings", "annotated_types",
    "typing_extensions", "typing_inspection", "dotenv", "yaml", "cython_runtime", "attr",
}  # fmt: skip
GOOD = (
    'edge:\n  site: north\n  cameras: {gate: {source: "test:1", questions: [q]}}\n  questions: {q: {text: "a car?"}}\n'
)


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["latentbus", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_help_loads_only_what_draws_it() -> None:
    """Imports are what makes ``--help`` slow, so they are bounded; the clock of a shared machine says little."""
    probe = (
        "import sys\n"
        "sys.argv = ['latentbus', '--help']\n"
        "from latentbus.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))\n"
        "print('MODULES', len(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    loaded = {name for name in lines[-2].split()[1:] if not name.startswith("_")}
    assert loaded <= HELP_PACKAGES
    assert int(lines[-1].split()[1]) < 640  # each command is a module


@pytest.mark.parametrize(
    "command",
    [
        ["demo"], ["ask"], ["edge"], ["worker"], ["validate"], ["broker"], ["version"], ["train", "reference-vlm"],
        ["train", "codec"], ["codec", "eval"], ["codec", "calibrate"], ["codec", "calibrate-stop"], ["codec", "export"],
        ["record"], ["recover"], ["inspect"],
    ],
)  # fmt: skip
def test_every_command_explains_itself(command: list[str]) -> None:
    result = runner.invoke(app, [*command, "--help"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    assert "Usage:" in result.output
    if command != ["version"]:
        assert "latentbus" in result.output


def test_version() -> None:
    result = runner.invoke(app, ["version"])
    assert result.output.startswith("latentbus ")


def test_validate_names_line_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("broker:\n  prt: 1\n")
    assert run_main(monkeypatch, "validate", str(file)) == 2
    error = capsys.readouterr().err
    assert f"latentbus: {file}:2: broker.prt: unknown key; did you mean port?\n" == error


def test_validate_looks_at_the_files_too(
    tmp_path: Path,
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LATENTBUS_MODELS_DIR", str(models_dir))
    file = tmp_path / "site.yaml"
    file.write_text(GOOD)
    assert run_main(monkeypatch, "validate", str(file)) == 0
    assert capsys.readouterr().out == f"{file}: good (broker, edge)\n"
    file.write_text(GOOD.replace("test:1", "missing.mp4"))
    assert run_main(monkeypatch, "validate", str(file)) == 2
    assert f"edge.cameras.gate.source: no such file: {tmp_path}/missing.mp4" in capsys.readouterr().err
    file.write_text(GOOD + "  codec: nowhere\n")
    assert run_main(monkeypatch, "validate", str(file)) == 2
    assert "edge.codec" in capsys.readouterr().err
    file.write_text(GOOD + "broker: {tls: {ca_file: ca.pem}}\n")
    assert run_main(monkeypatch, "validate", str(file)) == 2
    assert f"broker.tls.ca_file: no such file: {tmp_path}/ca.pem" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("rtmp://user:secret@cam.example/1", "no source of kind 'rtmp'"),
        ("rtsp://user:secret@/1", "names no host"),
        ("snapshot:ftp://user:secret@cam.example/a.jpg", "is no address of a picture"),
        ("v4l2:video0", "names no device"),
        ("folder:nowhere", "no such folder"),
        ("test:abc", "'abc' is no whole number; write test:SEED"),
        ("test:7?colour=red", "unknown option 'colour'"),
        ("file:/nowhere/a.mp4", "no such file: /nowhere/a.mp4"),
        ("a:b.mp4", "no such file"),
    ],
)
def test_validate_knows_what_this_version_can_open(
    source: str,
    problem: str,
    tmp_path: Path,
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LATENTBUS_MODELS_DIR", str(models_dir))
    file = tmp_path / "site.yaml"
    file.write_text(GOOD.replace("test:1", source))
    assert run_main(monkeypatch, "validate", str(file)) == 2
    error = capsys.readouterr().err
    assert f"{file}:3: edge.cameras.gate.source: " in error
    assert problem in error
    assert "secret" not in error


def test_validate_reports_all_it_finds_in_one_list(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATENTBUS_MODELS_DIR", str(models_dir))
    (tmp_path / "log").write_text("a file")
    file = tmp_path / "site.yaml"
    file.write_text(
        "broker: {prt: 1, tls: {ca_file: ca.pem}}\n"
        "edge:\n"
        "  site: North 1\n"
        "  codec: nowhere\n"
        "  state_dir: log/state\n"
        "  frame_log: log/frames.jsonl\n"
        "  recording: {file: log/run.mcap}\n"
        "  cameras:\n"
        "    gate: {source: gate.mp4, questions: [q9], interval_s: 0}\n"
        "    yard: {source: 'rtmp://yard', questions: [q]}\n"
        "  questions: {q: {text: ' '}}\n"
        "worker: {vlm: ./vlm, codec: elsewhere, recording: {file: log/w.mcap}}\n"
    )
    assert run_main(monkeypatch, "validate", str(file)) == 2
    error = capsys.readouterr().err
    for place in (
        "1: broker.prt", "1: broker.tls.ca_file", "3: edge.site", "4: edge.codec", "5: edge.state_dir",
        "6: edge.frame_log", "7: edge.recording.file", "9: edge.cameras.gate.source", "9: edge.cameras.gate.interval_s",
        "9: edge.cameras.gate.questions.0", "10: edge.cameras.yard.source", "11: edge.questions.q.text",
        "12: worker.vlm", "12: worker.codec", "12: worker.recording.file",
    ):  # fmt: skip
        assert f"{file}:{place}: " in error
    assert error.startswith(f"latentbus: {file}: 15 problems:")


def test_validate_shows_settings_without_secrets(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        "broker: {username: u, password: hunter2}\n"
        "edge: {site: north, cameras: {gate: {source: 'rtsp://admin:hunter2@cam/1'}}}\n"
    )
    monkeypatch.setenv("LATENTBUS_MODELS_DIR", str(models_dir))
    assert run_main(monkeypatch, "validate", str(file), "--show") == 0
    shown = capsys.readouterr().out
    assert "hunter2" not in shown
    assert yaml.safe_load(shown)["broker"]["keepalive_s"] == 30


@pytest.mark.parametrize("role", ["edge", "worker"])
def test_a_process_without_its_section_says_so(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("")
    assert run_main(monkeypatch, role, "--config", str(file)) == 2
    assert f"no {role} section" in capsys.readouterr().err


def test_ask_refuses_what_cannot_be_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "ask", "Front Door", "is there a car?") == 2
    assert "CAMERA: 'Front Door' is no name" in capsys.readouterr().err
    for text in ("", "  "):
        assert run_main(monkeypatch, "ask", "gate", text) == 2
        assert "QUESTION: " in capsys.readouterr().err


def test_ask_without_a_broker_fails_with_its_address(
    broker_settings: BrokerSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("latentbus.client.ask.CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setenv("LATENTBUS_BROKER__USERNAME", "nobody")
    # Port 1 has no listener.
    assert run_main(monkeypatch, "ask", "gate", "is there a car?", "--port", "1") == 1
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_ask_a_camera_that_nobody_serves(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ClientProtocolSettings(status_patience_s=0.1, reply_margin_s=0.1)
    monkeypatch.setattr("latentbus.client.ask.SETTINGS", settings)
    arguments = ["ask", "gate", "is there a car?", "--deadline", "0.5", "--port", str(broker_settings.port)]
    assert run_main(monkeypatch, *arguments) == 2
    none = "no edge that is online serves camera gate; cameras on this broker: none"
    assert f"CAMERA: {none}; --no-check" in capsys.readouterr().err
    assert run_main(monkeypatch, *arguments, "--no-check") == 1
    assert capsys.readouterr().err == f"latentbus: no outcome within 1 s\nlatentbus: {none}\n"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def without_torch() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")

    monkeypatch.setattr("latentbus.cli.run_command", without_torch)
    assert run_main(monkeypatch) == 2
    assert "torch.nn is not installed; run: pip install 'latentbus[cloud]'" in capsys.readouterr().err


def test_a_missing_module_that_no_extra_brings_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ModuleNotFoundError("No module named 'pipeline.nothing'", name="pipeline.nothing")

    monkeypatch.setattr("latentbus.cli.run_command", broken)
    monkeypatch.setattr(sys, "argv", ["latentbus"])
    with pytest.raises(ModuleNotFoundError):
        main()


def test_unknown_budget(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_main(monkeypatch, "train", "reference-vlm", str(tmp_path / "vlm"), "--budget", "huge") == 2
    assert "'huge' is none of" in capsys.readouterr().err


def test_our_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ConfigError("here", "wrong")

    monkeypatch.setattr("latentbus.cli.run_command", fail)
    assert run_main(monkeypatch) == 2
    assert capsys.readouterr().err == "latentbus: here: wrong\n"


@pytest.mark.parametrize("content", [b"", b"no video at all", bytes(4096), b"RIFF\x00\x00\x00\x00AVI LIST", None])
def test_demo_looks_at_its_videos_before_it_starts_anything(
    content: bytes | None,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def start(*_arguments: object, **_options: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr("latentbus.demo.run.Launcher", start)
    video = tmp_path / "street.mp4"
    video.write_bytes(clip.read_bytes()[:600] if content is None else content)
    arguments = ["demo", "--video", str(clip), "--video", str(video), "--question", "a car?"]
    assert run_main(monkeypatch, *arguments, "--work-dir", str(tmp_path / "demo")) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"latentbus: --video: {video}: ")
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "demo").exists()


def test_demo_needs_a_video_for_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "demo", "--question", "a car?", "--work-dir", str(tmp_path)) == 2
    assert "name a --video" in capsys.readouterr().err
    missing = str(tmp_path / "none.mp4")
    assert run_main(monkeypatch, "demo", "--video", missing, "--work-dir", str(tmp_path)) == 2
    assert f"no such file: {missing}" in capsys.readouterr().err


@pytest.mark.broker
def test_demo_runs_a_whole_fleet_of_processes(tmp_path: Path, clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # The bundled model: what one of random weights says has the form of no answer type.
    arguments = ["--duration", "4", "--video", str(clip), "--workers", "1", "--interval", "0.5"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "latentbus",
            "demo",
            *arguments,
            "--json",
            "out.json",
            "--work-dir",
            str(tmp_path / "d"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["questions"] >= 6
    assert figures["questions"] == figures["answered"] + figures["degraded"] + figures["superseded"]
    assert figures["undecided"] == figures["failed"] == 0
    assert figures["scored"] > 0
    assert 0 <= figures["accuracy_uncompressed"] <= 1
    assert [row["name"] for row in figures["rows"]][:3] == [
        "progressive (measured)", "whole latent at once", "base prefix only",
    ]  # fmt: skip
    whole, base = figures["rows"][1:3]
    assert whole["wire_bytes_per_frame"] > base["wire_bytes_per_frame"] > base["payload_bytes_per_frame"] > 0
    assert figures["uplink_wire_bytes_per_question"] > figures["payload_bytes_per_question"] > 0
    assert 0 < figures["first_answer_ms_p50"] <= figures["final_answer_ms_p50"] <= figures["final_answer_ms_p95"]
    assert f"{figures['questions']} questions in 4 s" in done.stdout
