"""Cameras with a certificate that they made for themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_nodes.sources import make_source
from pipeline.config.camera_settings import CameraSettings
from schemas.errors import SourceError
from schemas.types import SourceReason
from tests.edge.camera_servers import Camera, camera_server, jpeg, self_signed
from tests.edge.support import grey


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path)


@pytest.fixture
def camera(certificate: Path) -> Iterator[Camera]:
    with camera_server(certificate) as served:
        served.pictures = [jpeg(grey(100))]
        yield served


def address(camera: Camera, kind: str) -> str:
    return camera.url("/stream") if kind == "stream" else f"snapshot:{camera.url('/now.jpg')}"


@pytest.mark.parametrize("kind", ["stream", "snapshot"])
async def test_an_unknown_certificate_is_refused(camera: Camera, kind: str) -> None:
    source = make_source("gate", CameraSettings(source=address(camera, kind), stall_s=5))
    with pytest.raises(SourceError, match="its certificate is not trusted") as caught:
        await source.open()
    await source.close()
    assert caught.value.reason is SourceReason.TLS


@pytest.mark.parametrize("kind", ["stream", "snapshot"])
@pytest.mark.parametrize("trusted", [False, True])
async def test_it_is_taken_when_it_need_not_be_trusted_or_is(
    camera: Camera, certificate: Path, kind: str, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    source = make_source("gate", CameraSettings(source=address(camera, kind), stall_s=5, verify_tls=trusted))
    await source.open()
    frame = await source.newest()
    await source.close()
    assert frame is not None
    assert round(float(frame.pixels.mean())) == 100
