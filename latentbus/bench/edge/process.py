"""A real edge process under load: its memory, its processor time, and whether it has loaded torch.

It has four cameras, two from H.264 files and two rendered, three questions a frame, and a pool that answers every query
at once, so that everything measured is the edge's own.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from latentbus.fleet.frame_log import FrameLogReader
from latentbus.fleet.launcher import Launcher
from latentbus.fleet.settings import EVERY_FRAME
from latentbus.fleet.usage import cpu_s, resident_bytes
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings, LogSettings
from pipeline.scenes.questions import make_question
from pipeline.scenes.video import write_clip
from schemas import topics, wire
from schemas.errors import WireError
from schemas.identity import owner_of
from schemas.messages import Answer, Open
from schemas.topics import Family
from schemas.types import Outcome

QUESTIONS: Final = {
    "car": make_question("existence", "car"),
    "buses": make_question("count", "bus"),
    "dog": make_question("existence", "dog"),
}


@dataclass(frozen=True, slots=True)
class EdgeRun:
    """What an edge process took.

    Attributes:
        exit_status: of the process.
        rss_peak_bytes: most memory that it had.
        rss_bytes: memory at the end.
        cpu_share_of_one_core: processor time in a second.
        cpu_ms_per_frame: the same for each frame: decoding, fitting, encoding, sending.
        frames: asked about.
        answered: questions that were answered.
        wire_bytes_per_question: on the uplink, all headers counted.
        torch: whether a library of torch was in its memory; None where the system does not tell.
    """

    exit_status: int
    rss_peak_bytes: int
    rss_bytes: int
    cpu_share_of_one_core: float
    cpu_ms_per_frame: float
    frames: int
    answered: int
    wire_bytes_per_question: float
    torch: bool | None


def edge_settings(folder: Path, codec: Path, interval_s: float, uplink_kbps: float) -> EdgeSettings:
    """The edge under test, and its clips."""
    cameras = {}
    for number in range(4):
        source = f"test:{number}"
        if number < 2:
            clip = folder / f"clip{number}.mp4"
            write_clip(clip, seed=number, duration_s=10, fps=15, questions=QUESTIONS)
            source = str(clip)
        cameras[f"cam{number}"] = CameraSettings(source=source, interval_s=interval_s, questions=tuple(QUESTIONS))
    return EdgeSettings(
        site="bench",
        codec=codec,
        change_gate=EVERY_FRAME,
        uplink_kbps=uplink_kbps,
        cameras=cameras,
        questions={name: QuestionSettings(text=question.text) for name, question in QUESTIONS.items()},
        state_dir=folder / "state",
        frame_log=folder / "frames.jsonl",
    )


async def answer_everything(broker: BrokerSettings) -> None:
    """A pool that needs no time."""
    async with MqttBus(
        broker, client_id="answers", subscriptions=[Subscription(topics.share_filter("main"), qos=1)]
    ) as bus:
        while True:
            for event in await bus.receive_batch():
                if isinstance(event, Inbound):
                    bus.acknowledge(event)
                    await _answer(bus, event)


async def _answer(bus: MqttBus, inbound: Inbound) -> None:
    try:
        camera = topics.parse(inbound.topic).name("camera")
        opened = wire.decode(Family.OPEN, inbound.payload)
    except WireError:
        return
    if not isinstance(opened, Open):
        return
    for ref, query_id in zip(opened.queries, opened.query_ids(camera), strict=True):
        answer = Answer(
            query_id=query_id,
            owner=owner_of("site", opened.site) if ref.client is None else owner_of("client", ref.client),
            camera=camera,
            frame=opened.frame,
            attempt=opened.attempt,
            question_id=ref.question_id,
            worker="bench",
            outcome=Outcome.ANSWERED,
            text="yes",
            score=1.0,
            latents=opened.stop,
            payload_bytes=len(opened.payload),
            looks=1,
        )
        await bus.publish(topics.answer_topic(camera), wire.encode(answer), qos=1)


async def run_edge_process(
    codec: Path,
    *,
    interval_s: float = 1.0,
    uplink_kbps: float = 256.0,
    warm_up_s: float = 5.0,
    duration_s: float = 15.0,
) -> EdgeRun:
    """Run an edge and look at it from outside.

    Args:
        codec: its codec folder.
        interval_s: time between frames of one camera.
        uplink_kbps: its uplink.
        warm_up_s: until its processor time counts.
        duration_s: how long it counts.

    Raises:
        BrokerStartError: there is no Mosquitto.
        ProcessEndedError: the edge ended.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = await asyncio.to_thread(edge_settings, folder, codec, interval_s, uplink_kbps)
        async with Launcher(folder) as launcher:
            broker = await launcher.start_broker()
            answers = asyncio.create_task(answer_everything(broker))
            node = LatentbusSettings(broker=broker, edge=settings, log=LogSettings(level="warning"))
            edge = await launcher.start_node("edge", node)
            await edge.wait_ready()
            await asyncio.sleep(warm_up_s)
            before_s = cpu_s(edge.pid) or 0.0
            await asyncio.sleep(duration_s)
            used_s = (cpu_s(edge.pid) or 0.0) - before_s
            resident, peak = (resident_bytes(edge.pid, field) for field in ("VmRSS", "VmHWM"))
            torch = has_mapped(edge.pid, "libtorch")
            status = await edge.drain()
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
        lines = list(FrameLogReader(folder / "frames.jsonl").new_records())
    frames = sum(line["kind"] == "frame" for line in lines)
    ended = [line for line in lines if line["kind"] == "ended"]
    wire_bytes = sum(line["wire_bytes"] for line in lines if line["kind"] == "sent")
    return EdgeRun(
        exit_status=status,
        rss_peak_bytes=peak,
        rss_bytes=resident,
        cpu_share_of_one_core=round(used_s / duration_s, 3),
        cpu_ms_per_frame=round(1000 * used_s / max(1.0, frames * duration_s / (warm_up_s + duration_s)), 2),
        frames=frames,
        answered=sum(line["outcome"] == "answered" for line in ended),
        wire_bytes_per_question=round(wire_bytes / max(1, len(ended)), 1),
        torch=torch,
    )


def has_mapped(pid: int, library: str) -> bool | None:
    """Whether a process has a library in its memory; None where the system does not tell."""
    try:
        return library in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
