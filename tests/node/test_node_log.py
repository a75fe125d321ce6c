"""A process that records itself: what it sent and received, and nothing that a disk does can stop it."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from analysis.traffic import read_traffic
from broker_config.launcher import LocalBroker
from cloud_workers.node import run_worker
from latentbus.cli import app
from latentbus.options.node_recording import recorded_edge, recorded_worker
from pipeline.bus.base import ConnectionChange, Inbound
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.recording_settings import EdgeRecordingSettings, RecordingSettings
from pipeline.config.settings import LatentbusSettings, load_settings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node import node_log as node_log_module
from pipeline.node.metrics import Metrics
from pipeline.node.node_log import NodeLog, config_attachment
from pipeline.node.runtime import Stop
from pipeline.recording.bus_tap import TappedBus
from pipeline.recording.message import MqttProperties
from pipeline.recording.reader import LogReader, open_logs
from pipeline.recording.writer import LogWriter
from schemas.errors import ConfigError, RecordingError
from schemas.messages import Open
from schemas.types import FrameId, Outcome
from schemas.wire_cost import TOPIC_ALIAS_BYTES
from tests.cloud.conftest import codec_dir as worker_codec_dir
from tests.cloud.conftest import vlm_dir
from tests.cloud.scripted import ScriptedEdge
from tests.cloud.tiny_codec import LATENT_COUNT, encode, random_symbols
from tests.edge.conftest import codec_dir
from tests.edge.support import RecordingBus, inbound
from tests.protocol.questions import SITE, ref
from tests.recording.recorded_edge import WAIT_S, ask_and_answer, edge_settings

__all__ = ["codec_dir", "vlm_dir", "worker_codec_dir"]


def disk_full(path: Path) -> RecordingError:
    error = RecordingError(str(path), "cannot be written: No space left on device")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


# ---- the tap --------------------------------------------------------------------------------------------------------


class Passed:
    """A tap that remembers."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, int, bool, MqttProperties | None]] = []

    def offer(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: MqttProperties | None = None,
        received_s: float | None = None,
    ) -> bool:
        self.messages.append((topic, payload, qos, retain, properties))
        return True


class StreamBus(RecordingBus):
    """A bus whose events a test gives."""

    def __init__(self, *events: Inbound | ConnectionChange) -> None:
        super().__init__()
        self.events = list(events)

    async def receive_batch(self, max_count: int = 256) -> list[Inbound | ConnectionChange]:
        taken, self.events = self.events[:max_count], self.events[max_count:]
        return taken


async def test_everything_passes_unchanged_and_is_seen_once() -> None:
    up, came = ConnectionChange(True, 1, "new session"), inbound("a/b", b"1", qos=1, response_topic="re/ply")
    bus, tap = StreamBus(up, came), Passed()
    tapped = TappedBus(bus, tap)
    assert await tapped.receive_batch(8) == [up, came]
    await tapped.publish("c/d", b"2", qos=1, retain=True, correlation_data=b"x", content_type="text/plain")
    assert bus.published == [("c/d", b"2", 1)]
    assert tapped.acknowledge(came)
    assert bus.acknowledged == [came]
    assert tap.messages == [
        ("a/b", b"1", 1, False, MqttProperties(response_topic="re/ply")),
        ("c/d", b"2", 1, True, MqttProperties(correlation_data=b"x", content_type="text/plain")),
    ]


async def test_what_has_no_connection_to_leave_by_was_not_sent() -> None:
    bus, tap = StreamBus(ConnectionChange(True, 1, ""), ConnectionChange(False, 1, "")), Passed()
    tapped = TappedBus(bus, tap)
    await tapped.publish("a", b"before")
    await tapped.receive_batch(1)
    await tapped.publish("a", b"connected")
    await tapped.receive_batch(1)
    await tapped.publish("a", b"lost")
    assert [payload for _, payload, *_ in tap.messages] == [b"connected"]


# ---- the log of a process -------------------------------------------------------------------------------------------


def log_to(path: Path, **settings: object) -> NodeLog:
    recording = RecordingSettings.model_validate({"file": path, **settings})
    return NodeLog(recording, where="edge.recording.file", name="edge/north", attachments={"a.txt": ("text/x", b"why")})


async def test_a_log_says_who_wrote_it_and_counts(tmp_path: Path) -> None:
    path, metrics = tmp_path / "deep" / "site.mcap", Metrics()
    async with log_to(path) as log:
        log.watch(metrics)
        for number in range(3):
            assert log.offer("a/b", b"%d" % number)
    assert log.counts() == {"written": 3, "dropped": 0}
    assert metrics.registry.get_sample_value("latentbus_recording_messages_total", {"result": "written"}) == 3
    with LogReader(path) as reader:
        assert reader.metadata()["latentbus"]["recorded_by"] == "edge/north"
        assert reader.attachments() == {"a.txt": b"why"}
        assert [message.payload for message in reader.messages()] == [b"0", b"1", b"2"]


