"""Replays over a real broker: a fleet is recorded, and its log plays again, verbatim and as virtual cameras."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import pty
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from analysis.compare.matching import MatchedBy, ReplayOrigin, match_queries
from analysis.latents import recorded_latent
from analysis.traffic import Traffic, read_traffic
from cloud_workers.node import run_worker
from latentbus.cli import app
from latentbus.client.ask import Asking
from latentbus.logs.record import RecordOptions, record
from latentbus.replay.options import CameraOptions, Deadlines, QuestionSource, ReplayOptions
from latentbus.replay.report import CameraReport
from latentbus.replay.run import replay_cameras, replay_verbatim
from pipeline.bus.base import Inbound, MqttProperties, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.spec import TABLES_FILE, hash_file, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.runtime import Stop
from pipeline.recording.message import LoggedMessage
from pipeline.recording.reader import LogReader
from pipeline.recording.recorder import RecorderOptions
from pipeline.recording.writer import LogWriter
from schemas import topics
from schemas.errors import ConfigError
from schemas.types import AnswerType, Outcome
from tests.cloud.tiny_codec import random_symbols
from tests.integration.conftest import PATIENCE_S, Fleet, RunningProcess, fleet, models_dir
from tests.integration.test_fleet import ask
from tests.recording.recorded_frames import FrameLog, ref

pytestmark = pytest.mark.broker

__all__ = ["fleet", "models_dir"]


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def traffic_of(path: Path) -> Traffic:
    with LogReader(path) as reader:
        return read_traffic(reader.messages())


def metadata_of(path: Path) -> dict[str, dict[str, str]]:
    with LogReader(path) as reader:
        return reader.metadata()


def write_log(path: Path, messages: Iterator[LoggedMessage] | list[LoggedMessage]) -> Path:
    with LogWriter(path) as log:
        for message in messages:
            log.write(message)
    return path


@asynccontextmanager
async def recorded(broker: BrokerSettings, path: Path) -> AsyncIterator[None]:
    """Record everything on the broker while the context lasts."""
    stop = Stop()
    task = asyncio.create_task(record(RecordOptions(path, ("lb/v2/#",), RecorderOptions()), broker, stop))
    await asyncio.wait_for(stop.ready.wait(), PATIENCE_S)
    try:
        yield
    finally:
        stop.request()
        await task


async def steady_worker(running: Fleet) -> RunningProcess:
    """One frame a batch, one thread: the same numbers in every run."""
    settings = LatentbusSettings(broker=running.broker, worker=WorkerSettings(name="w1", threads=1, max_batch_frames=1))
    return await running._run("w1", lambda stop: run_worker(settings, stop))


async def play(running: Fleet, log: Path, as_cameras: CameraOptions | None = None, **options: Any) -> CameraReport:
    return await replay_cameras(
        ReplayOptions(logs=(log,), **options), as_cameras or CameraOptions(), running.broker, Stop(), quiet()
    )


async def test_a_recorded_fleet_answers_the_same_at_ten_times_the_speed(fleet: Fleet) -> None:
    log, again = fleet.directory / "run.mcap", fleet.directory / "again.mcap"
    async with recorded(fleet.broker, log):
        await steady_worker(fleet)
        edge = await fleet.edge(interval_s=0.3)
        await ask(fleet.broker, Asking.create("gate", "Is there a car?", AnswerType.TEXT, deadline_s=20))
        await fleet.until_answered(16)
        with pytest.raises(ConfigError, match="edge north is online on this broker and serves camera gate"):
            await play(fleet, log)
        await fleet.finish(edge)

    as_recorded = CameraOptions(record=again, deadlines=Deadlines.RECORDED)  # a busy machine is no failure
    report = await play(fleet, log, as_recorded, rate=10.0)

    before, after = traffic_of(log), traffic_of(again)
    assert report.exit_status == 0
    assert report.frames == report.planned == len(before.frames)
    assert report.outcomes == {Outcome.ANSWERED: len(before.queries)}
    origin = ReplayOrigin.of(metadata_of(again))
    assert origin is not None
    assert (origin.source, origin.rate) == ("run.mcap", 10.0)
    matched = match_queries(before, after, None, origin)
    assert (matched.by, matched.only_a, matched.only_b) == (MatchedBy.REPLAY, [], [])
    assert any(query.ad_hoc for query, _ in matched.pairs)
    for first, second in matched.pairs:
        assert (second.outcome, second.answer_text, second.latents) == (first.outcome, first.answer_text, first.latents)
        assert second.score == pytest.approx(first.score, abs=1e-6)
    # Some were coded given a key frame; virtual cameras send the same latents by themselves.
    tables = FrequencyTables.load(bundled_codec_dir() / TABLES_FILE)
    sent: Counter[str] = Counter()
    for trace in before.frames.values():
        latent = recorded_latent(trace, tables)
        sent["open"] += sum(len(latent.payload(0, opened.stop)) for _, opened in trace.opens)
        sent["chunk"] += sum(len(latent.payload(chunk.start, chunk.stop)) for _, _, chunk in trace.chunks)
    assert before.key_frames
    assert report.latents_sent == sent

    # Without its chunks the log cannot give what the worker asks for, but of key frames, and says so.
    with LogReader(log) as reader:
        cut = write_log(
            fleet.directory / "cut.mcap", [m for m in reader.messages() if not m.topic.startswith("lb/v2/chunk/")]
        )
    short = await play(fleet, cut, rate=math.inf)
    failed = sum(len(frame.queries) for frame, _ in short.gaps)
    assert short.outcomes == Counter({Outcome.FAILED: failed, Outcome.ANSWERED: len(before.queries) - failed})
    assert len(short.gaps) == short.frames - len(before.key_frames) > 0
    assert short.exit_status == 1
    assert {(frame.latent.available, wanted) for frame, wanted in short.gaps} == {(3, 5)}
    said = io.StringIO()
    short.print(Console(file=said, width=200), (cut,))
    assert "recording lacks latents 3..5" in said.getvalue()
    assert "--full-latents" in said.getvalue()


async def test_questions_of_a_live_broker_are_respected_and_names_can_be_new(fleet: Fleet) -> None:
    await steady_worker(fleet)
    async with MqttBus(fleet.broker, client_id="operator") as operator:
        await operator.wait_connected(PATIENCE_S)
        question = b'{"site":"replay-north","question_id":"car","text":"Is there a lorry?","answer_type":"text"}'
        await operator.publish(topics.question_topic("replay-north", "car"), question, qos=1, retain=True)
    log = write_log(fleet.directory / "hand.mcap", hand_log().messages)
    with pytest.raises(ConfigError, match="'Is there a lorry\\?' on this broker and 'Is there a car\\?' in the log"):
        await play(fleet, log)

    brokers = CameraOptions(questions=QuestionSource.BROKER, deadlines=Deadlines.RECORDED)
    assert (await play(fleet, log, brokers, rate=10.0)).outcomes == {Outcome.ANSWERED: 2}

    again = fleet.directory / "again.mcap"
    logs = CameraOptions(questions=QuestionSource.LOG, record=again, site="desk", base_latents=2)
    assert (await play(fleet, log, logs, rate=10.0, cameras={"gate": "gate-2"})).outcomes == {Outcome.ANSWERED: 2}
    traffic = traffic_of(again)
    assert {camera for camera, _ in traffic.frames} == {"gate-2"}
    assert {frame.opens[0][1].stop for frame in traffic.frames.values()} == {2}
    assert ("edge", "desk") in traffic.statuses
    assert {query.text for query in traffic.queries.values()} == {"Is there a car?"}


async def test_the_wrong_codec_is_named_with_its_fix(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentbus.replay.cameras.WORKER_PATIENCE_S", 0.2)
    await steady_worker(fleet)
    path = write_log(fleet.directory / "hand.mcap", hand_log().messages)
    other = fleet.directory / "other"
    shutil.copytree(bundled_codec_dir(), other)
    spec = load_codec_spec(other)
    spec.model_copy(update={"version": 2}).save(other)
    with pytest.raises(ConfigError, match=f"pool main have codec {spec.fingerprint4.hex()}"):
        await play(fleet, path, CameraOptions(pool_codec=other))

    FrequencyTables.fit(random_symbols(64, seed=9), support=6).save(other / TABLES_FILE)
    spec.model_copy(update={"tables_sha256": hash_file(other / TABLES_FILE)}).save(other)
    with pytest.raises(ConfigError, match="codes latents in another way"):
        await play(fleet, path, CameraOptions(pool_codec=other))

    foreign = write_log(fleet.directory / "foreign.mcap", hand_log(fingerprint=b"\xff" * 4).messages)
    with pytest.raises(ConfigError, match="the log holds latents of codec ffffffff"):
        await play(fleet, foreign)
    with pytest.raises(ConfigError, match="no frame with latents"):
        await play(fleet, path, include=("lb/v2/answer/#",))
    with pytest.raises(ConfigError, match="--loop"):
        await play(fleet, path, CameraOptions(record=fleet.directory / "x.mcap"), loop=True)


async def test_a_stopped_replay_says_how_far_it_came(fleet: Fleet) -> None:
    await steady_worker(fleet)
    log = hand_log()
    log.open(3_600.0, "gate", 3, ref("car", 9_000))
    path = write_log(fleet.directory / "long.mcap", log.messages)
    stop = Stop()
    playing = asyncio.create_task(replay_cameras(ReplayOptions((path,)), CameraOptions(), fleet.broker, stop, quiet()))
    assert await fleet.client.wait_until(lambda: "edge/replay-north" in fleet.client.online, PATIENCE_S)
    stop.request()
    report = await asyncio.wait_for(playing, PATIENCE_S)
    assert report.frames < report.planned == 3
    assert report.exit_status == 1
    await asyncio.wait_for(_offline(fleet), PATIENCE_S)


async def _offline(running: Fleet) -> None:
    while "edge/replay-north" in running.client.online:
        await running.client.wait_change()


def hand_log(fingerprint: bytes | None = None) -> FrameLog:
    """Two frames of the tiny codec that the environment names; a tiny model's answers have no form but that of text."""
    codec = bundled_codec_dir()
    tables = FrequencyTables.load(codec / TABLES_FILE)
    log = FrameLog(fingerprint or load_codec_spec(codec).fingerprint4, tables=tables)
    log.edge("north", "gate")
    log.question("car", "Is there a car?", deadline_ms=60_000, answer_type=AnswerType.TEXT)
    for number in (1, 2):
        log.store_latent(float(number), "gate", number)
        log.open(float(number), "gate", number, ref("car", 59_900))
    return log


