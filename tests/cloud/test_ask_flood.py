"""Ten thousand asks a second at a worker process: it lives, its memory is bounded, and frames are answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker_config.launcher import LocalBroker
from pipeline.codec.spec import load_codec_spec
from pipeline.settings import BrokerSettings
from schemas import topics, wire
from schemas.messages import Open
from schemas.types import FrameId, Outcome
from tests.cloud.ask_flood import ask_flood
from tests.cloud.scripted import CAR, ScriptedEdge
from tests.cloud.tiny_codec import LATENT_COUNT, encode, random_symbols
from tests.cloud.worker_process import worker_process
from tests.protocol.questions import SITE, ref

pytestmark = pytest.mark.broker

ASKS = 50_000
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
                message = opened.model_copy(update={"frame": FrameId(1, sequence)})
                await edge.bus.publish(topics.open_topic("main", "gate"), wire.encode(message), qos=1)
                answer = await edge.answer(sequence)
                assert answer.outcome is Outcome.ANSWERED
        assert worker.resident_mb() - before_mb < MOST_GROWTH_MB
        assert await worker.stop() == 0
        assert not [line for line in worker.lines if line.get("level") == "error"]
