"""What is read off the processes of an attacked fleet."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator

import pytest
import structlog

from latentbus.attack.fleet import bugs_in
from latentbus.attack.report import MIB
from latentbus.fleet.usage import resident_bytes
from pipeline.config.logs import configure_logging, get_logger
from pipeline.node.containment import Containment


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a process would write to its log."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    configure_logging("info", json=True)
    yield log
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("contained")
def test_a_bug_that_a_process_contains_is_found_in_its_log(written: io.StringIO) -> None:
    containment = Containment(get_logger("worker"))
    get_logger("worker").error("something else", kind="ask/malformed")
    for _ in range(2):
        with containment.around("receive/open"):
            raise ValueError("a bug")
    assert bugs_in(f"a line of a library\n{written.getvalue()}") == ["receive/open/ValueError"]


def test_a_process_that_is_gone_has_no_memory() -> None:
    assert resident_bytes(os.getpid()) > 10 * MIB
    assert resident_bytes(2**22 + 1) == 0
