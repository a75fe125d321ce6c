"""Does once what an edge does all the time, and says how it went: encoder, cameras, broker, memory."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_nodes.capture import CLOSE_LIMIT_S, OPEN_LIMIT_S, SILENCE_LIMIT_S
from edge_nodes.check.findings import FIXES, Finding, Verdict, of_encoder, of_memory
from edge_nodes.check.memory import available_bytes, peak_bytes
from edge_nodes.encoder import EncoderThread
from edge_nodes.sources import CapturedFrame, FrameSource, make_source, redacted
from edge_nodes.sources.view import viewed
from pipeline.bus.mqtt import MqttBus
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.frame_fit import fit_frame
from pipeline.codec.spec import CodecSpec
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.settings import LatentbusSettings
from schemas.errors import ArtifactError, BusError, ConfigError, SourceError
from schemas.types import SourceReason

T = TypeVar("T")

ENCODED_FRAMES: Final = 20
BROKER_LIMIT_S: Final = 15.0
_JPEG_QUALITY: Final = 95


@dataclass(frozen=True, slots=True)
class _Looked:
    """A camera and what it showed."""

    finding: Finding
    pixels: NDArray[np.uint8] | None


async def check_device(settings: LatentbusSettings, edge: EdgeSettings, pictures: Path) -> list[Finding]:
    """Check what an edge with these settings needs of this device.

    All cameras are open at the same time, as they will be.

    Args:
        settings: the broker's section is read.
        edge: the edge's section.
        pictures: folder that gets, for each camera, the frame that the model sees, as JPEG.

    Returns:
        Memory, encoder, each camera, broker.

    Raises:
        ConfigError: the folder cannot be written.
    """
    before = available_bytes()
    _make_private(pictures)
    broker = asyncio.create_task(check_broker(settings.broker, edge.site))
    try:
        codec_dir = edge.codec or bundled_codec_dir()
        encoder = await EncoderThread.load(codec_dir, precision=edge.precision, threads=edge.threads)
    except ArtifactError as error:
        cameras = await _cameras(edge, None, pictures)
        failed = Finding("encoder", Verdict.BAD, str(error), "copy the whole codec folder, or do what it says")
        memory = of_memory(peak_bytes(), before, len(edge.cameras))
        return [memory, failed, *(each.finding for each in cameras), await broker]
    try:
        cameras = await _cameras(edge, encoder.spec, pictures)
        frames = [each.pixels for each in cameras if each.pixels is not None]
        encode_ms = await _encode_ms(encoder, frames)
    finally:
        await encoder.close()
    intervals_s = [camera.interval_s for camera in edge.cameras.values()]
    return [
        of_memory(peak_bytes(), before, len(edge.cameras)),
        of_encoder(encoder.precision, encode_ms, ENCODED_FRAMES, intervals_s),
        *(each.finding for each in cameras),
        await broker,
    ]


async def check_broker(broker: BrokerSettings, site: str) -> Finding:
    """Connect to the broker, and leave again.

    Args:
        broker: its section.
        site: whose edge this is; a broker with identities calls the connection by that name.
    """
    where = f"{broker.host}:{broker.port}" + ("" if broker.tls is None else " over TLS")
    began_s = time.perf_counter()
    try:
        async with MqttBus(broker, client_id=f"check-{site}", subscriptions=[]) as bus:
            await bus.wait_connected(BROKER_LIMIT_S)
    except ConfigError as error:
        return Finding("broker", Verdict.BAD, str(error), "correct the broker section of the settings")
    except BusError as error:
        fix = "look at the section `broker` of the settings; docs/operations.md lists what each message means"
        return Finding("broker", Verdict.BAD, f"{where}: {error}", fix)
    took_s = time.perf_counter() - began_s
    return Finding(
        "broker", Verdict.GOOD, f"{where}: connected in {took_s:.2f} s", None, {"connect_s": round(took_s, 3)}
    )


async def _cameras(edge: EdgeSettings, spec: CodecSpec | None, pictures: Path) -> Sequence[_Looked]:
    together = asyncio.Barrier(len(edge.cameras))
    looks = (_look(name, camera, spec, pictures, together) for name, camera in edge.cameras.items())
    return await asyncio.gather(*looks)


async def _look(
    name: str, camera: CameraSettings, spec: CodecSpec | None, pictures: Path, together: asyncio.Barrier
) -> _Looked:
    what = f"camera {name}"
    began_s = time.perf_counter()
    source: FrameSource | None = None
    problem, captured = "", None
    reason = SourceReason.OTHER
    try:
        source = make_source(name, camera)
        if spec is not None:
            source = viewed(name, source, camera, spec.fit.mode)
        await _within(name, "open", source.open(), OPEN_LIMIT_S)
        captured = await _within(name, "read", source.newest(), SILENCE_LIMIT_S)
    except SourceError as error:
        problem, reason = str(error), error.reason
    except Exception as error:  # noqa: BLE001 - a source is a foreign library
        problem = f"{type(error).__name__}: {redacted(str(error))}"
    took_s = time.perf_counter() - began_s
    await together.wait()  # all are open at this moment: the memory that a site takes
    if source is not None:
        await _closed(source)
    if not problem and captured is None:
        problem, reason = "it ended without a frame", SourceReason.ENDED
    if captured is None:
        return _Looked(Finding(what, Verdict.BAD, problem, FIXES[reason], {"reason": reason}), None)
    return await asyncio.to_thread(_shown, what, captured, spec, pictures, took_s)


def _shown(what: str, captured: CapturedFrame, spec: CodecSpec | None, pictures: Path, took_s: float) -> _Looked:
    """What the model sees of a frame, written as a picture."""
    try:
        height, width = captured.pixels.shape[:2]
        seen = captured.pixels if spec is None else fit_frame(captured.pixels, spec.image_size_px, spec.fit)
        path = pictures / f"{captured.camera}.jpg"
        with open(path, "wb", opener=_private) as file:
            Image.fromarray(seen).save(file, "JPEG", quality=_JPEG_QUALITY)
    except (OSError, ValueError, TypeError) as error:
        return _Looked(
            Finding(what, Verdict.BAD, f"its frame cannot be shown: {error}", FIXES[SourceReason.CODEC]), None
        )
    found = f"{width} x {height}, first frame after {took_s:.1f} s; what the model sees: {path}"
    figures = {"width_px": width, "height_px": height, "first_frame_s": round(took_s, 3), "picture": str(path)}
    return _Looked(Finding(what, Verdict.GOOD, found, None, figures), captured.pixels)


async def _encode_ms(encoder: EncoderThread, frames: Sequence[NDArray[np.uint8]]) -> float:
    """Median time of a frame of the cameras; of a black one where no camera showed any."""
    size_px = encoder.spec.image_size_px
    shown = frames or [np.zeros((size_px, size_px, 3), np.uint8)]
    times_ms = []
    for number in range(ENCODED_FRAMES):
        began_s = time.perf_counter()
        await encoder.encode(shown[number % len(shown)])
        times_ms.append(1000 * (time.perf_counter() - began_s))
    return statistics.median(times_ms)


async def _within(camera: str, step: str, work: Coroutine[Any, Any, T], limit_s: float) -> T:
    """The result of a call that may block without end; then its thread is left behind.

    Raises:
        SourceError: it did not come back in time.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=limit_s)
    if not done:
        task.cancel()
        raise SourceError(camera, f"{step} has not returned for {limit_s:g} s", SourceReason.TIMEOUT)
    return task.result()


async def _closed(source: FrameSource) -> None:
    closing = asyncio.ensure_future(source.close())
    done, _ = await asyncio.wait({closing}, timeout=CLOSE_LIMIT_S)
    if not done:
        closing.cancel()
    elif not closing.cancelled():
        closing.exception()  # how it closes is no matter of a check


def _make_private(folder: Path) -> None:
    """A folder for pictures, which nobody else may look into.

    Raises:
        ConfigError: it cannot be made or written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("--pictures", f"{folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError("--pictures", f"{folder} is not writable: name another folder")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
