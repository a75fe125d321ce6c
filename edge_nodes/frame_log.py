"""JSON lines for whoever scores the answers of an edge: which source frame became which frame, and what it cost.

======== ============================================================================================================
kind     fields
======== ============================================================================================================
frame    camera, frame, index (of the source), time_s (in the source), query_ids, base_latents (sent first),
         latent_bytes (of the whole latent), captured_s, encode_s, at_s
sent     camera, frame or null, message (open, chunk, outcome, ...), latent_bytes, wire_bytes, at_s
ended    camera, frame, query_id, question_id, ad_hoc, outcome, reason, text, latents, looks, payload_bytes, delay_s,
         at_s
source   camera, up, at_s
======== ============================================================================================================

``at_s`` and ``captured_s`` are on the edge's monotonic clock, ``delay_s`` counts from the capture of the frame; it is
null for a frame that was stored while there was no link, and that has no line of its own.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from edge_nodes.observer import OfferedFrame
from pipeline.config.logs import get_logger
from pipeline.node.clock import Clock
from pipeline.node.work_thread import WorkThread
from pipeline.protocol.effects import Decision
from pipeline.protocol.ports import Sent
from schemas.errors import ConfigError

_log = get_logger(__name__)

FLUSH_S = 0.25
MAX_PENDING_LINES = 16_384
"""Lines that wait for the disk; later ones are dropped and counted."""
MAX_FILE_BYTES = 256 * 1024 * 1024
"""The log is for runs that end; one that does not must not fill the disk of a camera."""


class FrameLog:
    """An :class:`~edge_nodes.observer.EdgeObserver` that writes a file, off the event loop.

    Args:
        path: the file; begun anew.
        clock: the edge's clock.

    Attributes:
        dropped: lines that found no room.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.dropped = 0
        self._clock = clock
        self._lines: list[str] = []
        self._size_bytes = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise ConfigError("edge.frame_log", f"cannot write {path}: {error.strerror or error}") from error
        self._thread = WorkThread("frame-log")

    def frame_offered(self, offered: OfferedFrame) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        self._put(
            kind="frame",
            camera=offered.captured.camera,
            frame=str(offered.frame),
            index=offered.captured.index,
            time_s=round(offered.captured.time_s, 6),
            query_ids=list(offered.query_ids),
            base_latents=offered.base_latents,
            latent_bytes=offered.latent.size_bytes(offered.latent.latent_count),
            captured_s=offered.captured_s,
            encode_s=round(offered.encode_s, 6),
            at_s=self._clock.now_s(),
        )

    def message_sent(self, sent: Sent) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        self._put(
            kind="sent",
            camera=sent.camera,
            frame=None if sent.frame is None else str(sent.frame),
            message=sent.label,
            latent_bytes=sent.latent_bytes,
            wire_bytes=sent.wire_bytes,
            at_s=sent.at_s,
        )

    def query_ended(self, decision: Decision, delay_s: float | None) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        answer = decision.answer
        self._put(
            kind="ended",
            camera=decision.camera,
            frame=str(decision.frame),
            query_id=decision.query_id,
            question_id=decision.question.question_id,
            ad_hoc=decision.ad_hoc,
            outcome=decision.outcome.value,
            reason=decision.reason,
            text=answer.text if answer else None,
            latents=answer.latents if answer else None,
            looks=answer.looks if answer else None,
            payload_bytes=answer.payload_bytes if answer else None,
            delay_s=None if delay_s is None else round(delay_s, 6),
            at_s=self._clock.now_s(),
        )

    def source_changed(self, camera: str, up: bool) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        self._put(kind="source", camera=camera, up=up, at_s=self._clock.now_s())

    async def run(self) -> None:
        """Write what has come in, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self._thread.call(self._flush)

    async def close(self) -> None:
        """Write the rest and close the file."""
        await self._thread.close(self._finish)
        if self.dropped:
            _log.warning("the frame log is not complete", dropped=self.dropped)

    def _put(self, **fields: Any) -> None:
        if len(self._lines) >= MAX_PENDING_LINES or self._size_bytes > MAX_FILE_BYTES:
            self.dropped += 1
            return
        self._lines.append(json.dumps(fields, separators=(",", ":")) + "\n")

    def _finish(self) -> None:
        self._flush()
        try:
            self._file.close()
        except OSError as error:
            # What could not be written is tried once more at the close, in vain on a full disk; it is counted already.
            _log.error("the frame log could not be closed", problem=str(error))

    def _flush(self) -> None:
        # Swapping the list is one step under the interpreter's lock.
        lines, self._lines = self._lines, []
        if not lines:
            return
        text = "".join(lines)
        try:
            self._file.write(text)
            self._file.flush()
            self._size_bytes += len(text)
        except OSError as error:
            self.dropped += len(lines)
            _log.error("the frame log cannot be written", problem=str(error))
