"""How much there is to see: a covered camera has next to nothing, whatever the noise and the masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_nodes.health import camera_signs
from edge_nodes.picture_detail import DETAIL_BAD, DETAIL_OVER, picture_detail
from edge_nodes.sources import make_source
from pipeline.config.camera_settings import CameraSettings
from tests.edge.test_capture import Rig

RANDOM = np.random.default_rng(5)


def noisy(brightness: NDArray[np.float64], noise: float, height: int = 720, width: int = 1280) -> NDArray[np.uint8]:
    pixels = np.broadcast_to(brightness, (height, width, 3)) + RANDOM.normal(0, noise, (height, width, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "pixels",
    [
        noisy(np.array(4.0), 3.0),
        noisy(np.array(128.0), 4.0),
        noisy(np.linspace(20, 60, 1280)[None, :, None], 4.0),
        noisy(np.array(250.0), 1.0, 256, 256),
    ],
    ids=["black", "cloth", "hand", "glare"],
)
def test_a_covered_camera_shows_almost_nothing(pixels: NDArray[np.uint8]) -> None:
    assert picture_detail(pixels) < DETAIL_BAD
    pixels[100:200, 60:180] = 0
    assert picture_detail(pixels) < DETAIL_BAD, "a mask is nothing to see"


@pytest.mark.parametrize("seed", range(12))
async def test_a_scene_shows_something(seed: int) -> None:
    source = make_source("gate", CameraSettings(source=f"test:{seed}", interval_s=1.0))
    await source.open()
    captured = await source.newest()
    await source.close()
    assert captured is not None
    assert picture_detail(captured.pixels) > DETAIL_OVER


def test_a_tiny_picture_says_nothing() -> None:
    assert picture_detail(np.zeros((4, 4, 3), np.uint8)) == 255.0


@pytest.mark.parametrize(
    ("act", "detail", "stalled", "covered"),
    [
        (lambda rig: rig.capture.machine.shows(), 9.0, False, False),
        (lambda rig: rig.capture.machine.shows(), 2.5, False, None),
        (lambda rig: rig.capture.machine.shows(), 0.5, False, True),
        (lambda rig: rig.capture.machine.silent(), 0.5, True, None),
        (lambda rig: rig.capture.machine.ended(), 9.0, False, False),
        (lambda rig: rig.capture.machine.opening(), 9.0, True, None),
    ],
)
async def test_a_camera_is_stalled_or_covered(
    act: Callable[[Rig], object], detail: float, stalled: bool, covered: bool | None
) -> None:
    rig = Rig()
    act(rig)
    (first,) = camera_signs("north", {"gate": rig.capture})
    assert (first.kind, first.bad, first.part) == ("camera-stalled", stalled, "gate")
    rig.capture.detail = detail
    _, second = camera_signs("north", {"gate": rig.capture})
    assert (second.kind, second.bad) == ("camera-covered", covered)
