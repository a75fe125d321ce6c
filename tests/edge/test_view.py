"""What of a camera's frames is looked at."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import structlog

from edge_nodes.first_prefix import FirstPrefix, first_latents
from edge_nodes.node import cameras_of_another_fit
from edge_nodes.sources import CapturedFrame, WatchedSource
from edge_nodes.sources.view import viewed
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.spec import load_codec_spec
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from schemas.errors import SourceError
from schemas.types import AnswerType
from tests.edge.support import LATENTS, grey


class Source:
    def __init__(self, *frames: np.ndarray) -> None:
        self.counters: Counter[str] = Counter(splice=1)
        self.frames = list(frames)
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def newest(self) -> CapturedFrame | None:
        return CapturedFrame("gate", 7, 1.5, self.frames.pop(0), 0.25) if self.frames else None

    async def close(self) -> None:
        self.is_open = False


class Watched(Source):
    async def watch(self) -> None:
        raise SourceError("gate", "gone")


def camera(**settings: object) -> CameraSettings:
    return CameraSettings.model_validate({"source": "test:1", **settings})


def test_a_camera_without_such_settings_is_not_touched() -> None:
    source = Source()
    assert viewed("gate", source, camera(), "stretch") is source
    assert viewed("gate", source, camera(fit="stretch"), "stretch") is source


async def test_masks_lie_over_the_whole_frame_before_the_region_is_cut_out() -> None:
    frame = grey(200, 40, 80)
    masks = [[0.5, 0.0, 1.0, 0.5], [[0.0, 0.0], [0.25, 0.0], [0.0, 0.5]]]
    source = Source(frame, grey(200, 20, 40))
    view = viewed("gate", source, camera(masks=masks, region=[0.25, 0, 1, 1], fit="letterbox"), "stretch")
    await view.open()
    shown = await view.newest()
    assert shown is not None
    assert (shown.camera, shown.index, shown.time_s, shown.age_s) == ("gate", 7, 1.5, 0.25)
    assert shown.pixels.shape == (60, 60, 3)
    picture = shown.pixels[10:50]
    assert not shown.pixels[:10].any()
    assert not picture[:20, 20:].any(), "the right half of the upper half is masked"
    assert (picture[20:] == 200).all()
    assert (picture[:19, 1:20] == 200).all()
    assert (frame == 200).all(), "the source keeps its own"
    smaller = await view.newest()
    assert smaller is not None
    assert smaller.pixels.shape == (30, 30, 3)
    assert await view.newest() is None
    assert view.counters == {"splice": 1}
    await view.close()
    assert not source.is_open


async def test_what_is_no_picture_is_left_to_who_refuses_it() -> None:
    view = viewed("gate", Source(np.zeros((4, 4)), np.zeros((0, 4, 3))), camera(masks=[[0, 0, 1, 1]]), "stretch")
    await view.open()
    for shape in ((4, 4), (0, 4, 3)):
        shown = await view.newest()
        assert shown is not None
        assert shown.pixels.shape == shape
    await view.close()


async def test_a_view_of_a_source_that_knows_when_it_is_lost_knows_too() -> None:
    view = viewed("gate", Watched(), camera(region=[0, 0, 0.5, 0.5]), "stretch")
    assert isinstance(view, WatchedSource)
    with pytest.raises(SourceError, match="gone"):
        await view.watch()
    assert not isinstance(viewed("gate", Source(), camera(region=[0, 0, 0.5, 0.5]), "stretch"), WatchedSource)


def test_a_fit_that_the_codec_was_not_calibrated_for_is_said_and_sends_everything(codec_dir: Path) -> None:
    cameras = {"gate": camera(fit="crop"), "yard": camera(fit="stretch"), "dock": camera()}
    edge = EdgeSettings(site="north", cameras=cameras)
    with structlog.testing.capture_logs() as lines:
        others = cameras_of_another_fit(edge, "stretch")
    assert others == ["gate"]
    assert [(line.get("camera"), line.get("fit"), line.get("calibrated")) for line in lines] == [
        ("gate", "crop", "stretch")
    ]
    first = FirstPrefix("base", codec_dir, load_codec_spec(codec_dir), None, whole=others)
    latent = EncodedLatent.__new__(EncodedLatent)  # of no meaning to a fixed length
    lengths = {name: first_latents(first.choose(name, latent, [AnswerType.WORD], 0.1)) for name in cameras}
    assert lengths == {"gate": LATENTS, "yard": 4, "dock": 4}


@pytest.mark.parametrize(
    "settings",
    [
        {"region": [0.5, 0, 0.5, 1]},
        {"region": [0, 0, 2, 1]},
        {"masks": [[[0, 0], [1, 1]]]},
        {"masks": [[0, 0, 1]]},
        {"masks": [[0, 0, 1, 1]] * 33},
        {"fit": "zoom"},
        {"stall_s": 0},
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        camera(**settings)
