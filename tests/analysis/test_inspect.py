"""``latentbus inspect``: the figures of a log, as tables and as JSON, whole or cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from analysis.inspection import Inspection, inspect_logs
from latentbus.cli import app
from latentbus.logs.inspect_view import print_inspection
from latentbus.options.quantities import parse_bytes, parse_seconds
from pipeline.recording.message import Gap, LoggedMessage
from pipeline.recording.reader import LogReader, open_logs
from pipeline.recording.writer import LogWriter
from schemas.errors import RecordingError
from tests.recording.fleet_log import FINGERPRINT, START_NS, FleetLog
from tests.recording.messages import numbered, write_log

runner = CliRunner()


def a_day_at_the_gate() -> FleetLog:
    """Two frames of one camera, one of another; one query is never decided."""
    log = FleetLog()
    log.edge("north", "gate", "yard")
    log.worker("w1")
    log.question("car", "Is there a [red] car?")
    log.open(1.0, "gate", 0, "car")
    log.answer(1.5, "gate", 0, "car", "yes")
    log.open(2.0, "gate", 1, "car")
    log.answer(2.7, "gate", 1, "car", "no")
    log.open(3.0, "yard", 0, "car")
    log.put(3.5, "foreign/topic", b"hello")
    return log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "run.mcap"
    metadata = {"latentbus": {"filters": '["lb/v2/#"]'}, "fingerprints": {"worker/w1": FINGERPRINT.hex()}}
    with LogWriter(file, metadata=metadata) as writer:
        for message in a_day_at_the_gate().sorted():
            writer.write(message)
        writer.write_gap(Gap(START_NS + 4 * 10**9, 9, 12, "more came than could be written"))
        writer.attach("codec.json", "application/json", b"{}")
    return file


def _inspect(*paths: Path) -> Inspection:
    with open_logs(paths) as logs:
        return inspect_logs(logs)


def test_figures_are_those_of_the_log(path: Path) -> None:
    found = _inspect(path)

    assert found.complete
    assert found.messages == 9
    assert found.duration_s == 3.5
    assert found.messages_per_s == pytest.approx(9 / 3.5, abs=0.001)
    assert found.busiest_messages_per_s == 3
    assert found.outcomes == {"answered": 2, "open": 1}
    gate, yard = found.cameras["gate"], found.cameras["yard"]
    assert (gate.frames, gate.queries, gate.outcomes) == (2, 2, {"answered": 2})
    assert (yard.frames, yard.queries, yard.outcomes) == (1, 1, {"open": 1})
    assert gate.uplink_bytes > gate.latent_bytes > 0
    assert gate.uplink_kbps == pytest.approx(gate.uplink_bytes * 8 / 1000 / 3.5, abs=0.001)
    car = found.questions["car"]
    assert (car.text, car.answer_type, car.queries) == ("Is there a [red] car?", "yes_no", 3)
    assert car.answers == {"yes": 1, "no": 1}
    assert car.median_latency_ms == 700.0
    assert (found.dropped, len(found.gaps)) == (12, 1)
    assert FINGERPRINT.hex() in found.fingerprints
    assert found.processes == {"edge/north": "", "worker/w1": FINGERPRINT.hex()}
    assert found.undecodable == {"foreign/topic": 1}
    [file] = found.files
    assert (file.attachments, file.filters, file.redaction) == ({"codec.json": 2}, '["lb/v2/#"]', "")


def test_json_has_every_figure(path: Path) -> None:
    result = runner.invoke(app, ["inspect", str(path), "--json"])

    assert result.exit_code == 0
    figures = json.loads(result.stdout)
    assert figures["complete"]
    assert figures["cameras"]["gate"]["outcomes"] == {"answered": 2}
    assert figures["gaps"] == [
        {"time_ns": START_NS + 4 * 10**9, "first_sequence": 9, "count": 12, "reason": "more came than could be written"}
    ]
    assert figures["metadata"]["fingerprints"] == {"worker/w1": FINGERPRINT.hex()}


def _shown(inspection: Inspection) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_inspection(inspection, console)
    console.file.close()
    return console.export_text()


def test_tables_show_it_to_a_person(path: Path) -> None:
    text = _shown(_inspect(path))

    for part in ("Is there a [red] car?", "gate", "yard", "answered 2", "12 messages", FINGERPRINT.hex(), "codec.json"):
        assert part in text
    assert "incomplete" not in text


def test_a_cut_log_is_shown_as_far_as_it_goes_with_the_way_out(path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(path.read_bytes()[:-100])

    found = _inspect(cut)
    text = " ".join(_shown(found).split())

    assert not found.complete
    assert found.messages == 9
    assert "incomplete" in text
    assert f"latentbus recover {cut} -o FILE" in text


def test_damage_in_a_closed_log_names_the_way_out(tmp_path: Path) -> None:
    path = write_log(tmp_path / "a.mcap", numbered(100, size_bytes=400))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 255
    path.write_bytes(data)

    with pytest.raises(RecordingError, match="latentbus recover"):
        _inspect(path)


def test_a_damaged_closed_log_is_shown_with_what_is_gone(tmp_path: Path) -> None:
    path = write_log(tmp_path / "a.mcap", numbered(3_000, size_bytes=40))
    with LogReader(path) as reader:
        place = reader.index.chunks[1].head
    data = bytearray(path.read_bytes())
    data[place.offset + place.length // 2] ^= 255
    path.write_bytes(data)

    result = runner.invoke(app, ["inspect", str(path), "--json"])
    shown = " ".join(runner.invoke(app, ["inspect", str(path)]).stdout.split())

    figures = json.loads(result.stdout)
    assert figures["messages"] == 2_000
    assert "with 1,000 messages at byte" in figures["files"][0]["damages"][0]
    assert "with 1,000 messages at byte" in shown
    assert f"{path} is damaged" in shown


def test_a_log_of_anything_else_and_an_empty_one_have_figures_too(tmp_path: Path) -> None:
    other = write_log(tmp_path / "other.mcap", [LoggedMessage(START_NS, "home/door", b"open")])
    empty = write_log(tmp_path / "empty.mcap", [])

    assert _inspect(other).topics == {"home/door": 1}
    nothing = _inspect(empty)
    assert (nothing.messages, nothing.start, nothing.messages_per_s) == (0, None, 0.0)
    assert "0, 0 bytes of payload" in _shown(nothing)


@pytest.mark.parametrize(
    ("text", "size"), [("512MB", 512_000_000), ("1GiB", 1 << 30), ("1.5 kB", 1_500), ("100000", 100_000), ("7b", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15min", 900), ("1h", 3600), ("2d", 172_800), ("0.5", 0.5)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1s", "1 parsec", "0", "1e3s", "nan"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="write 90s"):
        parse_seconds(text)
