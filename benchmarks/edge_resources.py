"""Memory and processor time of an edge process: ``python -m benchmarks.edge_resources``.

Starts the real command (``latentbus edge``) on a private broker with four cameras, two from H.264 files and two
rendered, three questions a frame, and answers every query at once, so that everything measured is the edge's own. Ends
with status 1 when the process was larger than its limit at any time.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from latentbus.fleet.frame_log import FrameLogReader
from latentbus.fleet.launcher import Launcher
from latentbus.fleet.settings import EVERY_FRAME
from latentbus.fleet.usage import cpu_s, resident_bytes
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.config.settings import (
    BrokerSettings,
    CameraSettings,
    EdgeSettings,
    LatentbusSettings,
    LogSettings,
    QuestionSettings,
)
from pipeline.scenes.questions import make_question
from pipeline.scenes.video import write_clip
from schemas import topics, wire
from schemas.errors import WireError
from schemas.identity import owner_of
from schemas.messages import Answer, Open
from schemas.topics import Family
from schemas.types import Outcome

LIMIT_MB = 250
QUESTIONS = {
    "car": make_question("existence", "car"),
    "buses": make_question("count", "bus"),
    "dog": make_question("existence", "dog"),
}


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


async def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Run the edge and look at it from outside."""
    codec = arguments.codec or bundled_codec_dir()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = await asyncio.to_thread(edge_settings, folder, codec, arguments.interval_s, arguments.uplink_kbps)
        async with Launcher(folder) as launcher:
            broker = await launcher.start_broker()
            answers = asyncio.create_task(answer_everything(broker))
            node = LatentbusSettings(broker=broker, edge=settings, log=LogSettings(level="warning"))
            edge = await launcher.start_node("edge", node)
            await edge.wait_ready()
            await asyncio.sleep(arguments.warm_up_s)
            before_s = cpu_s(edge.pid) or 0.0
            await asyncio.sleep(arguments.duration_s)
            used_s = (cpu_s(edge.pid) or 0.0) - before_s
            resident_mb, peak_mb = (resident_bytes(edge.pid, field) / 2**20 for field in ("VmRSS", "VmHWM"))
            status = await edge.drain()
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
        lines = list(FrameLogReader(folder / "frames.jsonl").new_records())
    frames = [line for line in lines if line["kind"] == "frame"]
    ended = [line for line in lines if line["kind"] == "ended"]
    wire_bytes = sum(line["wire_bytes"] for line in lines if line["kind"] == "sent")
    run_s = arguments.warm_up_s + arguments.duration_s
    return {
        "exit_status": status,
        "resident_mb": round(resident_mb, 1),
        "peak_resident_mb": round(peak_mb, 1),
        "frames": len(frames),
        "questions": len(ended),
        "answered": sum(line["outcome"] == "answered" for line in ended),
        "cpu_share_of_one_core": round(used_s / arguments.duration_s, 3),
        "cpu_ms_per_frame": round(1000 * used_s / max(1, len(frames) * arguments.duration_s / run_s), 2),
        "encode_ms_median": round(1000 * sorted(line["encode_s"] for line in frames)[len(frames) // 2], 2),
        "answer_ms_median": round(1000 * sorted(line["delay_s"] for line in ended)[len(ended) // 2], 1),
        "wire_bytes_per_question": round(wire_bytes / max(1, len(ended)), 1),
    }


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--codec", type=Path, help="codec folder (default: the bundled one)")
    parser.add_argument("--interval-s", type=float, default=1.0, help="time between frames of one camera")
    parser.add_argument("--uplink-kbps", type=float, default=256.0)
    parser.add_argument("--warm-up-s", type=float, default=5.0)
    parser.add_argument("--duration-s", type=float, default=15.0)
    figures = asyncio.run(measure(parser.parse_args()))
    for name, value in figures.items():
        print(f"{name:26} {value:g}")
    print(f"{'limit_mb':26} {LIMIT_MB}")
    return int(figures["peak_resident_mb"] > LIMIT_MB or figures["exit_status"] != 0)


if __name__ == "__main__":
    sys.exit(main())
