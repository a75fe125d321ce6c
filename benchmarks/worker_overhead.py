"""CPU time that a worker spends on a question outside the model: messages, latents, session, answers.

    python benchmarks/worker_overhead.py [--frames 60] [--questions 3] [--rate 4] [--repeats 3]

A private broker and a worker whose model answers at once; the latents are real and range-decoded as in production.
Frames arrive at the given rate, one in four is refined once. Printed are CPU milliseconds of the worker's process a
question, what an idle worker spends in the same time taken off.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
import uvloop
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from broker_config.launcher import LocalBroker
from cloud_workers.inference.backend import InferenceAnswer
from cloud_workers.inference.in_process import InProcessBackend
from cloud_workers.model_thread import model_thread
from cloud_workers.node import WorkerNode
from cloud_workers.pass_engine import VlmPassEngine
from cloud_workers.prefix_store import PrefixStore
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.tables import FrequencyTables
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.logs import configure_logging
from pipeline.node.metrics import Metrics
from pipeline.node.runtime import Stop
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_session import WorkerSession
from pipeline.protocol.worker_status import WorkerIdentity
from schemas import topics, wire
from schemas.messages import Answer, Chunk, Open, QueryRef, Question, Refine
from schemas.topics import Family
from schemas.types import AnswerType, FrameId

LATENTS, LATENT_DIM = 48, 32
LADDER = (24, 36, LATENTS)
FINGERPRINT = b"none"
SITE = "bench"
CAMERAS = 8
REFINED_ONE_IN = 4


class InstantModel:
    """Takes no time; every fourth question is not sure of the base prefix."""

    family, token_count, token_dim = "instant", 1, 1

    def answer(
        self,
        tokens: torch.Tensor,
        questions: Sequence[tuple[str, AnswerType]],
        *,
        frames: Sequence[int] | None = None,
    ) -> list[InferenceAnswer]:
        """Answers at once."""
        rows = range(len(questions)) if frames is None else frames
        return [InferenceAnswer("yes", float(tokens[row, 0, 0]), 2, 0.5, 0.5) for row in rows]


class InstantDecoder:
    """Puts the score of a prefix where the tokens would be: what the real one computes belongs to the model."""

    def decode(self, symbols: NDArray[np.int32], prefix_lengths: NDArray[np.int64]) -> torch.Tensor:
        """Scores ``[B, 1, 1]``."""
        sure = (symbols[:, 0, 0] % REFINED_ONE_IN != 0) | (prefix_lengths > LADDER[0])
        return torch.from_numpy(sure.astype(np.float32))[:, None, None]


def make_latents(count: int) -> tuple[list[EncodedLatent], FrequencyTables]:
    """Latents of some 250 bytes."""
    generator = np.random.default_rng(0)
    scale = np.linspace(2.0, 0.3, LATENTS)[None, :, None]
    symbols = np.rint(generator.laplace(0, scale, (count, LATENTS, LATENT_DIM))).astype(np.int32)
    symbols[:, 0, 0] = np.arange(count) % REFINED_ONE_IN
    tables = FrequencyTables.fit(symbols, support=8)
    return [EncodedLatent(frame, tables) for frame in symbols], tables


def worker_process(port: int, pipe: Connection) -> None:
    """The worker; reports its CPU seconds whenever it is asked."""
    configure_logging("warning")
    _, tables = make_latents(64)
    uvloop.run(_work(port, tables, pipe))


async def _work(port: int, tables: FrequencyTables, pipe: Connection) -> None:
    identity = WorkerIdentity("w-1", "main", 1, FINGERPRINT)
    rule = StopRule(LADDER, (0.5, 0.5, 0.0), {}, 0.02)
    session = WorkerSession(WorkerProtocolSettings(), identity=identity, stop_rule=rule)
    bus = MqttBus(
        BrokerSettings(port=port),
        client_id="w-1",
        subscriptions=session.subscriptions(),
        will=session.will(),
    )
    stop = Stop()

    async def serve_pipe() -> None:
        await stop.ready.wait()
        pipe.send(cpu_seconds())
        while await asyncio.to_thread(pipe.recv):
            pipe.send(cpu_seconds())
        stop.request()

    with model_thread(1) as thread:
        async with bus, asyncio.TaskGroup() as group:
            engine = VlmPassEngine(
                PrefixStore(tables, InstantDecoder()), InProcessBackend(InstantModel(), thread), thread
            )
            node = WorkerNode(session, bus, engine, Metrics())
            group.create_task(serve_pipe())
            await node.run(stop)


def cpu_seconds() -> float:
    """CPU time of this process so far, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@dataclass
class Run:
    """What the edge saw of one run."""

    answered: int = 0
    refined: int = 0
    seconds: float = 0.0


