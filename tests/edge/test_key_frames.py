"""An edge whose camera stands still: a key frame for the whole pool, frames given it, and frames by themselves where a
worker lacks it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.codec.bitstream import decode_chunk
from pipeline.codec.prediction import KeyFramePrediction
from pipeline.codec.spec import TABLES_FILE
from pipeline.codec.tables import FrequencyTables
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from schemas import topics
from schemas.messages import Chunk, KeyFrame, Open, Reject, RejectReason
from schemas.types import Outcome
from tests.edge.running import Running, listening, running
from tests.edge.support import LATENTS, ScriptedWorker, grey, write_codec, write_video

pytestmark = pytest.mark.broker

FRAMES = 80


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_codec(tmp_path_factory.mktemp("key-frames"), prediction=True)


@pytest.fixture
def still(broker_settings: BrokerSettings, codec: Path, tmp_path: Path) -> LatentbusSettings:
    picture = grey(60)
    picture[:, 32:] = 200
    video = write_video(tmp_path / "still.mp4", [picture] * FRAMES, fps=40)
    camera = CameraSettings(source=str(video), interval_s=0.03, questions=("car",))
    question = QuestionSettings(text="Is there a car?", deadline_ms=20_000)
    edge = EdgeSettings(site="depot", codec=codec, cameras={"gate": camera}, questions={"car": question})
    return LatentbusSettings(broker=broker_settings, edge=edge)


def read(opened: Open | Chunk, tables: FrequencyTables, keys: dict[int, NDArray[np.int32]]) -> NDArray[np.int32]:
    """Symbols of a message, given the key frame that it names."""
    foretold = None if opened.key is None else KeyFramePrediction(keys[opened.key], tables)
    start = opened.start if isinstance(opened, Chunk) else 0
    return decode_chunk(opened.payload, start, opened.stop, tables, foretold)


async def next_given_key(worker: ScriptedWorker) -> Open:
    """The first open that names a key frame; those before it are answered."""
    while True:
        camera, opened = await worker.next_open()
        if opened.key is not None:
            return opened
        await worker.answer_all(camera, opened)


def symbols_of(edge: Running, opened: Open) -> NDArray[np.int32]:
    return edge.watcher.frames["gate", opened.frame][1].symbols


async def test_frames_are_read_with_the_key_frame_that_they_name(
    still: LatentbusSettings, broker_settings: BrokerSettings, codec: Path
) -> None:
    tables = FrequencyTables.load(codec / TABLES_FILE)
    async with ScriptedWorker(broker_settings) as worker, running(still) as edge:
        itself = await next_given_key(worker)
        assert itself.key == itself.frame.sequence
        # Retained: a worker that comes later gets it too.
        async with listening(broker_settings, topics.key_topic("main", "gate")) as late:
            inbound, key = await late.next(KeyFrame)
        assert isinstance(key, KeyFrame)
        assert inbound.retain
        assert (key.frame, key.fingerprint) == (itself.frame, itself.fingerprint)
        keys = {key.frame.sequence: decode_chunk(key.payload, 0, LATENTS, tables)}
        await worker.answer_all("gate", itself)
        opened = await next_given_key(worker)
        for message in (itself, opened):
            symbols = symbols_of(edge, message)
            np.testing.assert_array_equal(read(message, tables, keys), symbols[: message.stop])
        assert opened.key == key.frame.sequence
        assert len(opened.payload) < len(key.payload) / 3
        await worker.refine("gate", opened, 4, LATENTS)
        chunk = await worker.next_in_inbox()
        assert isinstance(chunk, Chunk)
        assert chunk.key == opened.key
        np.testing.assert_array_equal(read(chunk, tables, keys), symbols_of(edge, opened)[4:])
        labels = [sent.label for sent in edge.watcher.sent if sent.frame == itself.frame]
        assert labels == ["key_frame", "open"]


async def test_a_worker_that_lacks_the_key_frame_gets_the_frame_by_itself(
    still: LatentbusSettings, broker_settings: BrokerSettings, codec: Path
) -> None:
    tables = FrequencyTables.load(codec / TABLES_FILE)
    async with ScriptedWorker(broker_settings) as worker, running(still) as edge:
        opened = await next_given_key(worker)
        await worker.control(
            "gate",
            Reject(
                worker=worker.name,
                frame=opened.frame,
                attempt=opened.attempt,
                reason=RejectReason.KEY_FRAME,
                fingerprint=opened.fingerprint,
            ),
        )
        while True:
            camera, again = await worker.next_open()
            if again.frame == opened.frame:
                break
            await worker.answer_all(camera, again)
        assert (again.attempt, again.key) == (opened.attempt + 1, None)
        np.testing.assert_array_equal(read(again, tables, {}), symbols_of(edge, again)[: again.stop])
        await worker.answer_all(camera, again)
        await edge.watcher.until(lambda: [end for end in edge.watcher.ended if end.frame == opened.frame])
        (terminal,) = [end for end in edge.watcher.ended if end.frame == opened.frame]
        assert terminal.outcome is Outcome.ANSWERED


async def test_key_frames_can_be_turned_off(
    still: LatentbusSettings, broker_settings: BrokerSettings, codec: Path
) -> None:
    assert still.edge is not None
    settings = still.model_copy(update={"edge": still.edge.model_copy(update={"key_frames": False})})
    async with ScriptedWorker(broker_settings) as worker, running(settings) as edge:
        for _ in range(FRAMES // 4):
            camera, opened = await worker.next_open()
            assert opened.key is None
            await worker.answer_all(camera, opened)
        assert "key_frame" not in {sent.label for sent in edge.watcher.sent}
