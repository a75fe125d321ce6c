"""Shell completion is typer's own, and knows the commands and options."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("words", "offered"),
    [("latentbus wa", "watch"), ("latentbus watch --ow", "--owner"), ("latentbus ask gate x --type ye", "yes_no")],
)
def test_the_shell_is_told_what_fits(words: str, offered: str) -> None:
    environment = {
        **os.environ,
        "_LATENTBUS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    program = "import sys; sys.argv = ['latentbus']; from latentbus.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert offered in done.stdout.split(), done.stderr


def test_the_script_for_a_shell_is_shown() -> None:
    program = (
        "import sys; sys.argv = ['latentbus', '--show-completion', 'bash']; from latentbus.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "_LATENTBUS_COMPLETE=complete_bash" in done.stdout
