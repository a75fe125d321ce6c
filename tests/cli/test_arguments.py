"""What a user types and what is wrong with it: our words and the option, never those of a library."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from latentbus import __version__
from latentbus.cli import app, main
from latentbus.options.arguments import made_of, refuse_what_is_no_number
from pipeline.config.camera_settings import CameraSettings
from schemas.errors import ConfigError
from schemas.messages import SCHEMA_VERSION

OF_A_LIBRARY = re.compile(
    r"pydantic|Input should|String should|validation error|Traceback|CUDA|torch\.|Torch not|Expected one of"
)


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["latentbus", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["demo", "--video", "VIDEO", "--question", ""], "--question: must not be empty"),
        (["demo", "--video", "VIDEO", "--question", "   "], "--question: '   ' is blank"),
        (["demo", "--video", "VIDEO", "--question", "x" * 501], "--question: 'xxx"),
        (["demo", "--video", "VIDEO", *["--question", "a?"] * 65], "--question: has 65, at most 64 are allowed"),
        (["demo", *["--video", "VIDEO"] * 129], "--video: "),
        (["ask", "Front Door", "a?"], "CAMERA: 'Front Door' is no name"),
        (["ask", "gate", ""], "QUESTION: must not be empty"),
        (["ask", "gate", " \t"], "QUESTION: ' \\t' is blank"),
        (["ask", "gate", "a?", "--query-id", "A B"], "--query-id: 'A B' is no name"),
        (["ask", "gate", "a?", "--query-id", ""], "--query-id: is no name"),
        (["ask", "gate", "a?", "--host", "mqtt://broker.example"], "--host: must be a host name"),
        (["ask", "gate", "a?", "--host", ""], "--host: must not be empty"),
        (["record", "OUT.mcap", "--host", "a b"], "--host: must be a host name"),
        (["record", "OUT.mcap", "--name", "A B"], "--name: 'A B' is no name"),
        (["replay", "IN.mcap", "--host", "broker.example:1883"], "--host: must be a host name"),
        (["replay-cameras", "IN.mcap", "--site", "A B"], "--site: 'A B' is no name"),
        (["replay-cameras", "IN.mcap", "--pool", ""], "--pool: is no name"),
        (["replay", "IN.mcap", "--remap-camera", "gate=A B"], "--remap-camera: "),
        (["replay-cameras", "IN.mcap", "--uplink-kbps", "inf"], "--uplink-kbps: inf is no finite number"),
        (["broker", "add-device", "FLEET", "A B", "--kind", "client"], "NAME: 'A B' is no name"),
        (["broker", "add-device", "FLEET", "a", "--kind", "edge", "--camera", "B C"], "--camera: 'B C' is no name"),
        (["broker", "add-device", "FLEET", "a", "--kind", "worker", "--pool", "P P"], "--pool: 'P P' is no name"),
        (["broker", "certs", "FLEET", "--host", "mqtts://b.example"], "--host: must be a host name"),
        (["train", "codec", "OUT", "--vlm-id", ""], "--vlm-id: must be 1 to 200 characters"),
        (["train", "codec", "OUT", "--device", "cuda"], "--device: torch has no device 'cuda' here; it has cpu"),
        (["train", "codec", "OUT", "--device", "gpu"], "--device: torch has no device 'gpu' here"),
        (["train", "reference-vlm", "OUT", "--device", "meta"], "--device: torch has no device 'meta' here"),
        (["train", "decoder", "IN", "OUT", "--device", "cuda:0"], "--device: torch has no device 'cuda:0' here"),
        (["codec", "ablate", "--device", "cuda"], "--device: torch has no device 'cuda' here"),
        (["train", "codec", "OUT", "--vlm", "org/model"], "--vlm: no such folder: org/model; "),
        (["codec", "verify-stop", "--vlm", "nowhere"], "--vlm: no such folder: nowhere; "),
        (
            ["train", "reference-vlm", "new-vlm", "--generation", "3", "--budget", "gpu"],
            "--budget: 'gpu' is none of full, smoke",
        ),
        (
            ["train", "reference-vlm", "new-vlm", "--generation", "3", "--start-from", "old-vlm"],
            "--start-from: a model of generation 3 starts from ImageNet",
        ),
        (["train", "evaluate-vlm", "org/model"], "--vlm: no such folder: org/model; "),
    ],
)
def test_a_wrong_argument_is_one_line_about_the_option(
    arguments: list[str],
    start: str,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    (tmp_path / "VIDEO").symlink_to(clip)
    assert run_main(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"latentbus: {start}"), error
    assert error.count("\n") == 1
    assert not OF_A_LIBRARY.search(error.replace(f"'{arguments[-1]}'", "").replace("torch has no device", ""))


def test_a_model_of_the_hub_is_named_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, "train", "codec", "OUT", "--vlm", "org/model") == 2
    assert "first run: hf download org/model --local-dir model" in capsys.readouterr().err


def test_a_wrong_environment_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LATENTBUS_BROKER__PORT", "none")
    assert run_main(monkeypatch, "ask", "gate", "a?") == 2
    assert "environment variable LATENTBUS_BROKER__PORT: must be a whole number" in capsys.readouterr().err


def all_parameters(command: Any) -> Iterator[Any]:
    yield from command.params
    for below in getattr(command, "commands", {}).values():
        yield from all_parameters(below)


def test_no_option_of_any_command_takes_what_is_no_number() -> None:
    command = typer.main.get_command(app)
    refuse_what_is_no_number(command)
    parameters = [*all_parameters(command)]
    assert len(parameters) > 200
    for parameter in parameters:
        for value in (float("nan"), float("inf")):
            if getattr(parameter, "type_descriptor", None) and "float" in str(parameter.type_descriptor.annotation):
                with pytest.raises(ConfigError, match="no finite number"):
                    parameter.callback(None, parameter, value)


def test_a_problem_of_the_whole_names_every_option() -> None:
    with pytest.raises(ConfigError, match=r"--interval: must be at least 0\.02|--interval: 0"):
        made_of(CameraSettings, {"interval_s": "--interval"}, source="a", interval_s=0)


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_both_versions_are_told(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out == f"latentbus {__version__}, wire version {SCHEMA_VERSION}\n"
