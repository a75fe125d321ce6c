"""One worker process in several pools: a connection, a name and a codec for each, the model once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from broker_config.launcher import LocalBroker
from cloud_workers.inference.in_process import open_in_process
from cloud_workers.loading import opened_once
from cloud_workers.node import run_worker
from pipeline.codec.spec import load_codec_spec
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.config.worker_settings import MorePoolSettings, WorkerSettings
from pipeline.node.metrics import Metrics
from pipeline.node.runtime import PartStop, Stop
from schemas import topics, wire
from schemas.errors import ArtifactError
from schemas.messages import Open
from schemas.types import FrameId, Outcome
from tests.cloud.engines import THREAD
from tests.cloud.scripted import CAR, WAIT_S, ScriptedEdge
from tests.cloud.tiny_codec import LADDER, encode, random_symbols, write_codec, write_vlm
from tests.protocol.questions import SITE, ref


@pytest.fixture(scope="module")
def sure_codec_dir(tmp_path_factory: pytest.TempPathFactory, vlm_dir: Path) -> Path:
    """A second codec for the same model, which calls every answer safe."""
    return write_codec(tmp_path_factory.mktemp("codec") / "sure", vlm_dir, thresholds=(0.0, 0.0, 0.0), version=2)


@pytest.mark.broker
async def test_frames_of_each_pool_are_answered_by_its_codec(
    broker: LocalBroker, broker_settings: BrokerSettings, vlm_dir: Path, codec_dir: Path, sure_codec_dir: Path
) -> None:
    worker = WorkerSettings(
        name="w-1",
        vlm=str(vlm_dir),
        codec=codec_dir,
        threads=1,
        more_pools={"sure": MorePoolSettings(codec=sure_codec_dir)},
    )
    stop = Stop()
    async with ScriptedEdge(broker) as edge:
        task = asyncio.create_task(run_worker(LatentbusSettings(broker=broker_settings, worker=worker), stop))
        async with asyncio.timeout(WAIT_S):
            await stop.ready.wait()
        await edge.question(text="Is there a car?")
        opened_to = (("main", codec_dir, LADDER[-1]), ("sure", sure_codec_dir, LADDER[0]))
        for sequence, (pool, codec, end) in enumerate(opened_to, start=1):
            latent = encode(random_symbols(1, seed=21)[0], codec)
            opened = Open(
                frame=FrameId(1, sequence),
                attempt=1,
                site=SITE,
                fingerprint=load_codec_spec(codec).fingerprint4,
                queries=(ref(CAR, 20_000),),
                stop=end,
                payload=latent.payload(0, end),
            )
            await edge.bus.publish(topics.open_topic(pool, "gate"), wire.encode(opened), qos=1)
        whole, early = await edge.answer(1), await edge.answer(2)
        assert (whole.worker, whole.outcome, whole.latents) == ("w-1", Outcome.ANSWERED, LADDER[-1])
        assert (early.worker, early.outcome, early.latents) == ("w-1-sure", Outcome.ANSWERED, LADDER[0])
        stop.request()
        assert await task == 0


async def test_one_pool_that_cannot_start_ends_the_process(
    tmp_path: Path, broker_settings: BrokerSettings, vlm_dir: Path, codec_dir: Path
) -> None:
    other = write_vlm(tmp_path / "other", seed=9)
    more = {"sure": MorePoolSettings(codec=codec_dir, vlm=str(other))}
    worker = WorkerSettings(name="w-1", vlm=str(vlm_dir), codec=codec_dir, threads=1, more_pools=more)
    stop = Stop()
    with pytest.RaisesGroup(pytest.RaisesExc(ArtifactError, match="was made for tiny")):
        await run_worker(LatentbusSettings(broker=broker_settings, worker=worker), stop)
    assert not stop.ready.is_set()


def test_pools_with_one_model_share_it(tmp_path: Path, vlm_dir: Path, codec_dir: Path, sure_codec_dir: Path) -> None:
    share = opened_once(open_in_process)
    settings = WorkerSettings(vlm=str(vlm_dir), threads=1)
    one = share(settings, load_codec_spec(codec_dir), THREAD)
    assert share(settings, load_codec_spec(sure_codec_dir), THREAD) is one
    other = write_vlm(tmp_path / "other", seed=9)
    theirs = write_codec(tmp_path / "codec", other)
    assert share(WorkerSettings(vlm=str(other), threads=1), load_codec_spec(theirs), THREAD) is not one


def test_metrics_of_parts_are_one_exposition_told_apart_by_a_label() -> None:
    metrics = Metrics()
    metrics.ready.set(1)
    for pool, count in (("main", 2), ("sure", 5)):
        part = metrics.part("pool", pool)
        part.counter("questions", "Questions.", ["camera"]).labels("gate").inc(count)
        part.watch_gauge("connected", "1 while connected", lambda: 1.0)
        part.ready.set(0)
    text = generate_latest(metrics.registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert text.count("# TYPE latentbus_questions_total ") == 1
    found = {sample.labels["pool"]: sample.value for sample in families["latentbus_questions"].samples
             if sample.name.endswith("_total")}  # fmt: skip
    assert found == {"main": 2, "sure": 5}
    assert [sample.labels for sample in families["latentbus_connected"].samples] == [{"pool": "main"}, {"pool": "sure"}]
    assert "latentbus_ready 1.0" in text.splitlines()


async def test_the_process_is_ready_when_all_parts_are_and_stops_as_one() -> None:
    whole, waited_for = Stop(3.0), {"a", "b"}
    one, two = PartStop(whole, waited_for, "a"), PartStop(whole, waited_for, "b")
    assert one.drain_timeout_s == 3.0
    one.set_ready()
    assert one.ready.is_set()
    assert not whole.ready.is_set()
    two.set_ready()
    assert whole.ready.is_set()
    before = one.requested
    two.request()
    await one.wait()
    assert (before, one.requested, whole.requested) == (False, True, True)
