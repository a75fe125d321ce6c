"""Commands that write: where is said, and what is not their own stays."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import typer.main

from latentbus.cli import app, main
from latentbus.reports.output_files import RUN_MARKER, fresh_run_dir, write_json
from schemas.errors import ConfigError
from tests.cli.test_arguments import all_parameters
from tests.edge.support import write_codec
from training.codec.fit.folder import check_output


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["latentbus", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


REPORTING = [
    ["demo"], ["edge", "--config", "site.yaml", "--check"],
    ["chaos"], ["attack"], ["simulate", "--events", "1"], ["replay", "IN.mcap"],
    ["replay-cameras", "IN.mcap"], ["what-if", "IN.mcap"],
    ["compare", "A.mcap", "B.mcap"], ["bench", "replay"], ["bench", "edge"], ["bench", "uplink"], ["bench", "gate"],
    ["bench", "worker"], ["codec", "train", "--vlm", "v", "--images", "i", "--output", "OUT"],
    ["codec", "eval"], ["codec", "ablate"], ["codec", "calibrate-gate", "--codec", "c"],
    ["codec", "eval-set", "pope", "--questions", "q", "--images", "i"],
    ["codec", "temporal"], ["codec", "verify-stop"], ["codec", "calibrate-stop", "--codec", "c"],
    ["codec", "export", "--codec", "c"], ["train", "codec", "OUT"],
    ["codec", "calibrate", "--vlm", "v", "--images", "i", "--output", "OUT"],
    ["train", "decoder", "c", "OUT"], ["train", "reference-vlm", "OUT"], ["train", "evaluate-vlm"],
    ["train", "all", "OUT"],
]  # fmt: skip


@pytest.mark.parametrize("command", REPORTING, ids=" ".join)
def test_a_report_goes_over_no_other_file_and_that_is_said_before_the_work(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.yaml").write_text("broker: {}\n")
    for target, problem in (
        ("site.yaml", "is no JSON and would be overwritten"), ("none/out.json", "no such folder: none"),
        (".", "is a folder"),
    ):  # fmt: skip
        assert run_main(monkeypatch, *command, "--json", target) == 2
        error = capsys.readouterr().err
        assert error.startswith("latentbus: --json: ")
        assert problem in error
    assert (tmp_path / "site.yaml").read_text() == "broker: {}\n"
    assert not (tmp_path / "OUT").exists()


def test_every_command_that_writes_a_report_is_among_them() -> None:
    targets = [
        parameter
        for parameter in all_parameters(typer.main.get_command(app))
        if "--json" in parameter.opts and parameter.name == "json_file"
    ]
    assert len(targets) == len(REPORTING)


def test_other_pages_are_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "README.md"
    page.write_text("# Mine\n")
    assert run_main(monkeypatch, "codec", "eval", "--markdown", str(page)) == 2
    assert "is no page of figures and would be overwritten" in capsys.readouterr().err
    assert run_main(monkeypatch, "compare", "a", "b", "--html", str(page)) == 2
    assert "is no HTML page and would be overwritten" in capsys.readouterr().err
    assert run_main(monkeypatch, "demo", "--picture", str(page)) == 2
    assert "is no SVG and would be overwritten" in capsys.readouterr().err


def test_what_was_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert capsys.readouterr().err == f"wrote {path}\n" * 2


def test_a_run_deletes_the_folder_of_a_run_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds what no run left there"):
        fresh_run_dir(tmp_path)
    assert (tmp_path / "run" / "thesis.txt").exists()
    (tmp_path / "run" / "thesis.txt").unlink()
    run_dir = fresh_run_dir(tmp_path)
    (run_dir / "edge.log").write_text("theirs")
    assert [path.name for path in fresh_run_dir(tmp_path).iterdir()] == [RUN_MARKER]


@pytest.mark.parametrize("command", [["calibrate-stop"], ["export"], ["temporal", "--write"]])
def test_the_installed_codec_is_never_written_to_without_being_named(
    command: list[str],
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LATENTBUS_MODELS_DIR", str(models_dir))
    before = {path: path.stat().st_mtime_ns for path in models_dir.rglob("*")}
    assert run_main(monkeypatch, "codec", *command) == 2
    assert "--codec: this command writes to the codec's folder, so name it" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in models_dir.rglob("*")} == before


def test_a_model_that_was_not_trained_here_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert run_main(monkeypatch, "train", "reference-vlm", str(tmp_path), "--budget", "smoke") == 2
    assert "OUTPUT: " in (error := capsys.readouterr().err)
    assert "holds a model that was not trained here" in error
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_model_that_was_trained_here_is_kept_unless_it_may_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "training.json"):
        (model / name).write_text("{}")
    command = ["train", "reference-vlm", str(model), "--cache", str(tmp_path / "cache"), "--budget", "smoke"]
    assert run_main(monkeypatch, *command) == 2
    assert "holds a finished model: name another folder, or add --overwrite" in capsys.readouterr().err
    # With it the next thing that is wrong is said.
    assert run_main(monkeypatch, *command, "--overwrite", "--photos", str(tmp_path / "none.zip")) != 0
    assert "finished model" not in capsys.readouterr().err
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "training.json"]


def test_a_finished_codec_or_a_damaged_one_is_kept(tmp_path: Path) -> None:
    check_output(tmp_path / "new")
    folder = write_codec(tmp_path / "codec")
    with pytest.raises(ConfigError, match=r"holds a finished codec, version 1 for none: name another folder, or add"):
        check_output(folder)
    check_output(folder, overwrite=True)
    (folder / "codec.json").write_text("{")
    with pytest.raises(ConfigError, match="no whole codec"):
        check_output(folder)
    shutil.rmtree(folder)
    check_output(folder)
