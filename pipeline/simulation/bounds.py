"""Sizes of the buffers of the protocol machines beside their bounds (docs/buffers.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.worker_frame import MAX_EARLY_CHUNKS
from pipeline.protocol.worker_session import WorkerSession

Buffer = tuple[str, int, int]
"""Name, size and bound."""


def edge_buffers(session: EdgeSession, settings: EdgeProtocolSettings) -> Iterator[Buffer]:
    """Unfinished frames of each camera. Those that carry ad-hoc questions alone do not count: none is ever dropped."""
    standing: Counter[str] = Counter()
    for frame in session.frames():
        standing[frame.camera] += any(not query.ad_hoc for query in frame.queries.values())
    for camera, frames in standing.items():
        yield f"frames of {camera}", frames, settings.max_frames_per_camera


def worker_buffers(session: WorkerSession, settings: WorkerProtocolSettings) -> Iterator[Buffer]:
    """Frames, their latents, the chunks that came too early, and key frames."""
    frames = session.frames()
    yield "frames", len(frames), settings.capacity_frames
    yield "latent bytes", sum(frame.held_bytes for frame in frames), settings.capacity_bytes
    yield "key frame bytes", session.key_frame_bytes(), settings.key_frame_bytes
    yield "early chunks of a frame", max((len(frame.early) for frame in frames), default=0), MAX_EARLY_CHUNKS