# ---- verbatim -------------------------------------------------------------------------------------------------------


class Listener:
    """Hears everything on a broker, with every property."""

    def __init__(self, broker: BrokerSettings, topic_filter: str) -> None:
        subscription = Subscription(topic_filter, qos=1, retain_as_published=True)
        self.bus = MqttBus(broker, client_id="listener", subscriptions=[subscription], all_properties=True)
        self.heard: list[Inbound] = []

    async def until(self, count: int) -> list[tuple[str, bytes, int, bool, MqttProperties | None]]:
        """The messages so far, once there are so many."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.heard) < count:
                for event in await self.bus.receive_batch():
                    if isinstance(event, Inbound):
                        self.bus.acknowledge(event)
                        self.heard.append(event)
        return [(m.topic, m.payload, m.qos, m.retain, m.properties) for m in self.heard]


def foreign_messages() -> list[LoggedMessage]:
    """Messages with everything that MQTT 5 lets a publisher say."""
    full = MqttProperties(
        payload_format=1, expiry_s=3_600, content_type="text/plain", response_topic="house/reply",
        correlation_data=b"\x00\x01", user=(("a", "1"), ("a", "2")),
    )  # fmt: skip
    second = 1_000_000_000
    return [
        LoggedMessage(second, "house/a", b"first", 1, retain=True, properties=full, sequence=0),
        LoggedMessage(2 * second, "house/b", b"", 0, sequence=1),
        LoggedMessage(3 * second, "house/c", bytes(range(256)), 1, sequence=2),
        LoggedMessage(3 * second, "$local/latent/gate", b"never on a broker", 0, sequence=3),
        LoggedMessage(4 * second, "house/d", b"excluded", 1, sequence=4),
        LoggedMessage(3600 * second, "house/e", b"too late", 1, sequence=5),
    ]


async def test_verbatim_is_verbatim(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    messages = foreign_messages()
    path = write_log(tmp_path / "house.mcap", messages)
    listener = Listener(broker_settings, "house/#")
    options = ReplayOptions((path,), rate=math.inf, duration_s=10.0, exclude=("house/d",))
    async with listener.bus:
        await listener.bus.wait_connected(PATIENCE_S)
        report = await replay_verbatim(options, broker_settings, Stop(), quiet())
        heard = await listener.until(3)
    assert heard == [(m.topic, m.payload, m.qos, m.retain, m.properties) for m in messages[:3]]
    assert (report.count.published, report.count.local, report.count.refused.total()) == (3, 1, 0)
    assert report.exit_status == 0


async def test_verbatim_keeps_its_own_time_and_loops_until_it_is_stopped(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    path = write_log(tmp_path / "house.mcap", foreign_messages())
    listener = Listener(broker_settings, "house/#")
    stop = Stop()
    # A second of the log takes 20 ms: message c comes 40 ms after message a, in each round.
    options = ReplayOptions((path,), rate=50.0, duration_s=3.0, loop=True, delay_s=0.2)
    async with listener.bus:
        await listener.bus.wait_connected(PATIENCE_S)
        begun_s = time.monotonic()
        playing = asyncio.create_task(replay_verbatim(options, broker_settings, stop, quiet()))
        await listener.until(9)
        stop.request()
        report = await asyncio.wait_for(playing, PATIENCE_S)
    times = {m.topic: m.received_s for m in listener.heard[:3]}
    assert [m.topic for m in listener.heard[:9]] == ["house/a", "house/b", "house/c"] * 3
    assert times["house/a"] - begun_s > 0.2
    assert times["house/c"] - times["house/a"] > 0.03
    assert report.count.published >= 9


async def test_what_a_broker_refuses_is_counted_and_the_rest_goes_on(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    path = write_log(
        tmp_path / "odd.mcap",
        [LoggedMessage(1, "house/+/wild", b"no topic", 1), LoggedMessage(2, "house/a", b"x" * 140_000, 1, sequence=1),
         LoggedMessage(3, "house/b", b"good", 1, sequence=2)],
    )  # fmt: skip
    report = await replay_verbatim(ReplayOptions((path,), rate=math.inf), broker_settings, Stop(), quiet())
    assert (report.count.published, report.count.refused.total(), report.exit_status) == (1, 2, 1)
    said = io.StringIO()
    report.print(Console(file=said, width=300))
    assert "OversizeError" in said.getvalue()


ON_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # standard input becomes the terminal of this process
from latentbus.cli import main
main()
"""


