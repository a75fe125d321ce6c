"""Ten thousand asks a second at a worker process: it lives, its memory is bounded, and frames are answered.

Beside them somebody opens frames whose texts are unknown, as a thief would, or an edge after a broker has lost its
retained questions: each text that a worker learns might be one that such a frame waits for.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from broker_config.launcher import LocalBroker
from pipeline.codec.spec import load_codec_spec
from pipeline.config.broker_settings import BrokerSettings
from schemas import topics, wire
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.messages import Open
from schemas.types import FrameId, Outcome
from tests.cloud.ask_flood import ask_flood
from tests.cloud.scripted import CAR, ScriptedEdge
from tests.cloud.tiny_codec import LATENT_COUNT, encode, random_symbols
from tests.cloud.worker_process import worker_process
from tests.protocol.questions import SITE, content, ref

pytestmark = pytest.mark.broker

ASKS = 50_000
WAITING = 64
"""Frames with unknown texts that are opened before each frame that is to be answered."""
UNKNOWN = tuple(ref(content(f"u{number}"), 600_000) for number in range(MAX_QUERIES_PER_FRAME))
RATE_HZ = 10_000.0
MOST_GROWTH_MB = 60.0
"""Texts and addresses of 4 MiB, a full queue of what arrived of 32 MiB, and what the interpreter needs for both."""


async def test_a_worker_lives_and_answers_under_ten_thousand_asks_a_second(
    broker: LocalBroker, broker_settings: BrokerSettings, vlm_dir: Path, codec_dir: Path, tmp_path: Path
) -> None:
    latent = encode(random_symbols(1, seed=21)[0], codec_dir)
    opened = Open(
        frame=FrameId(1, 1),
        attempt=1,
        site=SITE,
        fingerprint=load_codec_spec(codec_dir).fingerprint4,
        queries=(ref(CAR, 60_000),),
        stop=LATENT_COUNT,
        payload=latent.payload(0, LATENT_COUNT),
    )
    async with ScriptedEdge(broker) as edge, worker_process(tmp_path, broker_settings, vlm_dir, codec_dir) as worker:
        await edge.question()
        before_mb = worker.resident_mb()
        with ask_flood(broker.port, camera="yard", rate_hz=RATE_HZ) as flood:
            sequence = 0
            while flood.sent < ASKS:
                sequence += 1
                for number in range(WAITING):
                    stranger = opened.model_copy(update={"frame": FrameId(2, sequence), "queries": UNKNOWN})
                    topic = topics.open_topic("main", f"stranger-{number}")
                    await edge.bus.publish(topic, wire.encode(stranger), qos=1)
                message = opened.model_copy(update={"frame": FrameId(1, sequence)})
                await edge.bus.publish(topics.open_topic("main", "gate"), wire.encode(message), qos=1)
                answer = await edge.answer(sequence)
                assert answer.outcome is Outcome.ANSWERED
        assert worker.resident_mb() - before_mb < MOST_GROWTH_MB
        assert await worker.stop() == 0
        assert not [line for line in worker.lines if line.get("level") == "error"]
