"""What FFmpeg says, as reasons: from real errors wherever one can be had."""

from __future__ import annotations

import errno
import ssl
from pathlib import Path

import av
import pytest

from edge_nodes.sources.address import device_address, network_address
from edge_nodes.sources.reasons import find_cause, reason_of, source_error
from edge_nodes.sources.video_reader import VideoReader
from schemas.errors import SourceError
from schemas.types import SourceReason
from tests.edge.camera_servers import PASSWORD, USER, camera_server, rtsp_refusal, silent, socket_server


def refused(url: str, *, stall_s: float = 5.0) -> SourceError:
    with pytest.raises(SourceError) as caught:
        VideoReader(network_address(url, stall_s=stall_s))
    assert PASSWORD not in str(caught.value)
    assert USER not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, SourceReason.NOT_FOUND),
        (401, SourceReason.AUTH),
        (403, SourceReason.AUTH),
        (404, SourceReason.NOT_FOUND),
        (410, SourceReason.NOT_FOUND),
        (500, SourceReason.UNREACHABLE),
        (503, SourceReason.UNREACHABLE),
    ],
)
def test_what_an_http_server_refuses(status: int, reason: SourceReason) -> None:
    with camera_server() as camera:
        camera.statuses["/live"] = status
        error = refused(camera.url("/live", credentials=f"{USER}:{PASSWORD}@"))
    assert error.reason is reason
    assert error.source == f"http://***@127.0.0.1:{camera.port}/live"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("401 Unauthorized", SourceReason.AUTH),
        ("403 Forbidden", SourceReason.AUTH),
        ("404 Not Found", SourceReason.NOT_FOUND),
        ("454 Session Not Found", SourceReason.NOT_FOUND),
        ("503 Service Unavailable", SourceReason.UNREACHABLE),
    ],
)
def test_what_an_rtsp_server_refuses(status: str, reason: SourceReason) -> None:
    with socket_server(rtsp_refusal(status)) as port:
        error = refused(f"rtsp://{USER}:{PASSWORD}@127.0.0.1:{port}/live")
    assert error.reason is reason


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_camera_that_takes_the_connection_and_says_nothing_times_out(scheme: str) -> None:
    with socket_server(silent) as port:
        error = refused(f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{port}/live", stall_s=1.0)
    assert error.reason is SourceReason.TIMEOUT


@pytest.mark.parametrize("scheme", ["https", "rtsps"])
def test_a_port_that_does_not_speak_tls(scheme: str) -> None:
    with camera_server() as camera:
        error = refused(f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{camera.port}/live")
    assert error.reason is SourceReason.TLS
    assert "does not speak TLS" in str(error)


@pytest.mark.parametrize("scheme", ["rtsp", "http", "https", "rtsps"])
def test_nobody_listens(scheme: str) -> None:
    with socket_server(silent) as port:
        pass
    assert refused(f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{port}/live").reason is SourceReason.UNREACHABLE


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_host_that_does_not_exist(scheme: str) -> None:
    error = refused(f"{scheme}://{USER}:{PASSWORD}@camera.invalid/live")
    assert error.reason is SourceReason.NOT_FOUND
    assert "host camera.invalid" in str(error)


def test_what_is_no_video(tmp_path: Path) -> None:
    with camera_server() as camera:
        camera.files["/live"] = b"<html>Please log in</html>" * 100
        assert refused(camera.url("/live")).reason is SourceReason.CODEC


def test_a_playlist_of_the_network_reads_no_file_of_this_machine(tmp_path: Path) -> None:
    secret = tmp_path / "secret.ts"
    secret.write_bytes(b"\x47" * 188 * 10)
    with camera_server() as camera:
        camera.files["/live.m3u8"] = (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode()
        )
        refused(camera.url("/live.m3u8"))


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(SourceError) as caught:
        VideoReader(device_address("/dev/video-of-nobody", stall_s=5.0))
    assert caught.value.reason is SourceReason.NOT_FOUND


@pytest.mark.parametrize(
    "url", ["rtsp:///live", "http://host:port/live", "rtsp://[::1/live", "rtsp://admin:hunter2/x@host/live"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        network_address(url, stall_s=5.0)
    assert caught.value.reason is SourceReason.NOT_FOUND
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (av.error.TimeoutError(errno.ETIMEDOUT, "x"), SourceReason.TIMEOUT),
        (av.error.ConnectionResetError(errno.ECONNRESET, "x"), SourceReason.UNREACHABLE),
        (av.error.EOFError(1, "x"), SourceReason.ENDED),
        (av.error.InvalidDataError(1, "x"), SourceReason.CODEC),
        (av.error.DecoderNotFoundError(1, "x"), SourceReason.CODEC),
        (av.error.PermissionError(errno.EACCES, "x"), SourceReason.AUTH),
        (OSError(errno.EHOSTUNREACH, "x"), SourceReason.UNREACHABLE),
        (OSError(errno.EIO, "x"), SourceReason.OTHER),
        (ssl.SSLError(1, "x"), SourceReason.TLS),
        (ValueError("x"), SourceReason.OTHER),
    ],
)
def test_errors_by_their_class(error: Exception, reason: SourceReason) -> None:
    assert reason_of(error) is reason


def test_what_took_as_long_as_it_may_has_timed_out_whatever_it_says() -> None:
    error = source_error("gate", "lost", av.error.InvalidDataError(1, "odd"), waited_s=9.5, limit_s=10.0)
    assert (error.reason, error.problem) == (SourceReason.TIMEOUT, "lost: no data for 10 s")
    assert source_error("gate", "lost", av.error.InvalidDataError(1, "odd"), waited_s=1, limit_s=10.0).reason is (
        SourceReason.CODEC
    )


def test_a_host_that_works_has_no_cause() -> None:
    with camera_server() as camera:
        assert find_cause(camera.url("/"), timeout_s=5.0) is None
    assert find_cause("/dev/video0", timeout_s=5.0) is None