async def test_a_person_at_a_terminal_steps_goes_on_and_quits(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    path = write_log(tmp_path / "house.mcap", foreign_messages())
    listener = Listener(broker_settings, "house/#")
    person, terminal = pty.openpty()
    where = ["--host", broker_settings.host, "--port", str(broker_settings.port)]
    async with listener.bus:
        await listener.bus.wait_connected(PATIENCE_S)
        replay = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ON_A_TERMINAL, "replay", str(path), "--start-paused", *where),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        try:
            await asyncio.wait_for(asyncio.to_thread(_read_until, person, b"keys: space pause"), PATIENCE_S)
            for number, key in enumerate((b"s", b"\x1b[C"), 1):
                os.write(person, key)
                await listener.until(number)
                assert len(listener.heard) == number, "one step is one message"
            os.write(person, b"++++++ ")  # 100 times the speed, and on; the last message is an hour away
            await listener.until(4)
            os.write(person, b"q")
            await asyncio.to_thread(_read_until, person, b"published")
            assert await asyncio.wait_for(replay.wait(), PATIENCE_S) == 0
        finally:
            if replay.returncode is None:
                replay.kill()
                await replay.wait()
            os.close(person)
    assert [message.topic for message in listener.heard] == ["house/a", "house/b", "house/c", "house/d"]


