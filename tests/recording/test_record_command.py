"""``latentbus record`` as a process beside a real broker: what it writes, what a kill costs, and whom it disturbs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analysis.recover import recover
from broker_config.launcher import LocalBroker
from latentbus.cli import app
from pipeline.bus.base import MqttProperties, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.recording.reader import LogReader, open_logs
from schemas import topics, wire
from schemas.errors import ConfigError, RecordingError
from schemas.messages import Question, Status
from tests.bus.support import Relay, connected, take
from tests.recording.messages import numbered, write_log

pytestmark = pytest.mark.broker

PATIENCE_S = 30.0
MOST_LOST_S = 0.5
"""What a crash may cost."""
runner = CliRunner()


RUN = "from latentbus.cli import main; main()"


class Recording:
    """A recorder in a process of its own."""

    def __init__(self, broker: BrokerSettings, path: Path, *options: str, run: str = RUN) -> None:
        command = [sys.executable, "-c", run, "record", str(path), "--port", str(broker.port), *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    async def ready(self, broker: BrokerSettings) -> None:
        """Wait until messages arrive: the status of a named recorder says so to everybody."""
        status = Subscription(topics.status_topic("recorder", "box"), 1)
        async with MqttBus(broker, client_id="waits", subscriptions=[status]) as bus, asyncio.timeout(PATIENCE_S):
            birth = asyncio.create_task(take(bus, 1))
            ended = asyncio.create_task(asyncio.to_thread(self.process.wait))
            try:
                await asyncio.wait({birth, ended}, return_when=asyncio.FIRST_COMPLETED)
                assert birth.done(), "the recorder ended before it recorded"
                assert json.loads(birth.result()[0].payload)["online"]
            finally:
                birth.cancel()
                ended.cancel()

    async def end(self, number: signal.Signals) -> str:
        self.process.send_signal(number)
        _, said = await asyncio.to_thread(self.process.communicate, timeout=PATIENCE_S)
        return said


@contextlib.asynccontextmanager
async def recording(
    broker: BrokerSettings, path: Path, *options: str, run: str = RUN, through: BrokerSettings | None = None
) -> AsyncIterator[Recording]:
    """A recorder that is connected, directly or through a relay."""
    running = Recording(through or broker, path, "--name", "box", *options, run=run)
    try:
        await running.ready(broker)
        yield running
    finally:
        running.process.kill()  # harmless when it has ended
        running.process.wait()
        assert running.process.stderr is not None
        running.process.stderr.close()


async def test_every_circumstance_of_a_message_is_in_the_log(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    attached = tmp_path / "site.yaml"
    attached.write_text(
        "broker: {username: me, password: hunter2}\nedge:\n  site: north\n  questions: {q: {text: 'a car?'}}\n"
        "  cameras: {gate: {source: 'rtsp://me:secret@cam/1', questions: [q]}}\n"
    )
    question = Question(site="north", question_id="car", text="Is there a car?")
    async with (
        connected(broker_settings, "writer") as bus,
        recording(broker_settings, path, "--topic", "#", "--attach", str(attached)) as recorder,
    ):
        await bus.publish(topics.question_topic("north", "car"), wire.encode(question), qos=1, retain=True)
        await bus.publish(
            "home/door", b"open", qos=1, content_type="text/plain", user_properties=[("by", "wind")], payload_format=1
        )
        said = await recorder.end(signal.SIGTERM)

    assert recorder.process.returncode == 0
    assert "messages" in said
    assert "0 dropped" in said
    with LogReader(path) as reader:
        assert reader.complete
        found = {message.topic: message for message in reader.messages()}
        asked, door = found[topics.question_topic("north", "car")], found["home/door"]
        assert (asked.payload, asked.qos, asked.retain, asked.properties) == (wire.encode(question), 1, True, None)
        assert (door.payload, door.retain) == (b"open", False)
        assert door.properties == MqttProperties(payload_format=1, content_type="text/plain", user=(("by", "wind"),))
        assert abs(door.time_ns - time.time_ns()) < 60e9
        assert json.loads(reader.metadata()["latentbus"]["filters"]) == ["#"]
        settings = reader.attachments()["site.yaml"]
        assert b"cam/1" in settings
        assert b"secret" not in settings
        assert b"hunter2" not in path.read_bytes()


async def test_the_recorder_says_that_it_is_there_and_that_it_goes(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    topic = topics.status_topic("recorder", "box")
    async with (
        recording(broker_settings, tmp_path / "run.mcap") as recorder,
        connected(broker_settings, "watcher", topic) as bus,
    ):
        [birth] = await take(bus, 1)
        await recorder.end(signal.SIGINT)
        [goodbye] = await take(bus, 1)

    statuses = [wire.decode(topics.parse(topic).family, inbound.payload) for inbound in (birth, goodbye)]
    assert [status.online for status in statuses if isinstance(status, Status)] == [True, False]


async def test_a_passing_guest_publishes_nothing(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    async with connected(broker_settings, "watcher", "#") as bus:
        guest = Recording(broker_settings, path, "--duration", "0.2s")
        await asyncio.to_thread(guest.process.communicate, timeout=PATIENCE_S)
        assert guest.process.returncode == 0
        await bus.publish("mark", b"")
        assert [inbound.topic for inbound in await take(bus, 1)] == ["mark"]


async def _publish_numbers(bus: MqttBus, sent: list[tuple[int, float]], stop: asyncio.Event) -> None:
    while not stop.is_set():
        number = len(sent)
        await bus.publish("lb/v2/answer/gate", b"%d" % number, qos=1)
        sent.append((number, time.monotonic()))


async def test_a_kill_costs_half_a_second_at_most(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    sent: list[tuple[int, float]] = []
    stop = asyncio.Event()
    async with (
        connected(broker_settings, "writer") as bus,
        recording(broker_settings, path) as recorder,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(_publish_numbers(bus, sent, stop))
        await asyncio.sleep(1.5)  # so long must something come to see a whole flush period go by
        recorder.process.kill()
        killed_s = time.monotonic()
        stop.set()
        await asyncio.to_thread(recorder.process.communicate, timeout=PATIENCE_S)

    with LogReader(path) as reader:
        assert not reader.complete
        kept = [int(message.payload) for message in reader.messages() if message.topic == "lb/v2/answer/gate"]
    assert kept == list(range(len(kept)))
    must = [number for number, sent_s in sent if sent_s < killed_s - MOST_LOST_S]
    assert len(must) > 50
    assert kept[-1] >= must[-1]
    recovery = recover(path, tmp_path / "whole.mcap")
    assert recovery.missing == 0
    assert recovery.messages >= len(kept)


async def test_a_short_disconnection_loses_nothing_of_qos_1(
    broker: LocalBroker, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    path = tmp_path / "run.mcap"
    async with (
        Relay(broker) as relay,
        connected(broker_settings, "writer") as bus,
        recording(broker_settings, path, through=relay.settings) as recorder,
    ):
        await bus.publish("lb/v2/answer/gate", b"0", qos=1)
        relay.cut()
        for number in range(1, 50):
            await bus.publish("lb/v2/answer/gate", b"%d" % number, qos=1)
        async with connected(broker_settings, "watcher", topics.status_topic("recorder", "box")) as watcher:
            # Its will, and then its word that it is there again.
            async with asyncio.timeout(PATIENCE_S):
                while not json.loads((await take(watcher, 1))[0].payload)["online"]:
                    pass
        await bus.publish("lb/v2/answer/gate", b"50", qos=1)
        await recorder.end(signal.SIGINT)

    with LogReader(path) as reader:
        kept = [int(message.payload) for message in reader.messages() if message.topic == "lb/v2/answer/gate"]
        [gap] = reader.gaps()
    assert sorted(set(kept)) == list(range(51))
    assert gap.count == 0
    assert "the broker kept what is QoS 1" in gap.reason


async def test_a_recorder_hides_reason_16_and_nothing_else_of_the_broker_changes(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    # That an edge does the same with and without reason 16 is shown where the edge is tested, on its own clock:
    # test_reason_16_changes_nothing_because_a_recorder_hides_it.
    opening = topics.open_topic("main", "gate")
    async with connected(broker_settings, "edge") as edge:
        alone = await edge.publish(opening, b"frame", qos=1)
        async with recording(broker_settings, tmp_path / "run.mcap"):
            watched = await edge.publish(opening, b"frame", qos=1)
            async with connected(broker_settings, "worker") as worker:
                await worker.subscribe(Subscription(topics.share_filter("main"), 1))
                for number in range(4):
                    await edge.publish(opening, b"%d" % number, qos=1)
                got = await take(worker, 4)

    assert (alone.no_subscribers, watched.no_subscribers) == (True, False)
    # The share group still deals every message to its worker: the recorder is no member of it.
    assert [inbound.payload for inbound in got] == [b"0", b"1", b"2", b"3"]


async def test_redaction_happens_before_anything_is_on_the_disk(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    path = tmp_path / "run.mcap"
    question = Question(site="north", question_id="car", text="Is there a purple car?")
    async with (
        connected(broker_settings, "writer") as bus,
        recording(broker_settings, path, "--redact", "text", "--compression", "none") as recorder,
    ):
        await bus.publish(topics.question_topic("north", "car"), wire.encode(question), qos=1, retain=True)
        await recorder.end(signal.SIGINT)

    assert b"purple" not in path.read_bytes()
    with LogReader(path) as reader:
        assert reader.metadata()["latentbus"]["redaction"] == "text"
        assert topics.question_topic("north", "car") in reader.topics()


async def test_rotation_gives_files_that_are_one_log(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    async with (
        connected(broker_settings, "writer") as bus,
        recording(broker_settings, path, "--max-size", "20kB", "--compression", "none") as recorder,
    ):
        sent = 0
        async with asyncio.timeout(PATIENCE_S):
            while not (tmp_path / "run.2.mcap").exists():
                await bus.publish("lb/v2/answer/gate", b"%d" % sent + b" " * 2_000, qos=1)
                sent += 1
        await recorder.end(signal.SIGINT)

    with open_logs([tmp_path]) as logs:
        assert logs.complete
        kept = [int(message.payload) for message in logs.messages() if message.topic == "lb/v2/answer/gate"]
    assert kept == list(range(sent))


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "latentbus", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_path_that_cannot_be_written_is_said_before_the_broker_is_asked(tmp_path: Path) -> None:
    taken = tmp_path / "run.mcap"
    taken.write_bytes(b"mine")

    done = _run("record", str(taken), "--port", "1")

    assert done.returncode == 1
    assert done.stderr.strip() == f"latentbus: {taken}: exists already: choose another name, or move it away"
    assert taken.read_bytes() == b"mine"


def test_a_broker_that_is_not_there_leaves_no_empty_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentbus.logs.record.CONNECT_TIMEOUT_S", 0.2)
    result = runner.invoke(app, ["record", str(tmp_path / "run.mcap"), "--port", "1"])

    assert result.exit_code != 0
    assert "no connection within 0.2 s" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (["--compression", "gzip"], "--compression: 'gzip' is none of lz4, zstd, none"),
        (["--max-size", "12XB"], "--max-size: '12XB' is none; write 512MB or 1GiB"),
        (["--max-time", "0s"], "--max-time: '0s' is none; write 90s, 15min or 1h"),
        (["--redact", "faces"], "--redact: 'faces': write one of latents, text"),
        (["--name", "My Box"], "--name: 'My Box' is no name"),
        (["--attach", "none.json"], "--attach: cannot read none.json: No such file"),
    ],
)
def test_a_wrong_option_names_what_is_right(tmp_path: Path, options: list[str], where: str) -> None:
    result = runner.invoke(app, ["record", str(tmp_path / "run.mcap"), *options])

    assert isinstance(result.exception, ConfigError)
    assert where in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_private_attachment_is_refused_when_texts_are_left_out(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("what we asked")

    result = runner.invoke(app, ["record", str(tmp_path / "run.mcap"), "--redact", "text", "--attach", str(notes)])

    assert "notes.txt may hold a question" in str(result.exception)


async def test_a_full_disk_ends_the_recording_with_a_typed_error(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    path = tmp_path / "run.mcap"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
    async with (
        connected(broker_settings, "writer") as bus,
        recording(broker_settings, path, "--compression", "none", run=limit + RUN) as recorder,
        asyncio.timeout(PATIENCE_S),
    ):
        while not _message_count(path):  # noqa: ASYNC110 - until its own status is on the disk
            await asyncio.sleep(0.01)
        while recorder.process.poll() is None:
            await bus.publish("lb/v2/answer/gate", bytes(5_000), qos=1)
        _, said = await asyncio.to_thread(recorder.process.communicate)

    process = recorder.process
    assert process.returncode == 1
    assert f"latentbus: {path}: cannot be written: File too large" in said
    assert recover(path, tmp_path / "whole.mcap").messages > 0


def _message_count(path: Path) -> int:
    with LogReader(path) as reader:
        return reader.message_count


def test_recover_says_what_it_saved_and_what_not(tmp_path: Path) -> None:
    path = write_log(tmp_path / "run.mcap", numbered(100), flush_every=10)
    data = bytearray(path.read_bytes()[:-400])
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(data)

    done = runner.invoke(app, ["recover", str(cut), "-o", str(tmp_path / "whole.mcap")])
    again = runner.invoke(app, ["recover", str(cut), "-o", str(tmp_path / "whole.mcap")])
    figures = runner.invoke(app, ["recover", str(cut), "-o", str(tmp_path / "json.mcap"), "--json"])

    assert done.exit_code == 0, done.output
    assert "100 messages over" in done.stdout
    assert isinstance(again.exception, RecordingError)
    assert "exists already" in str(again.exception)
    assert json.loads(figures.stdout)["messages"] == 100
    with LogReader(tmp_path / "whole.mcap") as reader:
        assert list(reader.messages()) == numbered(100)


def test_recover_of_nothing_is_a_failure(tmp_path: Path) -> None:
    empty = tmp_path / "empty.mcap"
    empty.write_bytes(b"")
    with pytest.raises(RecordingError):
        runner.invoke(app, ["recover", str(empty), "-o", str(tmp_path / "out.mcap")], catch_exceptions=False)
