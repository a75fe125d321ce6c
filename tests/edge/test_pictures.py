"""Snapshots and image folders."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_nodes.sources import make_source
from edge_nodes.sources.image_folder import ImageFolder
from edge_nodes.sources.snapshot import REPEAT_S, Snapshots
from edge_nodes.sources.still_picture import MAX_PICTURE_PIXELS, read_picture
from pipeline.config.camera_settings import CameraSettings
from schemas.errors import SourceError
from schemas.types import SourceReason
from tests.edge.camera_servers import PASSWORD, USER, Camera, camera_server, jpeg, silent, socket_server
from tests.edge.support import SkippingClock, grey


@pytest.fixture
def camera() -> Iterator[Camera]:
    with camera_server() as served:
        yield served


def snapshots(url: str, clock: SkippingClock | None = None, stall_s: float = 5.0) -> Snapshots:
    return Snapshots("gate", f"snapshot:{url}", stall_s=stall_s, clock=clock or SkippingClock())


def level(frame: object) -> int:
    return round(float(frame.pixels.mean()))  # type: ignore[attr-defined]


async def test_each_frame_is_a_request(camera: Camera) -> None:
    camera.pictures = [jpeg(grey(10 * number)) for number in range(1, 5)]
    clock = SkippingClock()
    source = snapshots(camera.url("/now.jpg"), clock)
    await source.open()
    assert level(await source.newest()) == 10, "the picture of the opening is as new as one can be"
    assert [level(await source.newest()) for _ in range(3)] == [20, 30, 40]
    assert camera.requests == ["/now.jpg"] * 4
    await source.close()


async def test_the_picture_of_the_opening_grows_old(camera: Camera) -> None:
    camera.pictures = [jpeg(grey(10)), jpeg(grey(20))]
    clock = SkippingClock()
    source = snapshots(camera.url("/now.jpg"), clock)
    await source.open()
    clock.time_s += 60
    assert level(await source.newest()) == 20
    await source.close()


async def test_a_picture_that_comes_again_is_not_shown_as_new(camera: Camera) -> None:
    camera.pictures = [jpeg(grey(10))] * 3 + [jpeg(grey(20))]
    clock = SkippingClock()
    source = snapshots(camera.url("/now.jpg"), clock)
    await source.open()
    await source.newest()
    began_s = clock.time_s
    assert level(await source.newest()) == 20
    assert source.counters == {"repeated_picture": 2}
    assert clock.time_s - began_s == pytest.approx(2 * REPEAT_S)
    with pytest.raises(SourceError, match="the same picture again and again for 5 s") as caught:
        await source.newest()
    assert caught.value.reason is SourceReason.TIMEOUT
    await source.close()


async def test_a_password_is_sent_when_the_camera_asks(camera: Camera) -> None:
    camera.pictures, camera.protected = [jpeg(grey(50))], True
    source = snapshots(camera.url("/now.jpg", credentials=f"{USER}:{PASSWORD}@"))
    await source.open()
    assert level(await source.newest()) == 50
    await source.close()
    wrong = snapshots(camera.url("/now.jpg", credentials=f"{USER}:swordfish@"))
    with pytest.raises(SourceError) as caught:
        await wrong.open()
    await wrong.close()
    assert caught.value.reason is SourceReason.AUTH
    assert "swordfish" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, SourceReason.NOT_FOUND), (403, SourceReason.AUTH), (503, SourceReason.UNREACHABLE)],
)
async def test_a_refusal_has_its_reason(camera: Camera, status: int, reason: SourceReason) -> None:
    camera.statuses["/now.jpg"] = status
    source = snapshots(camera.url("/now.jpg"))
    with pytest.raises(SourceError, match=str(status)) as caught:
        await source.open()
    assert caught.value.reason is reason
    await source.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/now.jpg", SourceReason.UNREACHABLE),
        ("http://camera.invalid/now.jpg", SourceReason.NOT_FOUND),
        ("https://127.0.0.1:{port}/now.jpg", SourceReason.TLS),
    ],
)
async def test_a_camera_that_is_not_there(camera: Camera, url: str, reason: SourceReason) -> None:
    source = snapshots(url.format(port=camera.port))
    with pytest.raises(SourceError) as caught:
        await source.open()
    assert caught.value.reason is reason
    await source.close()


async def test_a_camera_that_says_nothing_times_out() -> None:
    with socket_server(silent) as port:
        source = snapshots(f"http://127.0.0.1:{port}/now.jpg", stall_s=1.0)
        with pytest.raises(SourceError) as caught:
            await source.open()
        await source.close()
    assert caught.value.reason is SourceReason.TIMEOUT


async def test_what_is_no_picture_says_so(camera: Camera) -> None:
    camera.pictures = [b"<html>log in</html>"]
    source = snapshots(camera.url("/now.jpg"))
    with pytest.raises(SourceError, match="is no picture") as caught:
        await source.open()
    assert caught.value.reason is SourceReason.CODEC
    await source.close()
    with pytest.raises(SourceError, match="not open"):
        await source.newest()


def test_a_picture_is_upright_and_in_eight_bits() -> None:
    pixels = grey(0, 20, 30)
    pixels[:10] = 255  # bright above
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees clockwise for display
    image.save(out, "PNG", exif=exif)
    shown = read_picture(out.getvalue(), "gate")
    assert shown.shape == (30, 20, 3)
    assert shown[:, -1].min() == 255  # above became right
    assert shown[:, 0].max() == 0
    deep = io.BytesIO()
    Image.fromarray(np.full((4, 6), 32_768, np.uint16)).save(deep, "PNG")
    assert np.array_equal(read_picture(deep.getvalue(), "gate"), np.full((4, 6, 3), 128))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_every_kind_of_picture_is_rgb(mode: str) -> None:
    out = io.BytesIO()
    image = Image.fromarray(np.full((4, 6), 200, np.uint16)) if mode == "I;16" else Image.new(mode, (6, 4))
    image.save(out, "JPEG" if mode == "CMYK" else "PNG")
    shown = read_picture(out.getvalue(), "gate")
    assert shown.shape == (4, 6, 3)
    assert shown.dtype == np.uint8


def test_a_picture_that_would_fill_the_memory_is_refused() -> None:
    out = io.BytesIO()
    side = int(MAX_PICTURE_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(out, "PNG")
    with pytest.raises(SourceError, match="over the limit"):
        read_picture(out.getvalue(), "gate")


def put(folder: Path, name: str, value: int, changed_s: float) -> Path:
    path = folder / name
    path.write_bytes(jpeg(grey(value)))
    os.utime(path, (changed_s, changed_s))
    return path


async def test_a_folder_shows_its_newest_picture_once_and_waits_for_the_next(tmp_path: Path) -> None:
    put(tmp_path, "b.jpg", 20, 2)
    put(tmp_path, "a.jpg", 10, 3)
    (tmp_path / "readme.txt").write_text("no picture")
    (tmp_path / "c.jpg").mkdir()
    later = [("z.JPG", 90, 1), ("d.jpg", 40, 4), ("e.jpg", 50, 5)]

    class Uploading(SkippingClock):
        async def sleep(self, delay_s: float) -> None:
            await super().sleep(delay_s)
            for _ in range(min(2, len(later))):
                put(tmp_path, *later.pop(0))

    source = ImageFolder("gate", tmp_path, live=True, clock=Uploading())
    await source.open()
    assert level(await source.newest()) == 10
    assert level(await source.newest()) == 40, "one that is older than what was shown is no news"
    assert level(await source.newest()) == 50
    await source.close()


async def test_a_picture_that_is_still_written_is_shown_when_it_is_whole(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jpg", 10, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    os.utime(path, (1, 1))
    polls = 0

    class Writing(SkippingClock):
        async def sleep(self, delay_s: float) -> None:
            nonlocal polls
            await super().sleep(delay_s)
            polls += 1
            if polls == 3:
                path.write_bytes(whole)
                os.utime(path, (2, 2))

    source = ImageFolder("gate", tmp_path, live=True, clock=Writing())
    await source.open()
    assert level(await source.newest()) == 10
    assert source.counters == {"corrupt_frame": 1}, "it is not decoded again before it has changed"
    await source.close()


@pytest.mark.parametrize("loop", [False, True])
async def test_a_set_of_pictures_is_played_in_order_of_the_names(tmp_path: Path, loop: bool) -> None:
    for number, changed_s in enumerate((9, 7, 8)):
        put(tmp_path, f"{number}.jpg", 10 * number, changed_s)
    (tmp_path / "1b.jpg").write_bytes(b"damaged")
    settings = CameraSettings(source=f"images:{tmp_path}", loop=loop)
    source = make_source("gate", settings)
    await source.open()
    assert [level(await source.newest()) for _ in range(3)] == [0, 10, 20]
    following = await source.newest()
    assert (level(following) == 0) if loop else (following is None)
    assert source.counters == {"corrupt_frame": 1}
    await source.close()


async def test_a_folder_that_is_not_there_or_has_no_pictures(tmp_path: Path) -> None:
    for folder, live in ((tmp_path / "nowhere", True), (tmp_path, False)):
        source = ImageFolder("gate", folder, live=live)
        with pytest.raises(SourceError) as caught:
            await source.open()
        assert caught.value.reason is SourceReason.NOT_FOUND
        await source.close()
    (tmp_path / "a.jpg").write_bytes(b"damaged")
    source = ImageFolder("gate", tmp_path, live=False)
    await source.open()
    with pytest.raises(SourceError, match="no picture in it decodes"):
        await source.newest()
    await source.close()
