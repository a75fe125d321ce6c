"""Logs of hosts whose clocks differ, brought onto one by the messages that both saw."""

from __future__ import annotations

import asyncio
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analysis.clocks import align
from analysis.inspection import inspect_logs
from analysis.merged import merged
from latentbus.cli import app
from latentbus.replay.options import ReplayOptions
from latentbus.replay.run import replay_verbatim
from pipeline.config.broker_settings import BrokerSettings
from pipeline.node.runtime import Stop
from pipeline.recording.message import LoggedMessage
from pipeline.recording.reader import open_logs
from pipeline.recording.writer import LogWriter
from tests.integration.conftest import PATIENCE_S
from tests.recording.messages import EPOCH_NS
from tests.recording.test_replay import quiet

NS = 1_000_000_000
FRAMES = 17
WITHOUT_BATTERY_NS = 30 * NS
"""Clock of a host half a minute after it was switched on, in 1970."""


def published(clock_ns: int, *, later_ns: int = 0, answered_ns: int = 0) -> list[LoggedMessage]:
    """Frames a second apart and their answers, as a host with this clock saw them.

    Args:
        clock_ns: its clock when the first frame left.
        later_ns: how much later than their sender it saw frames.
        answered_ns: how much later than the broker it saw answers.
    """
    found: list[LoggedMessage] = []
    for number in range(FRAMES):
        time_ns = clock_ns + number * NS
        found.append(LoggedMessage(time_ns + later_ns, "lb/v2/open/main/gate", b"open %d" % number, 1))
        found.append(LoggedMessage(time_ns + NS // 2 + answered_ns, "lb/v2/answer/gate", b"answer %d" % number, 1))
    found.sort(key=lambda message: message.time_ns)
    return [replace(message, sequence=number) for number, message in enumerate(found)]


def stored_latents(clock_ns: int) -> list[LoggedMessage]:
    """What only the edge has: a latent 0.1 s before each frame leaves."""
    return [
        LoggedMessage(clock_ns + number * NS - NS // 10, "$local/latent/gate", b"latent %d" % number)
        for number in range(FRAMES)
    ]


def write(path: Path, messages: list[LoggedMessage], *, at_the_broker: bool = False) -> Path:
    with LogWriter(path, metadata={"latentbus": {"filters": '["#"]'}} if at_the_broker else {}) as log:
        for number, message in enumerate(sorted(messages, key=lambda message: message.time_ns)):
            log.write(replace(message, sequence=number))
    return path


@pytest.fixture
def at_broker(tmp_path: Path) -> Path:
    return write(tmp_path / "run.mcap", published(EPOCH_NS, later_ns=NS // 5), at_the_broker=True)


def edge(folder: Path, clock_ns: int) -> Path:
    """The edge sees its frames at once and the answers 0.1 s after the broker."""
    return write(folder / "site.mcap", published(clock_ns, answered_ns=NS // 10) + stored_latents(clock_ns))


@pytest.mark.parametrize("wrong_ns", [5 * NS, WITHOUT_BATTERY_NS - EPOCH_NS, 400 * 86_400 * NS, -NS])
def test_a_log_of_a_wrong_clock_is_moved_onto_that_of_the_broker(
    at_broker: Path, tmp_path: Path, wrong_ns: int
) -> None:
    with open_logs([edge(tmp_path, EPOCH_NS + wrong_ns), at_broker]) as logs:
        [clock] = align(logs)

        # The frames came 0.2 s later, the answers 0.1 s earlier: what lies between is the clocks'.
        assert abs(clock.shift_ns + wrong_ns) <= NS // 5
        assert (clock.name, clock.reference, clock.shared) == ("site.mcap", "run.mcap", 2 * FRAMES)
        assert (logs.stop_ns - logs.start_ns) / NS < FRAMES + 1
        found = list(merged(logs))
        assert [message.time_ns for message in found] == sorted(message.time_ns for message in found)
        assert len(found) == 3 * FRAMES
        # Each latent comes right before its frame, not years away.
        order = [message.payload for message in found if message.payload.startswith((b"latent", b"open"))]
        assert order == [b"%s %d" % (what, number) for number in range(FRAMES) for what in (b"latent", b"open")]
        middle = logs.start_ns + 8 * NS
        assert all(message.time_ns >= middle for message in logs.messages(start_ns=middle))
        assert inspect_logs(logs).duration_s < FRAMES + 1


def test_the_broker_counts_however_few_its_messages_and_whatever_the_order(tmp_path: Path) -> None:
    few = write(tmp_path / "a.mcap", published(EPOCH_NS)[:8], at_the_broker=True)
    for paths in ([few, edge(tmp_path, WITHOUT_BATTERY_NS)], [tmp_path / "site.mcap", few]):
        with open_logs(paths) as logs:
            [clock] = align(logs)
            assert (clock.reference, clock.shared) == ("a.mcap", 8)
            assert logs.start_ns == pytest.approx(EPOCH_NS, abs=NS)


def test_clocks_that_agree_are_left_alone(at_broker: Path, tmp_path: Path) -> None:
    with open_logs([at_broker, edge(tmp_path, EPOCH_NS)]) as logs:
        [clock] = align(logs)
        assert (clock.shift_ns, clock.shared) == (0, 2 * FRAMES)
        assert "agree, by 34 messages that both saw" in str(clock)


def test_logs_that_share_nothing_or_are_of_two_runs_are_taken_as_they_are(at_broker: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.mcap", [LoggedMessage(5, "lb/v2/answer/yard", b"x")])
    # The same heartbeats in another run: each an hour later than the one before.
    twice = write(
        tmp_path / "twice.mcap",
        [replace(message, time_ns=n * 3_600 * NS) for n, message in enumerate(published(EPOCH_NS))],
    )
    retained = write(
        tmp_path / "retained.mcap", [replace(message, time_ns=7, retain=True) for message in published(EPOCH_NS)]
    )
    for path in (other, twice, retained):
        with open_logs([at_broker, path]) as logs:
            [clock] = align(logs)
            assert (clock.shift_ns, clock.shared) == (0, 0)
            assert "too few of the same messages: its times are taken as they are" in str(clock)
            assert logs.start_ns < EPOCH_NS


def test_files_of_one_recorder_need_no_alignment(tmp_path: Path) -> None:
    first = write(tmp_path / "run.mcap", published(EPOCH_NS))
    second = write(tmp_path / "run.1.mcap", published(EPOCH_NS + 100 * NS))
    with open_logs([first, second]) as logs:
        assert align(logs) == ()


def test_a_file_from_before_the_clock_was_set_is_moved_and_the_next_one_is_not(at_broker: Path, tmp_path: Path) -> None:
    before = [message for message in published(WITHOUT_BATTERY_NS) if message.time_ns < 38 * NS]
    after = [message for message in published(EPOCH_NS) if message.time_ns >= EPOCH_NS + 8 * NS]
    paths = [write(tmp_path / "site.mcap", before), write(tmp_path / "site.1.mcap", after)]
    with open_logs([at_broker, *paths]) as logs:
        moved = {clock.name: clock.shift_ns for clock in align(logs)}
        assert moved["site.mcap"] == pytest.approx(EPOCH_NS - WITHOUT_BATTERY_NS, abs=NS)
        assert abs(moved["site.1.mcap"]) < NS
        assert (logs.stop_ns - logs.start_ns) / NS < FRAMES + 1


def test_inspect_and_compare_say_it(at_broker: Path, tmp_path: Path) -> None:
    site = edge(tmp_path, WITHOUT_BATTERY_NS)
    shown = CliRunner().invoke(app, ["inspect", str(at_broker), str(site)])
    assert shown.exit_code == 0
    assert "the clock of site.mcap was" in shown.output
    compared = CliRunner().invoke(app, ["compare", str(tmp_path), str(at_broker), "--json", str(tmp_path / "out.json")])
    assert compared.exit_code in (0, 1)
    assert "the clock of site.mcap was" in (tmp_path / "out.json").read_text()


@pytest.mark.broker
async def test_a_replay_of_both_plays_all_and_says_which_times_count(
    at_broker: Path, tmp_path: Path, broker_settings: BrokerSettings
) -> None:
    console = quiet()
    options = ReplayOptions((at_broker, edge(tmp_path, WITHOUT_BATTERY_NS)), rate=math.inf, duration_s=60.0)
    report = await asyncio.wait_for(replay_verbatim(options, broker_settings, Stop(), console), PATIENCE_S)

    assert report.count.published == 4 * FRAMES  # both logs, without the latents
    assert report.count.local == FRAMES
    assert isinstance(console.file, io.StringIO)
    assert "the clock of site.mcap was 19,675." in console.file.getvalue()
