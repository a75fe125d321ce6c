"""Texts of peers on terminals and in files: no encoding ends a command, and none of them steers the terminal."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.markup import escape
from rich.table import Table

from latentbus import cli
from latentbus.client import ask
from latentbus.reports.output_files import write_text
from latentbus.reports.safe_console import SafeConsole
from pipeline.config.logs import configure_logging, get_logger
from schemas.errors import ConfigError
from schemas.messages import Answer
from schemas.printable import printable
from schemas.types import Outcome
from tests.recording.fleet_log import FleetLog, demo_log
from tests.recording.messages import write_log

TEXT = "Steht ein großes Auto im Schnee \u2603?"
HOSTILE = "\x1b]0;owned\x07\x1b[2Jred\x9b31m\u202egnp.exe"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    fleet = demo_log()
    fleet.question("snow", TEXT)
    fleet.question("evil", HOSTILE)
    fleet.open(3.0, "gate", 7, "snow", "evil")
    fleet.answer(3.5, "gate", 7, "snow", TEXT)
    fleet.answer(3.5, "gate", 7, "evil", HOSTILE)
    return write_log(tmp_path / "peer.mcap", fleet.sorted())


def _run(*arguments: str, encoding: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "latentbus", *arguments], env=environment, capture_output=True, check=False, timeout=120
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_inspect_on_a_terminal_that_is_not_utf_8(log: Path, encoding: str) -> None:
    run = _run("inspect", str(log), encoding=encoding)

    assert run.returncode == 0, run.stderr
    assert b"\\u2603" in run.stdout
    assert b"Traceback" not in run.stderr


def test_compare_on_a_terminal_that_is_not_utf_8(log: Path, tmp_path: Path) -> None:
    other = FleetLog(messages=[])
    other.question("snow", TEXT)
    other.open(3.0, "gate", 7, "snow")
    other.answer(3.5, "gate", 7, "snow", f"no, {TEXT}")
    run = _run("compare", str(log), str(write_log(tmp_path / "b.mcap", other.sorted())), encoding="ascii")

    assert b"Traceback" not in run.stderr
    assert b"\\u2603" in run.stdout


@pytest.mark.parametrize("command", ["inspect", "inspect --json"])
def test_no_text_of_a_peer_steers_the_terminal(log: Path, command: str) -> None:
    run = _run(*command.split(), str(log), encoding="utf-8")

    assert run.returncode == 0, run.stderr
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(run.stdout.decode())


def test_an_error_of_ours_is_one_printable_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ConfigError("edge.site", HOSTILE)

    monkeypatch.setattr(cli, "run_command", fail)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == f"latentbus: edge.site: {printable(HOSTILE)}\n"


def test_answers_as_json_are_json_on_every_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = FleetLog().answer(0, "gate", 1, "car", TEXT, outcome=Outcome.ANSWERED)

    async def answers() -> AsyncIterator[Answer]:
        yield answer

    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    asyncio.run(ask.print_answers(answers(), as_json=True))
    out.flush()

    assert json.loads(written.getvalue())["text"] == TEXT


@pytest.mark.parametrize("text", ["[/red]", "[/]", "a [bold]gate[/bold]", "[link=http://x]y[/link]"])
def test_an_answer_that_looks_like_markup_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for message in (
        FleetLog().answer(0, "gate", 1, "car", text, outcome=Outcome.ANSWERED),
        FleetLog().answer(0, "gate", 1, "car", "yes", outcome=Outcome.DEGRADED, reason=text),
    ):
        SafeConsole(width=200).print(ask.line_of(message), soft_wrap=True)
        assert text in capsys.readouterr().out


def test_log_lines_on_a_terminal_are_printable(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    configure_logging("info", json=False)
    get_logger("peer").info("message dropped", text="\x1bc", problem=HOSTILE)

    assert "message dropped" in err.getvalue()
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(err.getvalue())


@given(text=st.text())
def test_a_printable_text_is_printable_and_says_the_same(text: str) -> None:
    safe = printable(text, keep="")
    assert safe.isprintable()
    assert text.isprintable() == (safe == text)
    safe.encode()


def test_colours_of_a_console_stay_and_those_of_a_text_go() -> None:
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=True, width=80, color_system="standard", highlight=False)
    table = Table("[bold]name[/]")
    table.add_row(escape(HOSTILE))
    console.print(table)
    console.print("[red]" + escape("first\x1b[5m") + "[/]\nsecond")

    assert "\x1b[1m" in out.getvalue()
    assert "\\x1b[5m" in out.getvalue()
    assert "\x1b[5m" not in out.getvalue()
    assert not {"\x07", "\x9b", "\u202e"} & set(out.getvalue())
    assert "\nsecond\n" in out.getvalue()


def test_files_take_every_text(tmp_path: Path) -> None:
    write_text(tmp_path / "a.html", "name \udcff", "--html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == "name \\udcff"
