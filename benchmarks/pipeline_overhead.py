"""Processor time of everything but the models, a question: ``python -m benchmarks.pipeline_overhead``.

Runs a real edge and a real worker with the bundled models and a private broker in this one process, and takes the time
that the model libraries spend (ONNX Runtime on the edge; prefix decoder and VLM on the worker) off the time of the
process. What stays is frames, range coding, protocol, messages, MQTT, logs and metrics of both sides; decoding of the
video is shown apart, because it is the camera's and depends on its frame rate alone. "kernel" is
the part of the whole process that is spent in system calls. Ends with status 1 when the rest is over its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import onnxruntime
import uvloop

from broker_config.launcher import LocalBroker
from cloud_workers.inference.in_process import InProcessBackend
from cloud_workers.node import run_worker
from edge_nodes.node import run_edge
from edge_nodes.observer import OfferedFrame
from latentbus.demo.cameras import edge_settings, prepare_cameras
from latentbus.demo.options import DemoOptions
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.prefix_decoder_torch import PrefixDecoder
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.logs import configure_logging
from pipeline.config.settings import LatentbusSettings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.runtime import Stop
from pipeline.protocol.effects import Decision
from pipeline.protocol.ports import Sent

LIMIT_MS = 2.0
MODELS = ("encoder", "prefix decoder", "vlm")
SOURCE_THREADS = "camera-"
"""Beginning of the names of the threads that decode video."""


class ModelMeter:
    """Processor seconds inside the model libraries, by library; each call is measured in its own thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(MODELS, 0.0)
        self._lock = threading.Lock()

    def metered(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, measured."""

        def call(*arguments: Any, **options: Any) -> Any:
            before_s = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                with self._lock:
                    self.seconds[name] += time.thread_time() - before_s

        return call


class Outcomes:
    """An edge observer that counts what ended."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()

    def frame_offered(self, offered: OfferedFrame) -> None:
        """Not counted."""

    def message_sent(self, sent: Sent) -> None:
        """Not counted."""

    def query_ended(self, decision: Decision, delay_s: float | None) -> None:  # noqa: ARG002 - the observer's interface
        """One more."""
        self.ended[str(decision.outcome)] += 1

    def source_changed(self, camera: str, up: bool) -> None:
        """Not counted."""


def source_seconds() -> float:
    """Processor seconds of the threads that decode video, so far (Linux)."""
    total_s = 0.0
    for thread in threading.enumerate():
        if thread.name.startswith(SOURCE_THREADS):
            statistics = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
            total_s += int(statistics.split()[0]) / 1e9
    return total_s


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Run edge and worker for a while and read the clocks."""
    options = DemoOptions(work_dir=arguments.work_dir, uplink_kbps=64)
    cameras = prepare_cameras(options, print)
    meter, outcomes = ModelMeter(), Outcomes()
    with ExitStack() as stack:
        broker = stack.enter_context(LocalBroker())
        calls = ((onnxruntime.InferenceSession, "run"), (PrefixDecoder, "decode"), (InProcessBackend, "answer"))
        for name, (owner, method) in zip(MODELS, calls, strict=True):
            stack.enter_context(patch.object(owner, method, meter.metered(name, getattr(owner, method))))
        connection = BrokerSettings(host=broker.host, port=broker.port)
        edge = edge_settings(cameras, options, folder, bundled_codec_dir()).model_copy(update={"frame_log": None})
        edge_stop, worker_stop = Stop(), Stop()
        worker = asyncio.create_task(
            run_worker(LatentbusSettings(broker=connection, worker=WorkerSettings(threads=1)), worker_stop)
        )
        await worker_stop.ready.wait()
        site = asyncio.create_task(
            run_edge(LatentbusSettings(broker=connection, edge=edge), edge_stop, observers=[outcomes])
        )
        await edge_stop.ready.wait()
        await asyncio.sleep(arguments.warm_up_s)
        ended = outcomes.ended.total()
        before_s, models_s, sources_s = time.process_time(), sum(meter.seconds.values()), source_seconds()
        by_model, kernel_s = dict(meter.seconds), os.times().system
        await asyncio.sleep(arguments.duration_s)
        process_s, kernel_s = time.process_time() - before_s, os.times().system - kernel_s
        models_s = sum(meter.seconds.values()) - models_s
        sources_s = source_seconds() - sources_s
        questions = outcomes.ended.total() - ended
        edge_stop.request()
        status = await site
        worker_stop.request()
        status |= await worker

    def per_question_ms(seconds: float) -> float:
        return 1000 * seconds / max(1, questions)

    return {
        "exit_status": status,
        "questions": questions,
        "answered_share": outcomes.ended["answered"] / max(1, outcomes.ended.total()),
        "process_ms": per_question_ms(process_s),
        **{f"{name}_ms": per_question_ms(meter.seconds[name] - by_model[name]) for name in MODELS},
        "kernel_ms": per_question_ms(kernel_s),
        "video_decoding_ms": per_question_ms(sources_s),
        "pipeline_overhead_ms": per_question_ms(process_s - models_s - sources_s),
    }


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--warm-up-s", type=float, default=5.0)
    parser.add_argument("--duration-s", type=float, default=20.0)
    parser.add_argument("--work-dir", type=Path, default=Path(".demo"), help="where the demo's clips are")
    arguments = parser.parse_args()
    configure_logging("warning")
    with tempfile.TemporaryDirectory() as folder:
        figures = uvloop.run(measure(arguments, Path(folder)))
    print("processor time of edge and worker together, milliseconds a question")
    for name, value in figures.items():
        print(f"{name:22} {value:8.3f}")
    print(f"{'limit_ms':22} {LIMIT_MS:8.3f}")
    bad = figures["pipeline_overhead_ms"] > LIMIT_MS or figures["exit_status"] != 0 or figures["questions"] == 0
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
