"""Questions about frames of the past, in the edge process and over a real broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pipeline.config.settings import BrokerSettings, CameraSettings, EdgeSettings, LatentbusSettings
from schemas.messages import Answer, Ask, FollowUp, QueryOutcome
from schemas.types import FrameId, Outcome
from tests.edge.running import listening, running
from tests.edge.support import ScriptedWorker

pytestmark = pytest.mark.broker


def settings(broker: BrokerSettings, codec_dir: Path, *, ring_s: float | None) -> LatentbusSettings:
    camera = CameraSettings.model_validate({"source": "test:1", "interval_s": 60.0, "ring": {"interval_s": ring_s}})
    # Whoever asks until the ring has a frame asks often.
    budget = {"asks_per_s": 10_000, "burst_asks": 100_000, "kbps": 1_000_000}
    edge = EdgeSettings.model_validate(
        {"site": "depot", "codec": codec_dir, "cameras": {"gate": camera}, "client_budgets": {"me": budget}}
    )
    return LatentbusSettings(broker=broker, edge=edge)


async def test_a_frame_that_nobody_asked_about_is_asked_later_and_again_without_latents(
    broker_settings: BrokerSettings, codec_dir: Path
) -> None:
    async with (
        listening(broker_settings, "lb/v2/answer/gate", "lb/v2/outcome/gate") as client,
        ScriptedWorker(broker_settings) as worker,
        running(settings(broker_settings, codec_dir, ring_s=0.1)) as edge,
    ):
        found: QueryOutcome | None = None
        for number in range(10_000):  # until the ring has a frame that is old enough
            await client.ask("gate", Ask(query_id=f"q{number}", text="What was there?", ago_ms=300))
            asked, refused = asyncio.ensure_future(worker.next_open()), asyncio.ensure_future(client.next(QueryOutcome))
            done, _ = await asyncio.wait({asked, refused}, return_when=asyncio.FIRST_COMPLETED)
            for task in {asked, refused} - done:
                task.cancel()
            await asyncio.gather(*({asked, refused} - done), return_exceptions=True)
            if asked in done:
                break
            _, message = refused.result()
            assert isinstance(message, QueryOutcome)
            found = message
            assert found.reason.startswith("not_held: no frame of camera gate is kept that is 0.3 s old")
        camera, opened = asked.result()
        assert isinstance(opened.age_ms, int)
        assert opened.age_ms >= 300
        await worker.answer_all(camera, opened, "a van")
        _, answer = await client.next(Answer)
        assert isinstance(answer, Answer)
        await edge.watcher.until(lambda: edge.watcher.ended)

        await client.ask("gate", Ask(query_id="more", text="What colour?", frame=opened.frame))
        follow_up = await worker.next_follow_up()
        assert isinstance(follow_up, FollowUp)
        assert isinstance(follow_up.age_ms, int)
        assert (follow_up.frame, follow_up.attempt) == (opened.frame, opened.attempt)
        assert follow_up.age_ms >= opened.age_ms
        assert [sent.label for sent in edge.watcher.sent if sent.frame == opened.frame] == ["open", "follow_up"]
        assert sum(sent.latent_bytes for sent in edge.watcher.sent if sent.label == "follow_up") == 0


async def test_a_camera_without_frames_of_the_past_says_so(broker_settings: BrokerSettings, codec_dir: Path) -> None:
    async with (
        listening(broker_settings, "lb/v2/outcome/gate") as client,
        running(settings(broker_settings, codec_dir, ring_s=None)),
    ):
        await client.ask("gate", Ask(query_id="a", text="What was there?", ago_ms=5_000))
        _, said = await client.next(QueryOutcome)
        assert isinstance(said, QueryOutcome)
        assert said.outcome is Outcome.FAILED
        assert said.reason == "not_held: no frame of camera gate is kept that is 5 s old; none is kept"
        await client.ask("gate", Ask(query_id="b", text="What was there?", frame=FrameId(1, 1)))
        _, said = await client.next(QueryOutcome)
        assert isinstance(said, QueryOutcome)
        assert said.reason == "not_held: frame 00000001-1 of camera gate is not kept; none is kept"
