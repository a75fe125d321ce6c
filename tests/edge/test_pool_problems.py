"""An edge and a pool that do not fit, and two sites with one camera name: the log and the metrics say so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_nodes.pool_problems import MAX_CODECS, PoolProblems
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from schemas import topics, wire
from schemas.messages import Open, Reject, RejectReason, Status
from schemas.types import FrameId, Outcome
from tests.edge.running import running
from tests.edge.support import ScriptedWorker
from tests.edge.test_node import free_port, scrape
from tests.protocol.test_ad_hoc_questions import answer

FIX = "deploy the same codec folder on both sides (edge.codec, worker.codec)"


def reject(reason: RejectReason = RejectReason.FINGERPRINT, theirs: bytes = b"\x01\x02\x03\x04") -> Reject:
    return Reject(worker="w-1", frame=FrameId(1, 2), attempt=1, reason=reason, fingerprint=theirs)


def worker_status(fingerprint: str, pool: str = "main", *, online: bool = True) -> Status:
    return Status(kind="worker", id="w-1", boot=1, online=online, pool=pool, fingerprint=fingerprint)


@pytest.fixture
def problems() -> PoolProblems:
    return PoolProblems("main", "aabbccdd")


@pytest.fixture
def lines() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as logs:
        yield logs  # type: ignore[misc]


def test_a_foreign_codec_is_named_once_with_its_fix(problems: PoolProblems, lines: list[dict[str, object]]) -> None:
    for _ in range(50):
        problems.reject(reject())
    (line,) = lines
    assert (line["pool"], line["pool_codec"], line["edge_codec"], line["fix"]) == ("main", "01020304", "aabbccdd", FIX)
    assert not problems.fits
    assert problems.rejected == {"fingerprint": 50}


def test_an_answer_says_that_the_pool_fits_again(problems: PoolProblems, lines: list[dict[str, object]]) -> None:
    problems.reject(reject())
    fits = []
    for message in (answer().model_copy(update={"outcome": None}), answer()):
        problems.answer(message)
        fits.append(problems.fits)
    assert fits == [False, True]
    problems.reject(reject())
    assert [line["log_level"] for line in lines] == ["error", "info", "error"]


def test_other_rejections_are_counted_and_leave_the_pool_fit(problems: PoolProblems) -> None:
    problems.reject(reject(RejectReason.BITSTREAM))
    problems.reject(reject(RejectReason.CAMERA))
    assert problems.fits
    assert problems.rejected == {"bitstream": 1, "camera": 1}


def test_a_workers_status_tells_before_a_frame_is_lost(problems: PoolProblems, lines: list[dict[str, object]]) -> None:
    for status in (
        worker_status("aabbccdd"),
        worker_status("01020304", pool="other"),
        worker_status("01020304", online=False),
        worker_status(""),
    ):
        problems.worker_status(status)
    assert lines == []
    problems.worker_status(worker_status("01020304"))
    problems.worker_status(worker_status("01020304"))
    assert [line["fix"] for line in lines] == [FIX]
    assert problems.fits, "another worker may have the right one"


def test_peers_that_invent_codecs_fill_no_log(problems: PoolProblems, lines: list[dict[str, object]]) -> None:
    for number in range(1_000):
        problems.reject(reject(theirs=number.to_bytes(4, "big")))
    assert len(lines) == 2 * MAX_CODECS


# ---- a running edge -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def saying(settings: BrokerSettings, status: Status) -> AsyncIterator[None]:
    """Somebody else's retained status."""
    async with MqttBus(settings, client_id=f"another-{status.id}") as bus:
        await bus.wait_connected(10)
        await bus.publish(topics.status_topic(status.kind, status.id), wire.encode(status), qos=1, retain=True)
        yield


def site(broker_settings: BrokerSettings, codec_dir: Path, port: int) -> LatentbusSettings:
    edge = EdgeSettings(
        site="depot",
        codec=codec_dir,
        cameras={"gate": CameraSettings(source="test:1", interval_s=0.1, questions=("car",))},
        questions={"car": QuestionSettings(text="Is there a car?", deadline_ms=20_000)},
        metrics_port=port,
    )
    return LatentbusSettings(broker=broker_settings, edge=edge)


@pytest.mark.broker
async def test_the_log_the_metrics_and_readiness_of_an_edge_whose_codec_the_pool_lacks(
    broker_settings: BrokerSettings, codec_dir: Path
) -> None:
    port = free_port()

    async def refuse(worker: ScriptedWorker) -> Open:
        camera, opened = await worker.next_open()
        await worker.control(
            camera,
            Reject(
                worker=worker.name,
                frame=opened.frame,
                attempt=opened.attempt,
                reason=RejectReason.FINGERPRINT,
                fingerprint=b"\x01\x02\x03\x04",
            ),
        )
        return opened

    with capture_logs() as logs:
        async with (
            asyncio.timeout(30),
            ScriptedWorker(broker_settings) as worker,
            running(site(broker_settings, codec_dir, port)) as edge,
        ):
            await refuse(worker)
            await refuse(worker)
            await edge.watcher.until(lambda: len(edge.watcher.ended) >= 2)
            assert {end.outcome for end in edge.watcher.ended} == {Outcome.FAILED}
            wrong = await asyncio.to_thread(scrape, port, "latentbus_")
            camera, opened = await worker.next_open()
            await worker.answer_all(camera, opened)
            await edge.watcher.until(lambda: edge.watcher.ended[-1].outcome is Outcome.ANSWERED)
            right = await asyncio.to_thread(scrape, port, "latentbus_")
    assert (wrong["ready"], wrong["pool_fits"], right["ready"], right["pool_fits"]) == (0.0, 0.0, 1.0, 1.0)
    assert wrong['frames_rejected_total{reason="fingerprint"}'] >= 2
    assert [line["fix"] for line in logs if line.get("log_level") == "error"] == [FIX]


@pytest.mark.broker
async def test_another_site_with_a_camera_of_this_name_is_noticed_by_its_status(
    broker_settings: BrokerSettings, codec_dir: Path
) -> None:
    other = Status(kind="edge", id="harbour", boot=7, online=True, pool="main", cameras=("dock", "gate"))
    gone = Status(kind="edge", id="closed", boot=7, online=False, pool="main", cameras=("gate",))
    port = free_port()
    with capture_logs() as logs:
        async with (
            asyncio.timeout(30),
            saying(broker_settings, other),
            saying(broker_settings, gone),
            running(site(broker_settings, codec_dir, port)),
        ):
            counts = await asyncio.to_thread(scrape, port, "latentbus_messages_dropped_total")
    assert counts == {'{kind="status/camera"}': 1.0}
    (problem,) = [line["problem"] for line in logs if line.get("kind") == "status/camera"]
    assert "'harbour'" in problem
    assert "rename one of the two" in problem