class BenchEdge:
    """Opens frames at a steady rate and refines on request.

    Args:
        port: of the broker.
        frames: how many.
        questions: of each frame.
        first: sequence number of the first frame.
    """

    def __init__(self, port: int, frames: int, questions: int, first: int) -> None:
        self._latents, _ = make_latents(64)
        self._frames = range(first, first + frames)
        self._questions = [
            Question(site=SITE, question_id=f"q{number}", text="Is there a car?") for number in range(questions)
        ]
        self._run = Run()
        self._bus = MqttBus(
            BrokerSettings(port=port),
            client_id="edge",
            subscriptions=[
                Subscription(topics.family_filter(family), qos=1) for family in (Family.CONTROL, Family.ANSWER)
            ],
        )

    async def drive(self, rate_hz: float) -> Run:
        """Play all frames, and wait for every terminal answer."""
        started = perf_counter()
        async with self._bus:
            await self._bus.wait_connected(10)
            for question in self._questions:
                topic = topics.question_topic(SITE, question.question_id)
                await self._bus.publish(topic, wire.encode(question), qos=1, retain=True)
            async with asyncio.timeout(len(self._frames) / rate_hz + 30), asyncio.TaskGroup() as group:
                group.create_task(self._listen())
                for number, sequence in enumerate(self._frames):
                    await asyncio.sleep(max(0.0, started + number / rate_hz - perf_counter()))
                    await self._open(number, sequence)
        self._run.seconds = perf_counter() - started
        return self._run

    async def _open(self, number: int, sequence: int) -> None:
        refs = [QueryRef(one.question_id, 20_000, one.content().digest) for one in self._questions]
        opened = Open(
            frame=FrameId(1, sequence),
            attempt=1,
            site=SITE,
            fingerprint=FINGERPRINT,
            queries=tuple(refs),
            stop=LADDER[0],
            payload=self._latents[sequence % len(self._latents)].payload(0, LADDER[0]),
        )
        await self._bus.publish(topics.open_topic("main", f"camera-{number % CAMERAS}"), wire.encode(opened), qos=1)

    async def _listen(self) -> None:
        while self._run.answered < len(self._frames) * len(self._questions):
            for event in await self._bus.receive_batch():
                if not isinstance(event, Inbound):
                    continue
                self._bus.acknowledge(event)
                topic = topics.parse(event.topic)
                message = wire.decode(topic.family, event.payload)
                if isinstance(message, Answer) and message.outcome is not None:
                    self._run.answered += 1
                elif isinstance(message, Refine):
                    self._run.refined += 1
                    await self._refine(topic.name("camera"), message)

    async def _refine(self, camera: str, wanted: Refine) -> None:
        latent = self._latents[wanted.frame.sequence % len(self._latents)]
        chunk = Chunk(
            camera=camera,
            frame=wanted.frame,
            attempt=wanted.attempt,
            start=wanted.start,
            stop=wanted.stop,
            payload=latent.payload(wanted.start, wanted.stop),
        )
        await self._bus.publish(topics.chunk_topic(wanted.worker, camera), wire.encode(chunk))


def measure(frames: int, questions: int, rate_hz: float, repeats: int) -> list[float]:
    """CPU milliseconds a question, one figure a repeat."""
    figures = []
    with LocalBroker() as broker:
        ours, theirs = multiprocessing.Pipe()
        # Spawned: a forked child would inherit threads that are not there.
        process = multiprocessing.get_context("spawn").Process(target=worker_process, args=(broker.port, theirs))
        process.start()
        try:
            ours.recv()
            uvloop.run(BenchEdge(broker.port, 20, questions, 0).drive(20.0))  # imports and caches
            for repeat in range(repeats):
                ours.send(True)
                before = ours.recv()
                run = uvloop.run(BenchEdge(broker.port, frames, questions, 1_000_000 * (repeat + 1)).drive(rate_hz))
                ours.send(True)
                spent = ours.recv() - before
                ours.send(True)
                idle_before = ours.recv()
                uvloop.run(asyncio.sleep(min(5.0, run.seconds)))
                ours.send(True)
                idle = (ours.recv() - idle_before) * run.seconds / min(5.0, run.seconds)
                figures.append(1_000 * (spent - idle) / run.answered)
                print(
                    f"run {repeat + 1}: {run.answered} questions in {run.seconds:.1f} s, {run.refined} refined, "
                    f"{spent:.2f} s CPU, {idle:.2f} s of it idle: {figures[-1]:.2f} ms a question"
                )
        finally:
            ours.send(False)
            process.join(10)
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="CPU time of a worker a question, outside the model")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rate", type=float, default=4.0, help="frames a second")
    parser.add_argument("--questions", type=int, default=3, help="questions a frame")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    figures = measure(arguments.frames, arguments.questions, arguments.rate, arguments.repeats)
    print(f"median {median(figures):.2f} ms CPU a question on the worker, outside the model")


if __name__ == "__main__":
    main()
