"""The soak, short: one fault of each kind, and everything has an end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.soak import parsed, soak
from benchmarks.soak_faults import Fault
from benchmarks.soak_outcomes import Ends
from pipeline.node.runtime import Stop


@pytest.mark.timeout(300)
async def test_after_faults_nothing_is_stuck_and_every_question_has_its_end() -> None:
    times = ["--duration", "75", "--settle", "35", "--warm-up", "5", "--faults", "1"]
    fleet = ["--sites", "1", "--cameras", "1", "--workers", "1", "--interval", "1", "--ask-every", "2"]
    arguments = parsed([*times, *fleet])
    report = await soak(arguments, Stop(60.0), Console(quiet=True))
    assert report.faults == dict.fromkeys(Fault, 1)
    assert (report.ended, report.overdue, report.not_drained) == ([], 0, [])
    assert report.ends.asked > 0
    assert (report.ends.unfinished, report.ends.ended_twice, report.ends.unread) == (0, 0, [])
    (at_rest,) = report.at_rest.values()
    assert not at_rest.stuck, at_rest
    assert at_rest.cameras == 2
    assert [problem for problem in report.problems if "drifts" not in problem] == [], "memory is judged by long runs"


def test_ends_are_compared_with_what_was_asked_and_with_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "frames.jsonl"
    lines = [
        {"kind": "frame", "query_ids": ["a", "b", "c"]},
        {"kind": "sent"},
        {"kind": "ended", "query_id": "a"},
        {"kind": "ended", "query_id": "b"},
        {"kind": "ended", "query_id": "b"},
        {"kind": "ended", "query_id": "stored"},
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    ends = Ends.of([path], {"a", "b"})
    assert ends == Ends(asked=3, history=1, unfinished=1, ended_twice=1, unread=["stored"])