async def test_a_restart_goes_on_in_a_further_file(tmp_path: Path) -> None:
    path = tmp_path / "site.mcap"
    for payload in (b"first", b"second"):
        async with log_to(path) as log:
            log.offer("a", payload)
    with open_logs([path, tmp_path / "site.1.mcap"]) as logs:
        assert [message.payload for message in logs.messages()] == [b"first", b"second"]


async def test_a_slow_disk_costs_messages_of_the_log_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stuck, go_on = tmp_path / "site.mcap", threading.Event(), threading.Event()
    flush = LogWriter.flush

    def slow(writer: LogWriter) -> None:
        stuck.set()
        assert go_on.wait(WAIT_S)
        flush(writer)

    monkeypatch.setattr(LogWriter, "flush", slow)
    monkeypatch.setattr("pipeline.recording.recorder.RecorderOptions.__init__", _small_queue())
    async with log_to(path) as log:
        log.offer("a", b"0")
        await asyncio.to_thread(stuck.wait, WAIT_S)
        taken = [log.offer("a", b"x") for _ in range(50)]
        go_on.set()
    assert 0 < taken.count(True) < 50
    assert log.counts() == {"written": 1 + taken.count(True), "dropped": taken.count(False)}
    with LogReader(path) as reader:
        assert reader.message_count == 1 + taken.count(True)
        assert sum(gap.count for gap in reader.gaps()) == taken.count(False)


def _small_queue() -> object:
    from pipeline.recording.recorder import RecorderOptions

    whole = RecorderOptions.__init__

    def small(options: RecorderOptions, **given: object) -> None:
        whole(options, **{**given, "max_queued_messages": 8})  # type: ignore[arg-type]

    return small


async def test_a_disk_that_is_full_at_the_start_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, begin, tries = tmp_path / "site.mcap", LogWriter.__init__, 0

    def full_once(writer: LogWriter, path: Path, **options: object) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise disk_full(path)
        begin(writer, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LogWriter, "__init__", full_once)
    monkeypatch.setattr(node_log_module, "RETRY_S", 0.01)
    async with log_to(path) as log, asyncio.timeout(WAIT_S):
        assert not log.offer("a", b"lost")
        assert log._beginning is not None
        await log._beginning
        assert log.offer("a", b"kept")
    assert log.counts() == {"written": 1, "dropped": 1}


async def test_a_file_that_can_never_be_written_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"edge\.recording\.file: .*cannot be written"):
        async with log_to(tmp_path / "file" / "site.mcap"):
            pass


# ---- edge and worker ------------------------------------------------------------------------------------------------


@pytest.mark.broker
async def test_an_edge_records_what_it_sent_and_received(
    tmp_path: Path, broker_settings: BrokerSettings, codec_dir: Path
) -> None:
    path = tmp_path / "site.mcap"
    notes = await ask_and_answer(
        edge_settings(broker_settings, codec_dir, "north", recording=EdgeRecordingSettings(file=path)), 2
    )
    with LogReader(path) as reader:
        traffic = read_traffic(reader.messages())
        attached = reader.attachments()
    assert [query.outcome for query in traffic.queries.values()] == [Outcome.ANSWERED] * 2
    frames = [sent for sent in notes.sent if sent.label in ("open", "chunk")]
    # A log counts topics written out. Each kind of message left twice, and the second time its topic got an alias.
    aliases_bytes = len({sent.label for sent in frames}) * TOPIC_ALIAS_BYTES
    logged_bytes = sum(frame.wire_bytes for frame in traffic.frames.values())
    assert logged_bytes + aliases_bytes == sum(sent.wire_bytes for sent in frames)
    assert sum(frame.latent_bytes for frame in traffic.frames.values()) == sum(sent.latent_bytes for sent in frames)
    assert {"gate"} == {camera for cameras in traffic.sites.values() for camera in cameras}
    assert not traffic.undecodable
    settings = yaml.safe_load(attached[config_attachment("edge/north")])
    assert settings["edge"]["site"] == "north"
    assert "broker" not in settings
    assert attached["codec.json"] == (codec_dir / "codec.json").read_bytes()


async def test_credentials_of_a_camera_stay_out_of_the_log(tmp_path: Path) -> None:
    from edge_nodes.session_settings import without_credentials

    camera = CameraSettings(source="rtsp://user:hunter2@camera.example/stream")
    shown = without_credentials(EdgeSettings(site="north", cameras={"gate": camera}))
    assert "hunter2" not in shown.model_dump_json()
    assert "camera.example" in shown.model_dump_json()


