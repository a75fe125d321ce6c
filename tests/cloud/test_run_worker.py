"""The whole worker with real files, a real model class and a real broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker_config.launcher import LocalBroker
from cloud_workers.inference.registry import load_model
from cloud_workers.node import run_worker
from pipeline.codec.spec import load_codec_spec
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.runtime import Stop
from schemas import topics, wire
from schemas.errors import ArtifactError
from schemas.messages import Chunk, Open, Refine
from schemas.types import AnswerType, FrameId, Outcome
from tests.cloud.scripted import CAR, WAIT_S, ScriptedEdge
from tests.cloud.tiny_codec import LADDER, LATENT_COUNT, decode_whole, encode, random_symbols, write_vlm
from tests.protocol.questions import SITE, ref

pytestmark = pytest.mark.broker


def settings(broker_settings: BrokerSettings, vlm: Path, codec: Path) -> LatentbusSettings:
    worker = WorkerSettings(name="w-1", vlm=str(vlm), codec=codec, threads=1)
    return LatentbusSettings(broker=broker_settings, worker=worker)


async def test_a_frame_is_answered_as_the_model_answers_its_whole_latent(
    broker: LocalBroker, broker_settings: BrokerSettings, vlm_dir: Path, codec_dir: Path
) -> None:
    symbols = random_symbols(1, seed=21)[0]
    latent = encode(symbols, codec_dir)
    stop = Stop()
    async with ScriptedEdge(broker) as edge:
        task = asyncio.create_task(run_worker(settings(broker_settings, vlm_dir, codec_dir), stop))
        async with asyncio.timeout(WAIT_S):
            await stop.ready.wait()
        await edge.question(text="Is there a car?")
        opened = Open(
            frame=FrameId(1, 1),
            attempt=1,
            site=SITE,
            fingerprint=load_codec_spec(codec_dir).fingerprint4,
            queries=(ref(CAR, 20_000),),
            stop=LADDER[0],
            payload=latent.payload(0, LADDER[0]),
        )
        await edge.bus.publish(topics.open_topic("main", "gate"), wire.encode(opened), qos=1)
        # The rule of this codec calls nothing safe before the whole latent.
        for start, end in ((LADDER[0], LADDER[1]), (LADDER[1], LADDER[2])):
            assert (await edge.answer(1, final=False)).latents == start
            _, refine = await edge.expect(Refine)
            assert (refine.start, refine.stop) == (start, end)
            chunk = Chunk(
                camera="gate", frame=FrameId(1, 1), attempt=1, start=start, stop=end, payload=latent.payload(start, end)
            )
            await edge.bus.publish(topics.chunk_topic("w-1", "gate"), wire.encode(chunk))
        answer = await edge.answer(1)
        stop.request()
        assert await task == 0
    vlm = load_model(vlm_dir)
    expected = vlm.answer(decode_whole(symbols)[None], [("Is there a car?", AnswerType.TEXT)])[0]
    assert (answer.outcome, answer.latents, answer.looks) == (Outcome.ANSWERED, LATENT_COUNT, 3)
    assert answer.text == expected.text
    assert answer.score == pytest.approx(expected.probability, rel=1e-2)


async def test_latents_that_do_not_decode_end_as_failed(
    broker: LocalBroker, broker_settings: BrokerSettings, vlm_dir: Path, codec_dir: Path
) -> None:
    stop = Stop()
    async with ScriptedEdge(broker) as edge:
        task = asyncio.create_task(run_worker(settings(broker_settings, vlm_dir, codec_dir), stop))
        async with asyncio.timeout(WAIT_S):
            await stop.ready.wait()
        await edge.question()
        opened = Open(
            frame=FrameId(1, 1),
            attempt=1,
            site=SITE,
            fingerprint=load_codec_spec(codec_dir).fingerprint4,
            queries=(ref(CAR, 20_000),),
            stop=LADDER[0],
            payload=b"\xff" * 40,
        )
        await edge.bus.publish(topics.open_topic("main", "gate"), wire.encode(opened), qos=1)
        answer = await edge.answer(1)
        assert answer.outcome is Outcome.FAILED
        assert answer.reason.startswith("bitstream")
        stop.request()
        assert await task == 0


async def test_a_worker_with_the_wrong_model_does_not_start(
    tmp_path: Path, broker_settings: BrokerSettings, codec_dir: Path
) -> None:
    stop = Stop()
    with pytest.raises(ArtifactError, match="was made for tiny"):
        await run_worker(settings(broker_settings, write_vlm(tmp_path / "other", seed=9), codec_dir), stop)
    assert not stop.ready.is_set()
