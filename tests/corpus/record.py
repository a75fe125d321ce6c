"""Records the regression corpus: a small fleet with the bundled models, whole latents stored.

``python -m tests.corpus.record`` writes :data:`CORPUS` anew. That is needed when the bundled model, codec or stop rule
changes on purpose, and only then: the tests replay the file and expect the same answers and the same bytes.

A recording that would make fragile tests is thrown away and made again: with longer times between frames where the
machine was too slow, of other scenes where a score was near its threshold or too few answers were refined.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from analysis.traffic import Traffic, read_traffic
from broker_config.launcher import LocalBroker
from cloud_workers.node import run_worker
from edge_nodes.node import run_edge
from latentbus.client import Client
from latentbus.client.ask import Asking
from latentbus.demo.cameras import ANSWER_TYPES
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.stop_file import load_stop_rule
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.logs import configure_logging
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.recording_settings import EdgeRecordingSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.runtime import Stop
from pipeline.recording.format import Compression
from pipeline.recording.reader import LogReader
from pipeline.recording.writer import LogWriter
from pipeline.scenes.catalogue import QuestionKind
from pipeline.scenes.motion import standing_questions
from schemas.types import AnswerType, Outcome

CORPUS: Final = Path(__file__).with_name("fleet.mcap")
MAX_BYTES: Final = 2_000_000
"""What the corpus may weigh in the repository, all files together."""
SCORE_TOLERANCE: Final = 0.001
"""Scores are computed in 32 bits; another processor or library adds up in another order."""

KINDS: Final[tuple[QuestionKind, ...]] = ("color", "count", "count", "position")
"""What each camera is asked: what prefixes are unsure of, so that some frames are refined."""
MIN_REFINED: Final = 4
CAMERAS: Final = ("gate", "yard", "dock", "lane")
FIRST_SEED: Final = 7001
AD_HOC: Final = (
    ("gate", "visitor-1", "Is there a bus?", AnswerType.YES_NO),
    ("dock", "visitor-2", "How many cars are there?", AnswerType.COUNT),
)
FRAMES: Final = 20
"""Of each camera, beside those of ad-hoc questions."""
INTERVAL_S: Final = 1.0
LONGEST_INTERVAL_S: Final = 8.0
"""A machine that is too slow even so is not the place to record on."""
RECORDINGS: Final = 10
"""After so many the command gives up."""
DEADLINE_MS: Final = 120_000
"""Far beyond what any machine needs: an outcome must not depend on how busy it is."""
_PATIENCE_S: Final = 120.0


def worker_settings(broker: BrokerSettings, *, codec: Path | None = None) -> LatentbusSettings:
    """A worker whose numbers depend on the frame alone: one frame a batch, one thread.

    Args:
        broker: where it works.
        codec: its codec folder; None is the bundled one.
    """
    worker = WorkerSettings(name="w1", threads=1, max_batch_frames=1, codec=codec)
    return LatentbusSettings(broker=broker, worker=worker)


@asynccontextmanager
async def running(main: Callable[[Stop], Awaitable[int]]) -> AsyncIterator[None]:
    """An edge or a worker of this process; it is drained when the context ends."""
    stop = Stop(drain_timeout_s=_PATIENCE_S)
    task = asyncio.ensure_future(main(stop))
    ready = asyncio.ensure_future(stop.ready.wait())
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield
        stop.request()
        await task
    finally:
        for future in (task, ready):
            future.cancel()
        await asyncio.gather(task, ready, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Take:
    """One recording.

    Attributes:
        first_seed: of the scene of the first camera; the others follow.
        interval_s: time between the frames of a camera.
    """

    first_seed: int = FIRST_SEED
    interval_s: float = INTERVAL_S

    def calmer(self) -> Take:
        """The same scenes, with more time for each frame."""
        return replace(self, interval_s=2 * self.interval_s)

    def elsewhere(self) -> Take:
        """Other scenes."""
        return replace(self, first_seed=self.first_seed + len(CAMERAS))


def _edge_settings(broker: BrokerSettings, log: Path, take: Take) -> LatentbusSettings:
    cameras: dict[str, CameraSettings] = {}
    questions: dict[str, QuestionSettings] = {}
    for seed, camera in enumerate(CAMERAS, take.first_seed):
        specs = standing_questions(seed, KINDS)
        ids = [f"{camera[0]}{number + 1}" for number in range(len(specs))]
        layout = ",".join(":".join(filter(None, (spec.kind, spec.object_kind, spec.color))) for spec in specs)
        cameras[camera] = CameraSettings(
            source=f"test:{seed}?questions={layout}", interval_s=take.interval_s, questions=tuple(ids)
        )
        for question_id, spec in zip(ids, specs, strict=True):
            questions[question_id] = QuestionSettings(
                text=spec.text, answer_type=ANSWER_TYPES[spec.kind], deadline_ms=DEADLINE_MS
            )
    edge = EdgeSettings(
        first_prefix="base",  # some frames shall be refined
        site="corpus",
        cameras=cameras,
        questions=questions,
        recording=EdgeRecordingSettings(file=log, full_latents=True),
    )
    return LatentbusSettings(broker=broker, edge=edge)


async def _ask(broker: BrokerSettings) -> None:
    for camera, query_id, text, answer_type in AD_HOC:
        asking = Asking.create(
            camera, text, answer_type, deadline_s=DEADLINE_MS / 1000, query_id=query_id, client="visitor"
        )
        async with Client(broker, name=asking.client) as client, asyncio.timeout(_PATIENCE_S):
            async for _ in client.follow(asking.camera, asking.message, check=False):
                pass


async def _run_fleet(log: Path, take: Take) -> None:
    with LocalBroker() as local:
        broker = BrokerSettings(host=local.host, port=local.port)
        edge = _edge_settings(broker, log, take)
        async with (
            running(lambda stop: run_worker(worker_settings(broker), stop)),
            running(lambda stop: run_edge(edge, stop)),
        ):
            await asyncio.gather(asyncio.sleep(FRAMES * take.interval_s), _ask(broker))


def late(traffic: Traffic) -> list[str]:
    """What happened because the machine was too slow; nothing when it was not."""
    found = [
        f"{query.query_id} ended as {query.outcome}"
        for query in traffic.queries.values()
        if query.outcome is not Outcome.ANSWERED
    ]
    return found + [f"{name}: opened again" for name, frame in traffic.frames.items() if len(frame.opens) != 1]


def unfit(traffic: Traffic) -> list[str]:
    """Why a recording of these scenes is no good as a corpus; nothing when it is."""
    found: list[str] = []
    rule = load_stop_rule(bundled_codec_dir())
    for query in traffic.queries.values():
        for _, answer in query.answers:
            # The verdict must not hang on the last digits of a score.
            kind = query.answer_type or AnswerType.TEXT
            near = {
                rule.is_safe(kind, answer.latents, min(1.0, max(0.0, answer.score + step)))
                for step in (-2 * SCORE_TOLERANCE, 2 * SCORE_TOLERANCE)
            }
            if len(near) > 1:
                found.append(f"{query.query_id}: score {answer.score} is too near to its threshold")
    found += [f"{name}: no whole latent" for name, frame in traffic.frames.items() if frame.stored_latent is None]
    refined = sum(bool(frame.chunks) for frame in traffic.frames.values())
    if refined < MIN_REFINED:
        found.append(f"{refined} frames were refined, {MIN_REFINED} are wanted")
    return found


def _copy(source: Path, target: Path) -> Traffic:
    """Copy a log without what is of the machine that recorded it: its settings and its processes' status."""
    with LogReader(source) as reader:
        messages = list(reader.messages())
        attachments = reader.attachments()
    with LogWriter(target, compression=Compression.ZSTD) as writer:
        for name in ("codec.json", "stop.json"):
            writer.attach(name, "application/json", attachments[name])
        for message in messages:
            writer.write(message)
    return read_traffic(messages)


