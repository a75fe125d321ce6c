"""The edge process against a real broker, with a worker that does what each test says."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from broker_config.launcher import LocalBroker
from edge_nodes.encoder import OnnxEncoder
from pipeline.codec.bitstream import decode_chunk
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.spec import TABLES_FILE, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.node import process_health
from schemas import topics, wire
from schemas.errors import SourceError
from schemas.messages import (
    Accept,
    Answer,
    Ask,
    Chunk,
    NeedText,
    Open,
    QueryOutcome,
    Question,
    Revoke,
    Status,
    Text,
)
from schemas.types import AnswerType, FrameId, Outcome
from tests.bus.support import connected, take
from tests.edge.running import Running, listening, running
from tests.edge.support import ScriptedWorker, grey, write_video

pytestmark = pytest.mark.broker

CAR = QuestionSettings(text="Is there a car?", answer_type=AnswerType.YES_NO, deadline_ms=20_000)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "gate.mp4", [grey(60 + 5 * number) for number in range(20)], fps=20)


@pytest.fixture
def make(broker_settings: BrokerSettings, codec_dir: Path, video: Path) -> Callable[..., LatentbusSettings]:
    def settings(*, cameras: dict[str, CameraSettings] | None = None, **edge: object) -> LatentbusSettings:
        camera = CameraSettings(source=str(video), interval_s=0.1, questions=("car",))
        values: dict[str, object] = {
            "site": "depot",
            "codec": codec_dir,
            "cameras": cameras or {"gate": camera},
            "questions": {"car": CAR},
            **edge,
        }
        return LatentbusSettings(broker=broker_settings, edge=EdgeSettings.model_validate(values))

    return settings


Make = Callable[..., LatentbusSettings]
QUIET = {"gate": CameraSettings(source="test:1", interval_s=0.1)}
"""A camera without standing questions."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(port: int, prefix: str) -> dict[str, float]:
    """Samples whose name begins with the prefix, without it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        lines = str(response.read(), "utf-8").splitlines()
    samples = (line.rpartition(" ") for line in lines if line.startswith(prefix))
    return {name.removeprefix(prefix): float(value) for name, _, value in samples}


async def answer_everything(worker: ScriptedWorker) -> None:
    while True:
        camera, opened = await worker.next_open()
        await worker.answer_all(camera, opened)


@asynccontextmanager
async def beside(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_frame_is_opened_refined_and_answered(
    make: Make, broker_settings: BrokerSettings, codec_dir: Path
) -> None:
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    async with ScriptedWorker(broker_settings) as worker, running(make()) as edge:
        camera, opened = await worker.next_open()
        assert camera == "gate"
        assert opened.fingerprint == load_codec_spec(codec_dir).fingerprint4
        assert [ref.question_id for ref in opened.queries] == ["car"]
        assert 15_000 < opened.queries[0].remaining_ms <= 20_000
        captured, latent = edge.watcher.frames[camera, opened.frame]
        assert captured.camera == "gate"
        first = decode_chunk(opened.payload, 0, opened.stop, tables)
        await worker.refine(camera, opened, opened.stop, 8)
        chunk = await worker.next_in_inbox()
        assert isinstance(chunk, Chunk)
        rest = decode_chunk(chunk.payload, chunk.start, chunk.stop, tables)
        assert [*first.tolist(), *rest.tolist()] == latent.symbols.tolist()
        await worker.answer_all(camera, opened, "no")
        await edge.watcher.until(lambda: edge.watcher.ended)
        (terminal, *_) = edge.watcher.ended
        assert (terminal.outcome, terminal.frame) == (Outcome.ANSWERED, opened.frame)
        assert terminal.answer is not None
        assert terminal.answer.text == "no"
        labels = [sent.label for sent in edge.watcher.sent if sent.frame == opened.frame]
        assert labels == ["open", "chunk"]


async def test_birth_and_death_are_retained(make: Make, broker_settings: BrokerSettings) -> None:
    topic = topics.status_topic("edge", "depot")
    async with listening(broker_settings, topic) as listener, ScriptedWorker(broker_settings) as worker:
        async with beside(answer_everything(worker)), running(make()) as edge:
            _, birth = await listener.next(Status)
            assert isinstance(birth, Status)
            assert (birth.online, birth.pool, birth.cameras) == (True, "main", ("gate",))
            assert await edge.end() == 0
        _, death = await listener.next(Status)
        assert isinstance(death, Status)
        assert (death.online, death.boot) == (False, birth.boot)
    async with listening(broker_settings, topic) as later:
        inbound, retained = await later.next(Status)
        assert (inbound.retain, retained) == (True, death)


async def test_a_covered_camera_is_in_the_status_of_its_site(
    make: Make, broker_settings: BrokerSettings, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_health, "PATIENCE_S", 0.05)
    monkeypatch.setattr(process_health, "LOOK_S", 0.02)
    cameras = {
        name: CameraSettings(source=source, interval_s=0.1, questions=("car",))
        for name, source in (("gate", str(video)), ("yard", "test:3"))
    }
    covered: list[str] = []
    async with (
        listening(broker_settings, topics.status_topic("edge", "depot")) as listener,
        running(make(cameras=cameras)),
    ):
        while not covered:
            _, message = await listener.next(Status)
            assert isinstance(message, Status)
            covered = [found.about for found in message.conditions if found.kind == "camera-covered"]
    assert covered == ["gate"], "its video is all grey"


async def test_questions_are_published_once_and_only_when_they_changed(
    make: Make, broker_settings: BrokerSettings
) -> None:
    async def published_by(settings: LatentbusSettings) -> list[str]:
        async with running(settings) as edge:
            # The status after the own status was heard comes last in line.
            await edge.watcher.until(lambda: any(sent.label == "status" for sent in edge.watcher.sent))
            await edge.end()
            return [sent.label for sent in edge.watcher.sent if sent.label == "question"]

    two = {"car": CAR, "bus": QuestionSettings(text="Where is the bus?")}
    async with listening(broker_settings, "lb/v2/question/+/+") as listener:
        async with running(make(cameras=QUIET, questions=two)):
            names = {(await listener.next(Question))[0].topic for _ in two}
        assert names == {"lb/v2/question/depot/car", "lb/v2/question/depot/bus"}
        changed = {"car": CAR, "bus": QuestionSettings(text="Is there a bus?")}
        async with running(make(cameras=QUIET, questions=changed)):
            _, question = await listener.next(Question)
        assert isinstance(question, Question)
        assert (question.question_id, question.text) == ("bus", "Is there a bus?")
        async with running(make(cameras=QUIET, questions={**changed, "dog": CAR})):
            _, question = await listener.next(Question)
        assert isinstance(question, Question)
        assert question.question_id == "dog"


async def test_questions_go_before_frames(make: Make, broker_settings: BrokerSettings) -> None:
    questions = {f"q{number}": CAR for number in range(5)}
    camera = CameraSettings(source="test:1", interval_s=0.05, questions=tuple(questions))
    async with running(make(cameras={"gate": camera}, questions=questions, uplink_kbps=200)) as edge:
        await edge.watcher.until(lambda: any(sent.label == "open" for sent in edge.watcher.sent))
        labels = [sent.label for sent in edge.watcher.sent]
    assert labels[: labels.index("open")].count("question") == 5


async def test_an_edge_that_may_not_publish_questions_still_asks_them(
    make: Make, codec_dir: Path, tmp_path: Path
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite lb/v2/#\ntopic deny lb/v2/question/#\n")
    with LocalBroker(listener_lines=[f"acl_file {rules}"]) as strict:
        broker_settings = BrokerSettings(host=strict.host, port=strict.port)
        settings = make().model_copy(update={"broker": broker_settings})
        async with ScriptedWorker(broker_settings) as worker, running(settings) as edge:
            _, opened = await worker.next_open()
            assert [ref.question_id for ref in opened.queries] == ["car"]
            assert [sent.label for sent in edge.watcher.sent].count("question") == 1  # tried, refused, not repeated


async def test_the_text_goes_to_a_worker_that_lacks_it(make: Make, broker_settings: BrokerSettings) -> None:
    async with ScriptedWorker(broker_settings) as worker, running(make()):
        camera, opened = await worker.next_open()
        request = NeedText(
            worker="w-1", frame=opened.frame, attempt=opened.attempt, digests=(opened.queries[0].digest,)
        )
        await worker.control(camera, request)
        text = await worker.next_in_inbox()
        assert isinstance(text, Text)
        assert (text.owner, text.question_id, text.text) == ("site/depot", "car", CAR.text)
        assert text.content().digest == opened.queries[0].digest


async def test_an_ad_hoc_question_takes_a_frame_at_once_and_its_outcome_reaches_the_client(
    make: Make, broker_settings: BrokerSettings
) -> None:
    reply = "lb/v2/reply/me/gate/q1"
    ask = Ask(query_id="q1", text="What is on the roof?", deadline_ms=15_000)
    async with (
        listening(broker_settings, "lb/v2/reply/me/+/+") as client,
        ScriptedWorker(broker_settings) as worker,
        running(make(cameras=QUIET)),
    ):
        await client.ask("gate", ask, reply=reply)
        camera, opened = await worker.next_open()
        assert [(ref.question_id, ref.ad_hoc) for ref in opened.queries] == [("q1", True)]
        await worker.control(
            camera,
            NeedText(worker="w-1", frame=opened.frame, attempt=opened.attempt, digests=(opened.queries[0].digest,)),
        )
        text = await worker.next_in_inbox()
        assert isinstance(text, Text)
        assert text.text == "What is on the roof?"
        await worker.answer_all(camera, opened, "a cat")
        inbound, answered = await client.next(Answer)
        assert isinstance(answered, Answer)
        assert (answered.text, inbound.correlation_data) == ("a cat", b"c")
        await client.ask("gate", ask, reply=reply)  # again: the same terminal, no new frame
        _, again = await client.next(Answer)
        assert again == answered


async def test_an_ad_hoc_question_survives_a_crash(make: Make, broker_settings: BrokerSettings, tmp_path: Path) -> None:
    settings = make(cameras=QUIET, state_dir=tmp_path / "state")
    ask = Ask(query_id="q1", text="What is on the roof?", deadline_ms=15_000)
    async with (
        listening(broker_settings, "lb/v2/reply/me/+/+") as client,
        ScriptedWorker(broker_settings) as worker,
    ):
        async with running(settings) as edge:
            await client.ask("gate", ask, reply="lb/v2/reply/me/gate/q1")
            _, lost = await worker.next_open()
            await edge.crash()
        async with running(settings):
            camera, opened = await worker.next_open()
            assert opened.frame.boot != lost.frame.boot
            assert [ref.question_id for ref in opened.queries] == ["q1"]
            assert opened.queries[0].remaining_ms < 15_000
            await worker.answer_all(camera, opened, "a cat")
            _, answered = await client.next(Answer)
            assert isinstance(answered, Answer)
            assert answered.text == "a cat"


async def test_a_question_asked_while_the_edge_was_away_is_answered(
    make: Make, broker_settings: BrokerSettings
) -> None:
    settings = make(cameras=QUIET)
    async with listening(broker_settings) as client, ScriptedWorker(broker_settings) as worker:
        async with running(settings):
            pass  # its session stays with the broker
        await client.ask("gate", Ask(query_id="q1", text="Anyone?"))
        async with running(settings):
            _, opened = await worker.next_open()
            assert [ref.question_id for ref in opened.queries] == ["q1"]


async def test_a_drain_lets_workers_finish_and_decides_the_rest(make: Make, broker_settings: BrokerSettings) -> None:
    cameras = {
        "gate": CameraSettings(source="test:1", interval_s=60, questions=("car",)),
        "yard": CameraSettings(source="test:2", interval_s=0.02, questions=("car",)),
    }
    async with (
        listening(broker_settings, "lb/v2/outcome/+") as listener,
        ScriptedWorker(broker_settings) as worker,
        running(make(cameras=cameras), drain_timeout_s=4.0) as edge,
    ):
        opens: dict[str, Open] = {}
        while len(opens) < 2:
            camera, opened = await worker.next_open()
            await worker.accept(camera, opened, 60_000)
            opens.setdefault(camera, opened)
        ending = asyncio.create_task(edge.end())
        await edge.watcher.until(lambda: not any(edge.watcher.up.values()))
        await worker.answer_all("gate", opens["gate"], "yes")
        assert await ending == 0
        outcomes = {terminal.query_id: terminal.outcome for terminal in edge.watcher.ended}
        assert len(outcomes) == len(edge.watcher.ended) == len(edge.watcher.frames)
        assert outcomes[opens["gate"].query_ids("gate")[0]] is Outcome.ANSWERED
        abandoned = {query_id for query_id, outcome in outcomes.items() if outcome is Outcome.FAILED}
        assert opens["yard"].query_ids("yard")[0] in abandoned
        told: set[str] = set()
        while told < abandoned:
            _, outcome = await listener.next(QueryOutcome)
            assert isinstance(outcome, QueryOutcome)
            told.add(outcome.query_id)
            assert outcome.reason == "the edge was stopped"


async def test_an_edge_ends_when_all_its_cameras_have(make: Make, broker_settings: BrokerSettings, video: Path) -> None:
    camera = CameraSettings(source=str(video), interval_s=0.3, questions=("car",), loop=False)
    async with (
        ScriptedWorker(broker_settings) as worker,
        beside(answer_everything(worker)),
        running(make(cameras={"gate": camera})) as edge,
    ):
        assert await edge.task == 0
        assert {terminal.outcome for terminal in edge.watcher.ended} == {Outcome.ANSWERED}
        assert 2 <= len(edge.watcher.ended) == len(edge.watcher.frames) <= 5


async def test_a_broker_that_restarts_costs_no_outcome(
    make: Make, broker: LocalBroker, broker_settings: BrokerSettings
) -> None:
    async with running(make()) as edge:
        await edge.watcher.until(lambda: any(sent.label == "open" for sent in edge.watcher.sent))
        broker.kill()
        broker.restart()
        before = len(edge.watcher.ended)
        async with ScriptedWorker(broker_settings) as worker, beside(answer_everything(worker)):
            await edge.watcher.until(
                lambda: any(terminal.outcome is Outcome.ANSWERED for terminal in edge.watcher.ended[before:])
            )
            assert await edge.end() == 0
        assert len({terminal.query_id for terminal in edge.watcher.ended}) == len(edge.watcher.frames)


async def test_bad_messages_stop_nothing_and_are_counted_by_kind(make: Make, broker_settings: BrokerSettings) -> None:
    garbage = [b"", b"\x00", b"\xc1" * 50, b"{}", b"[" * 2000, b"\x93\x09\x06\x00", bytes(30_000), b'{"v":9}', b"null"]
    targets = [
        topics.control_topic("gate"),
        topics.answer_topic("gate"),
        topics.ask_topic("gate", "me"),
        topics.question_topic("depot", "car"),
        topics.status_topic("worker", "w-9"),
        topics.status_topic("edge", "depot"),
    ]
    async with (
        listening(broker_settings) as attacker,
        ScriptedWorker(broker_settings) as worker,
        running(make(metrics_port=(port := free_port()))) as edge,
    ):
        for payload in garbage * 3:
            for topic in targets:
                await attacker.bus.publish(topic, payload, qos=1)
        await attacker.bus.publish(
            topics.ask_topic("gate", "me"),
            wire.encode(Ask(query_id="evil", text="Write elsewhere?")),
            qos=1,
            response_topic="lb/v2/open/main/gate",
        )
        await attacker.bus.publish(
            topics.ask_topic("gate", "me"), wire.encode(Ask(query_id="old", text="?")), retain=True
        )
        camera, opened = await worker.next_open()
        await worker.answer_all(camera, opened)
        await edge.watcher.until(lambda: any(terminal.frame == opened.frame for terminal in edge.watcher.ended))
        # Nobody is made to write elsewhere, and the question ends on the public topics.
        while all(ref.question_id != "evil" for ref in opened.queries):
            camera, opened = await worker.next_open()
            await worker.answer_all(camera, opened)
        await edge.watcher.until(lambda: any(terminal.query_id == "gate/@me/evil" for terminal in edge.watcher.ended))
        # Everything was acknowledged: the broker holds nothing back.
        await attacker.ask("gate", Ask(query_id="good", text="Still there?"))
        while all(ref.question_id != "good" for ref in opened.queries):
            camera, opened = await worker.next_open()
            await worker.answer_all(camera, opened)
        counts = await asyncio.to_thread(scrape, port, "latentbus_messages_dropped_total")
    assert counts['{kind="control/malformed"}'] >= 3 * 6
    assert counts['{kind="control/version"}'] == 3
    assert counts['{kind="answer/oversize"}'] == 3
    assert counts['{kind="ask/version"}'] == 3
    assert {kind.split('"')[1].split("/")[0] for kind in counts} == {"control", "answer", "ask", "question", "status"}


async def test_a_slow_encoder_does_not_hold_up_the_broker(
    make: Make, broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding, go_on = threading.Event(), threading.Event()
    plain = OnnxEncoder.encode

    def slow(self: OnnxEncoder, frames: Sequence[NDArray[np.uint8]]) -> list[EncodedLatent]:
        encoding.set()
        assert go_on.wait(20)
        return plain(self, frames)

    monkeypatch.setattr(OnnxEncoder, "encode", slow)
    async with ScriptedWorker(broker_settings) as worker, running(make()) as edge:
        try:
            assert await asyncio.to_thread(encoding.wait, 10)
            stranger = FrameId(1, 1)
            await worker.control("gate", Accept(worker="w-1", frame=stranger, attempt=1, lease_ms=100))
            revoke = await worker.next_in_inbox()
            assert isinstance(revoke, Revoke)
            assert revoke.frame == stranger
            assert edge.watcher.frames == {}
        finally:
            go_on.set()
        await worker.next_open()


async def test_the_uplink_rate_holds_on_the_wire(make: Make, broker_settings: BrokerSettings) -> None:
    cameras = {
        name: CameraSettings(source=f"test:{number}", interval_s=0.02, questions=("car",))
        for number, name in enumerate(("gate", "yard", "dock"))
    }
    rate_kbps = 80
    async with (
        ScriptedWorker(broker_settings) as worker,
        beside(answer_everything(worker)),
        running(make(cameras=cameras, uplink_kbps=rate_kbps)) as edge,
    ):
        await edge.watcher.until(lambda: len(edge.watcher.ended) >= 40)
        sent = list(edge.watcher.sent)
        await edge.end()
    took_s = sent[-1].at_s - sent[0].at_s
    carried = sum(entry.wire_bytes for entry in sent)
    largest = max(entry.wire_bytes for entry in sent)
    assert carried <= rate_kbps * 125 * (took_s + 0.02) + largest
    opens = [entry.camera for entry in sent if entry.label == "open"]
    assert max(map(opens.count, cameras)) - min(map(opens.count, cameras)) <= 3  # fair
    # Under overload frames are not taken at all, rather than taken and superseded.
    outcomes = {terminal.outcome for terminal in edge.watcher.ended}
    assert outcomes == {Outcome.ANSWERED}


async def test_not_one_camera_is_an_error_and_one_of_two_is_not(
    make: Make, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    missing = CameraSettings(source=str(tmp_path / "nowhere.mp4"), questions=("car",))
    edge = Running(make(cameras={"gate": missing}), 1.0)
    with pytest.raises(ExceptionGroup) as caught:
        await edge.task
    assert caught.group_contains(SourceError, match="nowhere")
    async with (
        ScriptedWorker(broker_settings) as worker,
        listening(broker_settings) as client,
        running(make(cameras={"gate": missing, "yard": QUIET["gate"]})) as edge,
    ):
        assert edge.watcher.up["yard"]
        await client.ask("yard", Ask(query_id="q1", text="Anyone?"))
        camera, _ = await worker.next_open()
        assert camera == "yard"


async def test_the_frame_log_ties_frames_to_their_source(
    make: Make, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    path = tmp_path / "frames.jsonl"
    async with (
        ScriptedWorker(broker_settings) as worker,
        beside(answer_everything(worker)),
        running(make(frame_log=path)) as edge,
    ):
        await edge.watcher.until(lambda: len(edge.watcher.ended) >= 3)
        assert await edge.end() == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    frames = {line["frame"]: line for line in lines if line["kind"] == "frame"}
    assert {str(frame): captured.index for (_, frame), (captured, _) in edge.watcher.frames.items()} == {
        frame: line["index"] for frame, line in frames.items()
    }
    ended = {line["query_id"] for line in lines if line["kind"] == "ended"}
    assert ended == {query_id for line in frames.values() for query_id in line["query_ids"]}
    assert sum(line["wire_bytes"] for line in lines if line["kind"] == "sent") == sum(
        sent.wire_bytes for sent in edge.watcher.sent
    )


@pytest.mark.parametrize("on", [False, True])
async def test_messages_carry_a_trace_where_it_is_switched_on(
    make: Make, broker_settings: BrokerSettings, on: bool
) -> None:
    broker = broker_settings.model_copy(update={"traceparent": on})
    settings = make().model_copy(update={"broker": broker})
    async with (
        connected(broker_settings, "watcher", f"{topics.ROOT}/open/main/+", all_properties=True) as bus,
        running(settings),
    ):
        (opened,) = await take(bus, 1)
    marks = () if opened.properties is None else opened.properties.user
    assert [name for name, _ in marks] == (["traceparent"] if on else [])


async def test_metrics_are_served(make: Make, broker_settings: BrokerSettings) -> None:
    port = free_port()
    async with (
        ScriptedWorker(broker_settings) as worker,
        beside(answer_everything(worker)),
        running(make(metrics_port=port)) as edge,
    ):
        await edge.watcher.until(lambda: edge.watcher.ended)
        samples = await asyncio.to_thread(scrape, port, "latentbus_")
    assert samples['uplink_wire_bytes_total{camera="gate"}'] > 100
    assert samples['source_up{camera="gate"}'] == 1.0
    assert samples["ready"] == samples["connected"] == 1.0
    assert samples['answer_seconds_count{answer="final",asked="standing"}'] >= 1
    assert samples['answer_seconds_count{answer="first",asked="standing"}'] >= 1
    assert samples['answer_latents_count{asked="standing"}'] >= 1
    assert samples['query_outcomes_total{asked="standing",outcome="answered",reason="none"}'] >= 1
    assert samples['sent_bytes_total{kind="open"}'] > 40
    assert samples['received_bytes_total{kind="answer"}'] > 40
    assert samples['health_conditions{condition="camera-stalled"}'] == 0
    assert samples['backlog_frames{pool="main"}'] >= 0
    assert any(name.startswith('build_info{fingerprint="') and 'process="edge"' in name for name in samples)
    assert samples['session_events_total{event="opens"}'] >= 1
