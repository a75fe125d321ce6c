"""Logs and metrics of a process."""

from __future__ import annotations

import json
import logging
import urllib.request
from collections import Counter
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from pipeline.config.logs import MAX_ABOUTS, MAX_KINDS, OncePerKind, configure_logging, get_logger
from pipeline.node.metrics import Metrics
from schemas.errors import CameraNameError, ConfigError, SchemaVersionError


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_log_lines_are_json_with_context(capsys: pytest.CaptureFixture[str], restored_logging: None) -> None:
    configure_logging("info", json=True)
    with structlog.contextvars.bound_contextvars(camera="gate"):
        get_logger("a").info("opened", frame="1-2")
        get_logger("a").debug("not written")
        logging.getLogger("library").warning("from elsewhere")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["opened", "from elsewhere"]
    assert lines[0]["frame"] == "1-2"
    assert all(line["camera"] == "gate" and line["timestamp"].endswith("Z") for line in lines)


def test_a_repeated_error_is_logged_once_then_tenfold_and_counted() -> None:
    with capture_logs() as logs, OncePerKind(structlog.stdlib.get_logger()) as once:
        for _ in range(25):
            once.remote_error("open", SchemaVersionError("open", 9, frozenset({1})))
        once.report("chunk/malformed", "bad", camera="gate")
    assert [(line.get("kind"), line.get("count")) for line in logs[:-1]] == [
        ("open/version", 1),
        ("open/version", 10),
        ("chunk/malformed", 1),
    ]
    assert logs[-1]["counts"] == {"open/version": 25, "chunk/malformed": 1}


def test_each_mistake_of_a_kind_is_logged_once_in_bounded_number() -> None:
    with capture_logs() as logs:
        once = OncePerKind(structlog.stdlib.get_logger())
        for _again in range(3):
            for number in range(MAX_ABOUTS + 5):
                once.remote_error("open", CameraNameError(f"c{number}", "south", "north"))
    total = 3 * (MAX_ABOUTS + 5)
    assert once.counts == {"open/camera": total}
    named = [f"c{number}" for number in range(MAX_ABOUTS) if any(f"'c{number}'" in line["problem"] for line in logs)]
    assert named == [f"c{number}" for number in range(MAX_ABOUTS)]
    assert len(logs) == MAX_ABOUTS, "the tenth one is among the first of their camera"


def test_strangers_cannot_grow_the_table_of_kinds() -> None:
    once = OncePerKind(structlog.stdlib.get_logger())
    with capture_logs() as logs:
        for number in range(3 * MAX_KINDS):
            once.report(f"kind-{number}", "bad")
    assert len(once.counts) == MAX_KINDS + 1
    assert once.counts["other"] == 2 * MAX_KINDS
    assert len(logs) == MAX_KINDS + 3


def test_metrics_are_served_with_live_counters() -> None:
    metrics = Metrics()
    events: Counter[str] = Counter(opened=2)
    metrics.watch_counters("edge_events", "What happened.", "event", lambda: events)
    metrics.watch_gauge("unfinished", "Queries without outcome.", lambda: 5.0)
    metrics.counter("questions", "Questions.", ["camera"]).labels("gate").inc()
    metrics.seconds("answer", "Time to answer.").observe(0.3)
    metrics.ready.set(1)
    with metrics.serve(0, "127.0.0.1") as port:
        events["opened"] += 1
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            text = response.read().decode()
        with pytest.raises(ConfigError, match="cannot listen"), metrics.serve(port, "127.0.0.1"):
            pass
    for line in (
        'latentbus_edge_events_total{event="opened"} 3.0',
        "latentbus_unfinished 5.0",
        'latentbus_questions_total{camera="gate"} 1.0',
        'latentbus_answer_bucket{le="0.5"} 1.0',
        "latentbus_ready 1.0",
    ):
        assert line in text


def test_no_port_serves_nothing() -> None:
    with Metrics().serve(None) as port:
        assert port is None
