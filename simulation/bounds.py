"""Sizes of the buffers of the protocol machines beside their bounds (docs/buffers.md), and what must be empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.protocol.ad_hoc_questions import MAX_REPEATS_WAITING
from pipeline.protocol.ask_ends import MAX_ENDED_REMEMBERED, MAX_UNTOLD
from pipeline.protocol.ask_intake import MAX_ASKS_BEING_STORED
from pipeline.protocol.edge_caches import KNOWN_WORKERS
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.worker_caches import CAMERAS_OVER, KNOWN_CAMERAS, KNOWN_EDGES, KNOWN_PEERS
from pipeline.protocol.worker_frame import MAX_EARLY_CHUNKS
from pipeline.protocol.worker_outgoing import MAX_BYTES, MAX_MESSAGES
from pipeline.protocol.worker_session import WorkerSession
from schemas.limits import MAX_QUERIES_PER_FRAME

Buffer = tuple[str, int, int]
"""Name, size and bound."""


def edge_buffers(session: EdgeSession, settings: EdgeProtocolSettings) -> Iterator[Buffer]:
    """Unfinished frames of each camera, and what is remembered beside them.

    Frames that carry ad-hoc questions alone do not count: none is ever dropped.
    """
    standing: Counter[str] = Counter()
    for frame in session.frames.undecided():
        standing[frame.camera] += not frame.history and any(not query.ad_hoc for query in frame.queries.values())
    for camera, frames in standing.items():
        yield f"frames of {camera}", frames, settings.max_frames_per_camera
    sizes = session.sizes()
    yield "decided ad-hoc queries", sizes["ad_hoc_decided"], settings.terminal_cache
    yield "kept frames, in bytes", session.ring.held_bytes, session.site.ring.max_bytes
    yield "boot ids of workers", sizes["workers"], KNOWN_WORKERS
    yield "ended ad-hoc questions", sizes["asks_ended"], MAX_ENDED_REMEMBERED
    yield "outcomes to say again", sizes["asks_untold"], MAX_UNTOLD
    yield "marks to make again", sizes["asks_unmarked"], MAX_UNTOLD
    questions = len(session.site.asked_of) * MAX_QUERIES_PER_FRAME
    yield "answers that the change gate keeps", sizes.get("gate_answers", 0), questions
    store = session.store
    yield "stored frames under way", sizes["stored_under_way"], store.settings.under_way
    kept = [entry for _, entry in store.entries if not entry.replaced]
    # Nothing that is under way goes for want of room.
    yield "stored frames", len(kept), store.settings.max_entries + sizes["stored_under_way"]
    room_bytes = store.settings.max_bytes + sum(entry.size_bytes for entry in kept if not entry.idle)
    yield "stored bytes", sum(entry.size_bytes for entry in kept), room_bytes
    yield "asks that wait for their disk", sizes["asks_repeated"], MAX_ASKS_BEING_STORED * MAX_REPEATS_WAITING


def edge_leaks(session: EdgeSession) -> Iterator[tuple[str, int]]:
    """Tables that hold more than the unfinished queries account for."""
    sizes, unfinished = session.sizes(), session.unfinished()
    for table in ("frames", "ad_hoc_running"):
        if sizes[table] > unfinished:
            yield table, sizes[table]
    if sizes.get("gate_frames", 0) > sizes["frames"]:
        yield "gate_frames", sizes["gate_frames"]
    if not unfinished and sizes["timers"]:
        yield "timers", sizes["timers"]


def worker_buffers(session: WorkerSession, settings: WorkerProtocolSettings) -> Iterator[Buffer]:
    """Frames, their latents, the chunks that came too early, and everything that is remembered beside them."""
    frames, sizes = session.frames(), session.sizes()
    yield "frames", len(frames), settings.capacity_frames
    yield "latent bytes", sum(frame.held_bytes for frame in frames), settings.capacity_bytes
    yield "early chunks of a frame", max((len(frame.early) for frame in frames), default=0), MAX_EARLY_CHUNKS
    yield "key frame bytes", sizes["key_frame_bytes"], settings.key_frame_bytes
    yield "kept frames", sizes["kept_frames"], settings.kept_frames
    yield "kept bytes", sizes["kept_bytes"], settings.kept_bytes
    yield "texts", sizes["texts"], 2 * settings.text_cache
    yield "text bytes", sizes["text_bytes"], 2 * settings.text_cache_bytes
    yield "decided queries", sizes["decided_queries"], settings.terminal_cache
    yield "sites of cameras", sizes["cameras"], KNOWN_CAMERAS
    yield "edges", sizes["edges"], KNOWN_EDGES
    yield "cameras of edges that are over", sizes["cameras_over"], CAMERAS_OVER
    yield "loads of workers", sizes["workers"], KNOWN_PEERS
    yield "outgoing messages", sizes["outgoing_messages"], MAX_MESSAGES
    yield "outgoing bytes", sizes["outgoing_bytes"], MAX_BYTES


def worker_leaks(session: WorkerSession) -> Iterator[tuple[str, int]]:
    """Tables of unfinished frames that are not empty without one."""
    sizes = session.sizes()
    if not sizes["frames"]:
        for table in ("frame_cameras", "latent_bytes", "texts_awaited", "timers"):
            if sizes[table]:
                yield table, sizes[table]
