"""docs/own-model.md does what it says: its commands run one after the other, on a tiny model."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.scenes.video import write_clip
from tests.tiny_models import write_tiny_model
from tests.training.codec.calibrate.picture_files import write_pictures

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "own-model.md").read_text(encoding="utf-8")
COMMANDS = [line.removeprefix("$ ") for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
            for line in block.splitlines()]  # fmt: skip
SHORTER = {
    "latentbus demo --models my-models --duration 60": "--duration 4 --no-compare --workers 1 --json demo.json "
    "--video gate.mp4 --question 'What do you see?'",
    "latentbus codec train --vlm my-vlm --images photos --output my-trained-models": "--steps 4 --batch 8 "
    "--evaluate-every 2 --decoder-width 16 --decoder-layers 1",
}
"""What a test adds to a command, so that it takes seconds."""


@pytest.mark.timeout(900)
def test_the_commands_of_the_page_run_in_order(tmp_path: Path) -> None:
    assert [shlex.split(command)[1] for command in COMMANDS] == ["codec", "demo", "codec", "validate", "validate"]
    write_tiny_model("llava", tmp_path / "my-vlm")
    write_pictures(tmp_path / "photos", 115)
    write_clip(tmp_path / "gate.mp4", seed=1, duration_s=3.0, fps=5.0, questions={}, camera="gate")
    for name, content in re.findall(r"`(\w+\.yaml)`:\n\n```yaml\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(content)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = {}
    for command in COMMANDS:
        words = [*shlex.split(command)[1:], *shlex.split(SHORTER.get(command, ""))]
        done = subprocess.run(
            [sys.executable, "-m", "latentbus", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode in ((0, 1) if words[0] == "demo" else (0,)), done.stderr[-3_000:]
        said[words[0]] = done.stdout
        assert words[0] != "codec" or "| nothing: empty prefix | 0 | 0 |" in done.stdout
    assert "## Beside the closed form at the same bytes" in said["codec"]
    assert (tmp_path / "my-trained-models" / "codec" / "encoder.onnx").exists()
    figures = json.loads((tmp_path / "demo.json").read_text())
    assert figures["questions"] >= 2
    assert figures["answered"] + figures["degraded"] + figures["failed"] == figures["questions"]
    assert figures["answered"] > 0


def test_sizes_of_the_page_are_those_of_the_code() -> None:
    from training.codec.calibrate.sets import CLOSED_FORM, fewest_of
    from training.codec.stop.learn_then_test import Promise

    assert f"| train | the transform | {CLOSED_FORM.fewest['train']} |" in PAGE
    assert f"| report | what to expect; nothing else is made from it | {CLOSED_FORM.fewest['report']} |" in PAGE
    from training.codec.train.plan import LEARNED
    from training.codec.train.questions import GENERAL

    totals = [sum(fewest_of(Promise(risk)).values()) for risk in (0.05, 0.1, 0.02)]
    assert totals == [103, 73, 193]
    assert f"a risk of 5 % takes {sum(fewest_of(Promise(0.05), LEARNED).values())} pictures in all" in PAGE
    assert f"(at most {sum(LEARNED.most.values()):,})" in PAGE
    assert f"it is asked {len(GENERAL)} general questions" in " ".join(PAGE.split())
    assert "59 pictures of the calibration and 103 in all; 10 % takes\n73, 2 % takes 193" in PAGE
