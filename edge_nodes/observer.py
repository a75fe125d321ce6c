"""Who watches an edge at work: metrics, the frame log, a demo that scores answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edge_nodes.sources import CapturedFrame
from edge_nodes.uplink import Sent
from pipeline.codec.latent import EncodedLatent
from pipeline.protocol.effects import Terminal
from schemas.types import FrameId


class EdgeObserver(Protocol):
    """Called on the event loop, so it must be quick and must not raise."""

    def frame_offered(
        self,
        captured: CapturedFrame,
        frame: FrameId,
        latent: EncodedLatent,
        query_ids: Sequence[str],
        captured_s: float,
        encode_s: float,
    ) -> None:
        """A frame was captured, encoded in ``encode_s``, and its questions are asked under ``frame``.

        ``captured_s`` is on the edge's monotonic clock.
        """

    def message_sent(self, sent: Sent) -> None:
        """A publish left on the uplink."""

    def query_ended(self, terminal: Terminal, delay_s: float) -> None:
        """A query has its terminal outcome, ``delay_s`` after its frame was captured."""

    def source_changed(self, camera: str, up: bool) -> None:
        """A camera's source was opened, or was lost."""