def record(target: Path) -> list[str]:
    """Record a corpus.

    Args:
        target: the log, written when a recording was good.

    Returns:
        What is wrong with the last recording; nothing when it was written.
    """
    take, bad = Take(), ["nothing was recorded"]
    for number in range(1, RECORDINGS + 1):
        with tempfile.TemporaryDirectory() as folder:
            recorded, copy = Path(folder) / "edge.mcap", Path(folder) / "copy.mcap"
            asyncio.run(_run_fleet(recorded, take))
            traffic = _copy(recorded, copy)
            size = copy.stat().st_size
            if size > MAX_BYTES:
                return [f"{size} bytes are over the limit of {MAX_BYTES}: fewer frames (FRAMES) are needed"]
            slow = late(traffic)
            bad = slow or unfit(traffic)
            if not bad:
                target.write_bytes(copy.read_bytes())
                refined = sum(bool(frame.chunks) for frame in traffic.frames.values())
                sys.stdout.write(
                    f"{target}: {len(traffic.frames)} frames ({refined} refined), {len(traffic.queries)} queries, "
                    f"{size} bytes; scenes from {take.first_seed}, a frame every {take.interval_s:g} s\n"
                )
                return []
        if slow and take.interval_s >= LONGEST_INTERVAL_S:
            return bad
        take = take.calmer() if slow else take.elsewhere()
        sys.stderr.write(f"recording {number} is no good: {bad[0]} ({len(bad)} such); next: {take}\n")
    return bad


def main() -> int:
    """Record the corpus."""
    configure_logging("warning")
    bad = record(CORPUS)
    if bad:
        sys.stderr.write("\n".join([*bad, f"{CORPUS.name} stays as it was"]) + "\n")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
