"""Events in the edge process, over a real broker: kept through a restart, fetched, masked, erased."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_nodes.picture import MAX_PICTURE_BYTES, MAX_SIDE_PX, jpeg_of
from latentbus.client.events import EventClient, EventFrame
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.settings import LatentbusSettings
from schemas.errors import EventError
from schemas.messages import EventEntry, Open
from tests.edge.running import running
from tests.edge.support import ScriptedWorker, grey, write_video

pytestmark = pytest.mark.broker


def settings(broker: BrokerSettings, codec_dir: Path, video: Path, state: Path) -> LatentbusSettings:
    edge = EdgeSettings.model_validate(
        {
            "site": "depot",
            "codec": codec_dir,
            "state_dir": state,
            "cameras": {
                "gate": {
                    "source": str(video),
                    "interval_s": 0.1,
                    "questions": ["car"],
                    "masks": [[0.0, 0.0, 0.5, 1.0]],
                    "ring": {"before_s": 30, "after_s": 0.2, "pictures_for": ["olga"]},
                }
            },
            "questions": {
                "car": {"text": "Is there a car?", "answer_type": "yes_no", "deadline_ms": 20_000, "keep_when": ["yes"]}
            },
        }
    )
    return LatentbusSettings(broker=broker, edge=edge)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "gate.mp4", [grey(200) for _ in range(20)], fps=20)


async def kept(client: EventClient) -> EventEntry:
    """The event: what the edge lists, it has stored before."""
    (*_, first) = await client.events("gate")
    return first


async def frames(client: EventClient, entry: EventEntry, *, pictures: bool = False) -> list[EventFrame]:
    return [frame async for frame in client.fetch("gate", entry.event, pictures=pictures)]


async def test_an_event_is_kept_through_a_restart_fetched_with_its_mask_and_erased(
    broker_settings: BrokerSettings, codec_dir: Path, video: Path, tmp_path: Path
) -> None:
    configured = settings(broker_settings, codec_dir, video, tmp_path / "state")
    async with (
        ScriptedWorker(broker_settings) as worker,
        EventClient(broker_settings, name="olga") as olga,
        EventClient(broker_settings, name="bob") as bob,
    ):
        async with running(configured) as edge:
            opened: list[Open] = []
            for _ in range(3):
                camera, message = await worker.next_open()
                opened.append(message)
                await worker.answer_all(camera, message, "no")
            camera, message = await worker.next_open()
            await worker.answer_all(camera, message, "yes")
            await edge.watcher.until(lambda: message.frame in [ended.frame for ended in edge.watcher.ended])
            entry = await kept(olga)
            assert (entry.event, entry.question_id, entry.text) == (message.frame, "car", "yes")
            assert entry.frames >= 4
            await edge.end()
        async with running(configured):
            again = await kept(olga)
            assert again.event == entry.event
            latents = await frames(olga, again)
            assert {one.frame for one in opened} <= {frame.frame for frame in latents}
            assert [frame.offset_ms for frame in latents] == sorted(frame.offset_ms for frame in latents)
            pictures = await frames(olga, again, pictures=True)
            assert len(pictures) == again.pictures == len(latents)
            shown = np.asarray(Image.open(io.BytesIO(pictures[0].payload)))
            half = shown.shape[1] // 2
            assert shown[:, : half - 8].max() < 8  # blacked out before anything was made of the frame
            assert shown[:, half + 8 :].min() > 150
            with pytest.raises(EventError, match="are not for bob"):
                await frames(bob, again, pictures=True)
            assert "frames of events" in await olga.erase("gate", event=again.event)
            with pytest.raises(EventError, match="are kept"):
                await frames(olga, again)
            assert again.event not in [found.event for found in await olga.events("gate")]


async def test_who_hears_nothing_is_told_so(broker_settings: BrokerSettings) -> None:
    async with EventClient(broker_settings, name="olga", patience_s=0.05) as olga:
        with pytest.raises(EventError, match="does the camera keep events"):
            await olga.events("gate")


def test_a_picture_is_small_whatever_the_frame_is() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1_500, 2_000, 3), dtype=np.uint8)
    made = jpeg_of(noise)
    assert made is not None
    assert len(made) <= MAX_PICTURE_BYTES
    assert max(Image.open(io.BytesIO(made)).size) == MAX_SIDE_PX
    assert jpeg_of(grey(7, 1, 1)) is not None