def _read_until(terminal: int, text: bytes) -> None:
    """Read what a process wrote on its terminal, up to a text."""
    seen = b""
    while text not in seen:
        seen += os.read(terminal, 4_096)


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--start", "soon"], "neither seconds from the start"),
        (["--topic", "a/#/b"], "topic filter"),
        (["--remap-camera", "gate"], "OLD=NEW"),
        (["--start", "500"], "nothing of the log lies there"),
    ],
)
def test_wrong_options_are_explained(arguments: list[str], problem: str, tmp_path: Path) -> None:
    path = write_log(tmp_path / "house.mcap", foreign_messages()[:3])
    for command in ("replay", "replay-cameras"):
        result = CliRunner().invoke(app, [command, str(path), "--port", "1", *arguments])
        assert isinstance(result.exception, ConfigError), result.output
        assert problem in str(result.exception)


def test_settings_of_local_workers_need_local_workers(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["replay-cameras", str(tmp_path / "a.mcap"), "--worker-config", "w.yaml"])
    assert "add --local-workers" in str(result.exception)


def test_verbatim_and_report_of_the_command(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    path = write_log(tmp_path / "house.mcap", foreign_messages()[:4])
    figures = tmp_path / "figures.json"
    where = ["--host", broker_settings.host, "--port", str(broker_settings.port), "--json", str(figures)]
    result = CliRunner().invoke(app, ["replay", str(path), "--fast", *where])
    assert result.exit_code == 0, result.output
    assert json.loads(figures.read_text())["published"] == 3