@pytest.mark.broker
async def test_an_edge_whose_disk_fails_answers_all_the_same(
    tmp_path: Path, broker_settings: BrokerSettings, codec_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(writer: LogWriter) -> None:
        raise disk_full(writer.path)

    monkeypatch.setattr(LogWriter, "flush", fails)
    recording = EdgeRecordingSettings(file=tmp_path / "site.mcap", full_latents=True)
    notes = await ask_and_answer(edge_settings(broker_settings, codec_dir, "north", recording=recording), 3)
    assert len(notes.latents) == 3


@pytest.mark.broker
async def test_a_worker_records_what_it_sent_and_received(
    tmp_path: Path, broker: LocalBroker, broker_settings: BrokerSettings, vlm_dir: Path, worker_codec_dir: Path
) -> None:
    from pipeline.codec.spec import load_codec_spec
    from schemas import topics, wire

    path, stop = tmp_path / "worker.mcap", Stop()
    worker = WorkerSettings(name="w-1", vlm=str(vlm_dir), codec=worker_codec_dir, threads=1)
    settings = LatentbusSettings(broker=broker_settings, worker=recorded_worker(worker, path))
    async with asyncio.timeout(WAIT_S), ScriptedEdge(broker) as edge:
        task = asyncio.create_task(run_worker(settings, stop))
        await stop.ready.wait()
        await edge.question(text="car?")
        payload = encode(random_symbols(1, seed=5)[0], worker_codec_dir).payload(0, LATENT_COUNT)
        opened = Open(
            frame=FrameId(1, 1),
            attempt=1,
            site=SITE,
            fingerprint=load_codec_spec(worker_codec_dir).fingerprint4,
            queries=(ref("car", 20_000),),
            stop=LATENT_COUNT,
            payload=payload,
        )
        await edge.bus.publish(topics.open_topic("main", "gate"), wire.encode(opened), qos=1)
        answer = await edge.answer(1)
        stop.request()
        assert await task == 0
    with LogReader(path) as reader:
        traffic = read_traffic(reader.messages())
        attached = reader.attachments()
    (query,) = traffic.queries.values()
    assert (query.outcome, query.answer_text, query.text) == (Outcome.ANSWERED, answer.text, "car?")
    (frame,) = traffic.frames.values()
    assert [message.payload for _, message in frame.opens] == [payload]
    assert {"codec.json", "stop.json", config_attachment("worker/w-1")} == set(attached)


# ---- settings and options -------------------------------------------------------------------------------------------


def test_the_file_counts_from_the_folder_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        'edge: {site: n, cameras: {gate: {source: "test:1"}}, recording: {file: logs/site.mcap, full_latents: true}}\n'
        "worker: {recording: {file: worker.mcap, compression: zstd}}\n"
    )
    settings = load_settings(file)
    assert settings.edge is not None
    assert settings.edge.recording is not None
    assert settings.edge.recording.file == tmp_path / "logs" / "site.mcap"
    assert settings.edge.recording.full_latents
    assert settings.worker is not None
    assert settings.worker.recording is not None
    assert settings.worker.recording.file == tmp_path / "worker.mcap"


def test_a_worker_has_no_latents_to_keep(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text("worker: {recording: {file: worker.mcap, full_latents: true}}\n")
    with pytest.raises(ConfigError, match=r"worker\.recording\.full_latents: unknown key"):
        load_settings(file)


def test_the_command_line_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    edge = EdgeSettings(
        site="n",
        cameras={"gate": CameraSettings(source="test:1")},
        recording=EdgeRecordingSettings(file=Path("other.mcap"), max_size_mb=5),
    )
    recording = recorded_edge(edge, Path("site.mcap"), full_latents=True).recording
    assert recording == EdgeRecordingSettings(file=tmp_path / "site.mcap", max_size_mb=5, full_latents=True)
    assert recorded_edge(edge, None, full_latents=False) == edge
    worker = recorded_worker(WorkerSettings(), Path("w.mcap"))
    assert worker.recording == RecordingSettings(file=tmp_path / "w.mcap")
    assert recorded_worker(WorkerSettings(), None) == WorkerSettings()
    with pytest.raises(ConfigError, match="nothing is recorded"):
        recorded_edge(edge.model_copy(update={"recording": None}), None, full_latents=True)


@pytest.mark.parametrize("command", ["edge", "worker"])
def test_the_options_are_explained(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120"}).output
    assert "--record" in shown
    assert ("--full-latents" in shown) == (command == "edge")
