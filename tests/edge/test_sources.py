from __future__ import annotations

import numpy as np
import pytest

from edge_nodes.sources import make_source, redacted
from edge_nodes.sources.rendered_camera import CLIP_S, FPS, RenderedCamera
from edge_nodes.sources.video_file import VideoFile
from pipeline.config.camera_settings import CameraSettings
from pipeline.scenes.questions import answer_to, make_question
from schemas.errors import SourceError
from tests.edge.support import SkippingClock


def source(text: str) -> CameraSettings:
    return CameraSettings(source=text)


def test_kinds_of_sources() -> None:
    assert isinstance(make_source("gate", source("clips/gate.mp4")), VideoFile)
    assert isinstance(make_source("gate", source("file:/clips/gate.mp4")), VideoFile)
    assert isinstance(make_source("gate", source("./odd:name.mp4")), VideoFile)
    assert isinstance(make_source("gate", source("test:7")), RenderedCamera)


def test_an_unknown_kind_is_named_without_its_password() -> None:
    with pytest.raises(SourceError, match="no source of kind 'rtmp'") as caught:
        make_source("gate", source("rtmp://admin:hunter2@10.0.0.7/stream"))
    assert "hunter2" not in str(caught.value)
    assert "admin" not in str(caught.value)
    assert caught.value.source == "rtmp://***@10.0.0.7/stream"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://u:p@host/x", "rtsp://***@host/x"),
        ("http://u@host:80/x?a=b@c", "http://***@host:80/x?a=b@c"),
        ("clips/a@b.mp4", "clips/a@b.mp4"),
        ("rtsp://admin:p@ss@host/x", "rtsp://***@host/x"),
        ("rtsp://admin:p/w#1@host/x", "rtsp://***@host/x"),
        ("http://host:8080/a@b http://host/c:d@e", "http://host:8080/a@b http://host/c:d@e"),
        ("http://cam/cgi?cmd=Snap&user=admin&password=hunter2", "http://cam/cgi?cmd=Snap&user=***&password=***"),
        ("snapshot:https://u:p@cam/now.jpg?token=abc#x", "snapshot:https://***@cam/now.jpg?token=***#x"),
    ],
)
def test_credentials_are_not_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize("text", ["test:", "test:x", "test:1?color=red", "test:1?questions=taste:car", "test:1?x"])
def test_a_rendered_camera_that_cannot_be(text: str) -> None:
    with pytest.raises(SourceError, match="test:SEED"):
        make_source("gate", source(text))


async def test_a_rendered_camera_repeats_itself_by_seed() -> None:
    async def two_frames(seed: int) -> list[np.ndarray]:
        clock = SkippingClock()
        camera = RenderedCamera("gate", seed, clock=clock)
        await camera.open()
        first = await camera.newest()
        clock.time_s += 1.0
        second = await camera.newest()
        await camera.close()
        assert (first.index, second.index) == (0, round(FPS))
        return [first.pixels, second.pixels]

    once, again, other = await two_frames(5), await two_frames(5), await two_frames(6)
    assert np.array_equal(once, again)
    assert not np.array_equal(once[0], once[1])
    assert not np.array_equal(once[0], other[0])


async def test_a_rendered_camera_never_repeats_a_frame_and_starts_again_after_its_clip() -> None:
    clock = SkippingClock()
    camera = RenderedCamera("gate", 5, clock=clock)
    await camera.open()
    first = await camera.newest()
    began_s = clock.now_s()
    following = await camera.newest()
    assert following.index == first.index + 1
    assert clock.now_s() - began_s == pytest.approx(1 / FPS)
    clock.time_s = began_s + CLIP_S
    again = await camera.newest()
    assert again.index == 0
    assert np.array_equal(again.pixels, first.pixels)
    await camera.close()


async def test_a_rendered_camera_is_laid_out_for_its_questions() -> None:
    clock = SkippingClock()
    camera = RenderedCamera.from_source("gate", "test:4?questions=color:car")
    camera._clock = clock
    await camera.open()
    assert camera._clip is not None
    question = make_question("color", "car")
    answers = {answer_to(question, camera._clip.scene_at(float(second))) for second in range(int(CLIP_S))}
    await camera.close()
    assert len(answers - {None}) > 2


async def test_a_camera_that_is_not_open_has_no_frame() -> None:
    with pytest.raises(SourceError, match="not open"):
        await RenderedCamera("gate", 1).newest()
