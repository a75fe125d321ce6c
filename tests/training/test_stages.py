"""Stages of a long work: done once, done again when what they are made from changes, resumed after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import ConfigError
from training.stages import Stage, StagedWork


class Work:
    """Two stages, of which the second copies the first; counts what is made."""

    def __init__(self, root: Path, *, first: str = "a", second: int = 1) -> None:
        self.made: list[str] = []
        self.root = root
        self.lines: list[str] = []
        stages = [
            Stage("one", "writes a text", {"text": first}, (), self._one, 1.0),
            Stage("two", "copies it", {"times": second}, ("one",), self._two, 2.0),
        ]
        self._text, self._times = first, second
        self.staged = StagedWork(root, stages, self.lines.append)

    def _one(self, folder: Path) -> None:
        self.made.append("one")
        (folder / "text").write_text(self._text)

    def _two(self, folder: Path) -> None:
        self.made.append("two")
        (folder / "nested").mkdir()
        (folder / "nested" / "text").write_text((self.root / "one" / "text").read_text() * self._times)

    def states(self) -> list[str]:
        return [row.state for row in self.staged.plan()]


def test_what_is_done_is_skipped(tmp_path: Path) -> None:
    first = Work(tmp_path)
    assert first.states() == ["to do", "to do"]
    assert [row.hours for row in first.staged.plan()] == [1.0, 2.0]
    assert not any(tmp_path.iterdir()), "a plan writes nothing"
    assert set(first.staged.run()) == {"one", "two"}
    again = Work(tmp_path)
    assert again.states() == ["done", "done"]
    assert again.staged.run() == {}
    assert again.made == []
    assert all("done before" in line for line in again.lines)
    assert (tmp_path / "two/nested/text").read_text() == "a"


@pytest.mark.parametrize(
    ("first", "second", "states"),
    [("b", 1, ["changed", "changed"]), ("a", 2, ["done", "changed"]), ("a", 1, ["done", "done"])],
)
def test_other_settings_do_again_what_hangs_on_them(tmp_path: Path, first: str, second: int, states: list[str]) -> None:
    Work(tmp_path).staged.run()
    other = Work(tmp_path, first=first, second=second)
    assert other.states() == states
    other.staged.run()
    assert other.made == [name for name, state in zip(("one", "two"), states, strict=True) if state != "done"]
    assert (tmp_path / "two/nested/text").read_text() == first * second


def test_a_file_that_has_changed_or_gone_is_made_again(tmp_path: Path) -> None:
    Work(tmp_path).staged.run()
    (tmp_path / "one" / "text").write_text("mended by hand")
    damaged = Work(tmp_path)
    assert damaged.states() == ["changed", "changed"]
    damaged.staged.run()
    assert damaged.made == ["one"], "the same result: what hangs on it stays"
    (tmp_path / "two/nested/text").unlink()
    (tmp_path / "stamps/one.json").write_text("{")
    lost = Work(tmp_path)
    lost.staged.run()
    assert lost.made == ["one", "two"]


def test_a_stage_that_fails_leaves_no_stamp_and_no_rest(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ConfigError("stage", "fails")

    stages = [Stage("one", "", {}, (), fail, 0.1)]
    with pytest.raises(ConfigError, match="fails"):
        StagedWork(tmp_path, stages).run()
    mended = [Stage("one", "", {}, (), lambda folder: (folder / "whole").touch(), 0.1)]
    assert StagedWork(tmp_path, mended).plan()[0].state == "to do"
    StagedWork(tmp_path, mended).run()
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["whole"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from training.stages import Stage, StagedWork

def killed(folder):
    (folder / "half").touch()
    print("begun", flush=True)
    sys.stdin.read()

stages = [
    Stage("one", "", {"text": "a"}, (), lambda folder: (folder / "text").write_text("a") and None, 1.0),
    Stage("two", "", {"times": 1}, ("one",), killed, 2.0),
]
StagedWork(Path(sys.argv[1]), stages).run()
"""


def test_a_killed_run_is_resumed_and_two_at_once_are_refused(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        with pytest.raises(ConfigError, match="another run works"):
            Work(tmp_path).staged.run()
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    after = Work(tmp_path)
    assert after.states() == ["done", "to do"]
    after.staged.run()
    assert after.made == ["two"]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["nested"]
    assert json.loads((tmp_path / "stamps/two.json").read_text())["seconds"] >= 0
