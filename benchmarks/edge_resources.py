"""Memory and processor time of an edge process: ``python -m benchmarks.edge_resources``.

Starts the real command (``latentbus edge``) on a private broker with four cameras, two from H.264 files and two
rendered, three questions a frame, and answers every query at once, so that everything measured is the edge's own. Ends
with status 1 when the process was larger than its limit at any time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import yaml

from broker_config.launcher import LocalBroker
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.config.settings import BrokerSettings
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


def write_settings(folder: Path, broker: LocalBroker, codec: Path, interval_s: float, uplink_kbps: float) -> Path:
    """Clips and the YAML of the edge under test."""
    cameras = {}
    for number in range(4):
        source = f"test:{number}"
        if number < 2:
            clip = folder / f"clip{number}.mp4"
            write_clip(clip, seed=number, duration_s=10, fps=15, questions=QUESTIONS)
            source = str(clip)
        cameras[f"cam{number}"] = {"source": source, "interval_s": interval_s, "questions": list(QUESTIONS)}
    settings = {
        "broker": {"host": broker.host, "port": broker.port},
        "edge": {
            "site": "bench",
            "codec": str(codec),
            "uplink_kbps": uplink_kbps,
            "cameras": cameras,
            "questions": {name: {"text": question.text} for name, question in QUESTIONS.items()},
            "state_dir": str(folder / "state"),
            "frame_log": str(folder / "frames.jsonl"),
        },
        "log": {"level": "warning"},
    }
    path = folder / "edge.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


async def answer_everything(broker: LocalBroker) -> None:
    """A pool that needs no time."""
    settings = BrokerSettings(host=broker.host, port=broker.port)
    async with MqttBus(
        settings, client_id="answers", subscriptions=[Subscription(topics.share_filter("main"), qos=1)]
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


def process_mb(pid: int, field: str) -> float:
    """A size out of ``/proc/PID/status``."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def process_cpu_s(pid: int) -> float:
    """Processor time of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Run the edge and look at it from outside."""
    codec = arguments.codec or bundled_codec_dir()
    with tempfile.TemporaryDirectory() as name, LocalBroker() as broker:
        folder = Path(name)
        path = write_settings(folder, broker, codec, arguments.interval_s, arguments.uplink_kbps)
        answers = asyncio.create_task(answer_everything(broker))
        edge = await asyncio.create_subprocess_exec(sys.executable, "-m", "latentbus", "edge", "--config", str(path))
        try:
            await asyncio.sleep(arguments.warm_up_s)
            if edge.returncode is not None:
                raise SystemExit(f"the edge ended with status {edge.returncode}")
            before_s = process_cpu_s(edge.pid)
            await asyncio.sleep(arguments.duration_s)
            cpu_s = process_cpu_s(edge.pid) - before_s
            resident_mb, peak_mb = process_mb(edge.pid, "VmRSS"), process_mb(edge.pid, "VmHWM")
            edge.send_signal(signal.SIGTERM)
            status = await edge.wait()
        finally:
            if edge.returncode is None:
                edge.kill()
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
        lines = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
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
        "cpu_share_of_one_core": round(cpu_s / arguments.duration_s, 3),
        "cpu_ms_per_frame": round(1000 * cpu_s / max(1, len(frames) * arguments.duration_s / run_s), 2),
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
