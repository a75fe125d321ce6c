"""Questions about frames of the past, in the edge process and over a real broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge_nodes.frame_ring import RingKeeper
from edge_nodes.sources import CapturedFrame
from pipeline.codec.latent import EncodedLatent
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.settings import LatentbusSettings
from schemas.messages import Answer, Ask, FollowUp, QueryOutcome
from schemas.types import FrameId, Outcome
from tests.edge.running import listening, running
from tests.edge.support import ScriptedWorker

pytestmark = pytest.mark.broker


def settings(broker: BrokerSettings, codec_dir: Path, *, ring_s: float | None) -> LatentbusSettings:
    camera = CameraSettings.model_validate({"source": "test:1", "interval_s": 60.0, "ring": {"interval_s": ring_s}})
    edge = EdgeSettings.model_validate({"site": "depot", "codec": codec_dir, "cameras": {"gate": camera}})
    return LatentbusSettings(broker=broker, edge=edge)


class KeptFrames:
    """When the frames of the ring were captured, on the edge's clock."""

    def __init__(self) -> None:
        self._captured_s: list[float] = []
        self._changed = asyncio.Event()

    def add(self, captured_s: float) -> None:
        self._captured_s.append(captured_s)
        self._changed.set()

    async def until_one_is_old(self, age_s: float) -> None:
        """Wait until a frame was kept that was captured so long after the first."""
        while not self._captured_s or self._captured_s[-1] - self._captured_s[0] < age_s:
            self._changed.clear()
            await self._changed.wait()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> KeptFrames:
    frames, keep = KeptFrames(), RingKeeper.keep

    async def watched(keeper: RingKeeper, captured: CapturedFrame, latent: EncodedLatent, captured_s: float) -> FrameId:
        frame = await keep(keeper, captured, latent, captured_s)
        frames.add(captured_s)
        return frame

    monkeypatch.setattr(RingKeeper, "keep", watched)
    return frames


async def test_a_frame_that_nobody_asked_about_is_asked_later_and_again_without_latents(
    broker_settings: BrokerSettings, codec_dir: Path, kept: KeptFrames
) -> None:
    async with (
        listening(broker_settings, "lb/v2/answer/gate", "lb/v2/outcome/gate") as client,
        ScriptedWorker(broker_settings) as worker,
        running(settings(broker_settings, codec_dir, ring_s=0.1)) as edge,
    ):
        await kept.until_one_is_old(0.3)
        await client.ask("gate", Ask(query_id="before", text="What was there?", ago_ms=3_600_000))
        _, refused = await client.next(QueryOutcome)
        assert isinstance(refused, QueryOutcome)
        assert refused.reason.startswith(
            "not_held: no frame of camera gate is kept that is 3600 s old; the oldest that is kept is "
        )

        await client.ask("gate", Ask(query_id="then", text="What was there?", ago_ms=300))
        camera, opened = await worker.next_open()
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
