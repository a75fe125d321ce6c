"""Two logs compared: what changed, what it cost, and the exit status for CI."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analysis.compare.compared_log import ComparedLog
from analysis.compare.comparison import Comparison, compare_logs
from analysis.compare.matching import MatchedBy
from analysis.redact.redaction import Redaction, redactor
from analysis.traffic import read_traffic
from latentbus.cli import app
from latentbus.logs.compare_report import MAX_CHANGES, render_report
from pipeline.recording.message import LoggedMessage
from pipeline.recording.writer import LogWriter
from schemas.errors import ConfigError, RecordingError
from schemas.types import FrameId, Outcome
from tests.recording.fleet_log import BOOT, FleetLog, demo_log

NEW_BOOT = 0x00000099
MAPS = {
    "source": "run.mcap",
    "rate": "10",
    "boots": json.dumps({f"{BOOT:08x}": f"{NEW_BOOT:08x}"}),
    "query_ids": json.dumps({"yard/@phone/ask-7f": "yard/@phone/ask-7f-r1"}),
    "cameras": json.dumps({"gate": "gate2"}),
}


def compared(
    messages: list[LoggedMessage], name: str, metadata: Mapping[str, Mapping[str, str]] | None = None
) -> ComparedLog:
    return ComparedLog(name, read_traffic(messages), metadata or {})


def comparison(a: FleetLog, b: FleetLog) -> Comparison:
    return compare_logs(compared(a.sorted(), "a"), compared(b.sorted(), "b"))


def replayed_log(*, count: str = "three") -> FleetLog:
    """The demo log as a replay writes it: another boot, another camera, another id of the ad-hoc question."""
    log = FleetLog(NEW_BOOT)
    log.question("car", "Is there a red car?")
    log.open(0.1, "gate2", 1, "car", "count")
    log.answer(0.11, "gate2", 1, "car", "yes", score=0.97)
    log.refine(0.12, "gate2", 1)
    log.answer(0.13, "gate2", 1, "count", count, score=0.8, latents=24)
    log.open(0.2, "yard", 1, "ask-7f-r1", ad_hoc=True)
    log.answer(0.3, "yard", 1, "ask-7f-r1", "nobody at all", ad_hoc=True, latents=24)
    log.open(0.4, "gate2", 2, "car")
    log.outcome(1.2, "gate2", 2, "car", Outcome.EXPIRED)
    return log


def test_a_log_does_not_differ_from_itself() -> None:
    result = comparison(demo_log(), demo_log())
    assert (result.matched_by, result.compared, result.changed, result.changed_share) == (MatchedBy.QUERY_ID, 4, 0, 0.0)
    assert (result.answers_differ, result.outcomes_differ, result.latents_differ) == (0, 0, 0)
    assert result.matrix == {"answered": {"answered": 3}, "expired": {"expired": 1}}
    assert result.notes == ()
    assert result.a == replace(result.b, name="a")


def test_another_answer_is_found_in_its_groups() -> None:
    other = demo_log()
    other.messages = [
        replace(message, payload=message.payload.replace(b'"three"', b'"seven"')) for message in other.messages
    ]
    result = comparison(demo_log(), other)
    (change,) = result.changes
    assert (change.camera, change.question, change.answer_type) == ("gate", "How many people wait?", "count")
    assert (change.text_a, change.text_b, change.outcome_a, change.outcome_b) == (
        "three",
        "seven",
        "answered",
        "answered",
    )
    assert (result.answers_differ, result.outcomes_differ, result.changed_share) == (1, 0, 0.25)
    changed = {
        name: share.changed
        for groups in (result.by_type, result.by_camera, result.by_confidence)
        for name, share in groups.items()
    }
    assert changed == {
        "count": 1, "yes_no": 0, "gate": 1, "yard": 0, "0.8 to 0.9": 1, "0.9 to 0.95": 0, "0.95 to 0.99": 0,
        "no score": 0,
    }  # fmt: skip


def test_another_outcome_is_a_change_and_stands_in_the_matrix() -> None:
    before = demo_log()
    after = FleetLog()
    after.messages = before.messages[:-1]
    after.answer(9.0, "gate", 2, "car", "no", outcome=Outcome.DEGRADED, reason="deadline")
    result = comparison(before, after)
    assert (result.answers_differ, result.outcomes_differ) == (0, 1)
    assert result.matrix["expired"] == {"degraded": 1}
    assert result.changes[0].reason_b == "deadline"


def test_the_same_answer_from_more_latents_is_no_change_and_counted() -> None:
    after = demo_log()
    after.messages = [
        replace(message, payload=message.payload.replace(b'"latents":24', b'"latents":64'))
        for message in after.messages
    ]
    result = comparison(demo_log(), after)
    assert (result.changed, result.latents_differ) == (0, 2)


def test_a_query_that_the_second_log_lacks_counts_as_changed() -> None:
    before, after = demo_log(), demo_log()
    after.messages = [message for message in after.messages if "yard" not in message.topic]
    result = comparison(before, after)
    assert (result.compared, result.only_a, result.changed, result.changed_share) == (3, 1, 1, 0.25)
    assert comparison(after, before).changed == 0
    assert comparison(after, before).only_b == 1


def test_a_query_without_outcome_in_the_first_log_is_not_compared_but_in_the_second_it_is() -> None:
    before, after = demo_log(), demo_log()
    before.messages = before.messages[:-1]
    assert (comparison(before, after).undecided_a, comparison(before, after).compared) == (1, 3)
    result = comparison(after, before)
    assert [(change.outcome_a, change.outcome_b) for change in result.changes] == [("expired", "undecided")]


def test_a_replay_is_read_through_its_names() -> None:
    result = compare_logs(
        compared(demo_log().sorted(), "run"), compared(replayed_log().sorted(), "again", {"replay": MAPS})
    )
    assert (result.matched_by, result.compared, result.changed, result.only_a) == (MatchedBy.REPLAY, 4, 0, 0)
    assert any("at 10 times speed" in note for note in result.notes)
    assert result.b.rate == 10


def test_two_replays_of_one_log_are_compared_with_each_other() -> None:
    again, changed = (compared(replayed_log(count=text).sorted(), text, {"replay": MAPS}) for text in ("three", "four"))
    other = demo_log(boot=0x55)
    maps = {"rate": "fast", "boots": json.dumps({f"{BOOT:08x}": "00000055"})}
    result = compare_logs(again, compared(other.sorted(), "other", {"replay": maps}))
    assert (result.matched_by, result.compared, result.changed) == (MatchedBy.REPLAY, 4, 0)
    assert result.b.rate is None
    assert compare_logs(again, changed).changed == 1


def test_two_runs_without_common_ids_are_compared_by_place() -> None:
    other = demo_log(boot=0x55)
    other.messages = [
        replace(message, payload=message.payload.replace(b"ask-7f", b"ask-99")) for message in other.messages
    ]
    result = comparison(demo_log(), other)
    assert (result.matched_by, result.compared, result.changed) == (MatchedBy.PLACE, 4, 0)
    assert any("No query id is in both logs" in note for note in result.notes)


def test_other_fingerprints_are_said() -> None:
    result = comparison(demo_log(), demo_log(fingerprint=b"\x00\x01\x02\x03"))
    assert result.notes == ("Other codec fingerprints: c0ffee01 in a, 00010203 in b.",)


def test_damage_gaps_and_foreign_messages_are_said() -> None:
    log = demo_log()
    log.put(3.0, "home/kitchen", b"21.5")
    worn = replace(compared(log.sorted(), "worn"), complete=False, missing_messages=7)
    notes = compare_logs(worn, compared(demo_log().sorted(), "b")).notes
    for part, note in zip(("not closed well", "lacks 7 messages", "holds 1 message "), notes, strict=True):
        assert part in note


def test_redacted_texts_are_not_compared_and_outcomes_are() -> None:
    redacted = list(map(redactor([Redaction.TEXT]), demo_log().sorted()))
    metadata = {"latentbus": {"redaction": "text"}}
    result = compare_logs(compared(demo_log().sorted(), "a"), compared(redacted, "b", metadata))
    assert (result.compared, result.changed) == (4, 0)
    assert any("redacted" in note for note in result.notes)


def test_bytes_and_times_are_of_the_queries_that_both_have() -> None:
    before, after = demo_log(), demo_log()
    after.open(3.0, "yard", 9, "car")
    after.answer(8.0, "yard", 9, "car", "no")
    result = comparison(before, after)
    assert (result.a.uplink_bytes, result.a.frames) == (result.b.uplink_bytes, result.b.frames)
    assert result.a.uplink_bytes == sum(frame.wire_bytes for frame in read_traffic(before.messages).frames.values())
    assert result.a.final_ms.p50 == pytest.approx(300)
    assert result.a.refined == 2
    assert len(result.latency_ms) == 3
    assert result.b.queries == 5


def test_a_damaged_replay_record_names_the_log() -> None:
    for maps in ({"boots": "[]"}, {"boots": '{"a": 1}'}, {"rate": "quick"}, {"boots": '{"zz": "1"}'}, {"cameras": "{"}):
        with pytest.raises(RecordingError, match="again"):
            compare_logs(compared([], "run"), compared([], "again", {"replay": maps}))


class PageReader(HTMLParser):
    """Checks that tags are closed, and collects what a browser would fetch or run."""

    VOID = frozenset({"meta", "br", "path", "use"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(page: str) -> PageReader:
    reader = PageReader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def many_changes(count: int) -> tuple[FleetLog, FleetLog]:
    logs = FleetLog(), FleetLog()
    for log, text in zip(logs, ("<b>yes</b>", "no & never"), strict=True):
        log.question("car", "Is there a <script>car</script>?")
        for sequence in range(count):
            log.open(sequence, f"cam{sequence % 30}", sequence, "car")
            log.answer(sequence + 0.2, f"cam{sequence % 30}", sequence, "car", text)
    return logs


def test_the_page_stands_alone_and_shows_what_changed() -> None:
    result = comparison(*many_changes(MAX_CHANGES + 3))
    page = render_report(result, limit=0.01)
    reader = read_page(page)
    assert "script" not in reader.tags
    assert all(reference.startswith("#") for reference in reader.references)
    assert not re.search(r"https?://(?!www\.w3\.org)|url\((?!#)|@import", page)
    assert "503 of 503 queries changed (100.0 %)" in reader.text
    assert "Over the limit of 1.0 %" in reader.text
    assert "<b>yes</b>" in reader.text
    assert "no & never" in reader.text
    assert "Is there a <script>car</script>?" in reader.text
    assert "and 3 more" in reader.text
    assert page.count("<svg") == 4
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    # Colours are variables of the page, so that a dark page and paper show them well.
    assert not re.search(r"(fill|stroke): #", page)


def test_a_page_of_nothing_says_so() -> None:
    reader = read_page(render_report(comparison(FleetLog(), FleetLog()), limit=0.0))
    assert "nothing was compared" in reader.text
    assert "0 of 0 queries changed (0.0 %)" in reader.text
    assert "Over the limit" in reader.text
    assert "svg" not in reader.tags


def write(path: Path, messages: list[LoggedMessage]) -> Path:
    with LogWriter(path) as writer:
        for message in messages:
            writer.write(message)
    return path


@pytest.fixture
def logs(tmp_path: Path) -> tuple[Path, Path]:
    changed = [
        replace(message, payload=message.payload.replace(b'"three"', b'"seven"')) for message in demo_log().sorted()
    ]
    return write(tmp_path / "a.mcap", demo_log().sorted()), write(tmp_path / "b.mcap", changed)


@pytest.mark.parametrize(("limit", "status"), [("0%", 1), ("24.9%", 1), ("25%", 0), ("100 %", 0)])
def test_the_exit_status_follows_the_limit(logs: tuple[Path, Path], limit: str, status: int) -> None:
    result = CliRunner().invoke(app, ["compare", *map(str, logs), "--fail-over", limit])
    assert result.exit_code == status
    assert "1 of 4 queries changed (25.0 %)" in result.output


def test_the_same_log_passes_without_any_option(logs: tuple[Path, Path]) -> None:
    result = CliRunner().invoke(app, ["compare", str(logs[0]), str(logs[0])])
    assert (result.exit_code, "0 of 4 queries changed" in result.output) == (0, True)


def test_nothing_to_compare_never_passes(tmp_path: Path, logs: tuple[Path, Path]) -> None:
    empty = write(tmp_path / "empty.mcap", [])
    result = CliRunner().invoke(app, ["compare", str(logs[0]), str(empty), "--fail-over", "100%"])
    assert result.exit_code == 1


def test_files_are_written_and_their_figures_agree(tmp_path: Path, logs: tuple[Path, Path]) -> None:
    page, figures = tmp_path / "report.html", tmp_path / "cmp.json"
    result = CliRunner().invoke(app, ["compare", *map(str, logs), "--html", str(page), "--json", str(figures)])
    assert result.exit_code == 1
    values = json.loads(figures.read_text())
    assert (values["compared"], values["changed"], values["changed_share"]) == (4, 1, 0.25)
    assert values["changes"][0]["text_b"] == "seven"
    assert values["by_camera"]["gate"] == {"compared": 3, "changed": 1, "share": pytest.approx(1 / 3)}
    assert "1 of 4 queries changed" in read_page(page.read_text()).text


def test_a_folder_is_one_log(tmp_path: Path, logs: tuple[Path, Path]) -> None:
    messages = demo_log().sorted()
    folder = tmp_path / "rotated"
    folder.mkdir()
    write(folder / "run.mcap", messages[:6])
    write(folder / "run.1.mcap", messages[6:])
    result = CliRunner().invoke(app, ["compare", str(logs[0]), str(folder)])
    assert (result.exit_code, "0 of 4 queries changed" in result.output) == (0, True)


@pytest.mark.parametrize(
    "arguments",
    [["--fail-over", "1"], ["--fail-over", "101%"], ["--fail-over", "-1%"], ["--json", "/no/such/folder/x.json"]],
)
def test_wrong_usage_names_the_option(logs: tuple[Path, Path], arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["compare", *map(str, logs), *arguments])
    assert isinstance(result.exception, ConfigError)
    assert result.exception.where == arguments[0]


def test_an_empty_folder_is_no_log(tmp_path: Path, logs: tuple[Path, Path]) -> None:
    (tmp_path / "none").mkdir()
    result = CliRunner().invoke(app, ["compare", str(logs[0]), str(tmp_path / "none")])
    assert isinstance(result.exception, ConfigError)


def test_frames_of_a_camera_keep_their_ids() -> None:
    # The matrix and the changes are about queries of the first log, under its names.
    result = compare_logs(
        compared(demo_log().sorted(), "run"),
        compared(replayed_log(count="four").sorted(), "again", {"replay": MAPS}),
    )
    assert [change.query_id for change in result.changes] == [f"gate/{FrameId(BOOT, 1)}/count"]
