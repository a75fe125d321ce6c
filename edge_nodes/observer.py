"""Who watches an edge at work: metrics, the frame log, a demo that scores answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_nodes.sources import CapturedFrame
from pipeline.codec.latent import EncodedLatent
from pipeline.protocol.effects import Decision
from pipeline.protocol.ports import Sent
from schemas.types import FrameId


@dataclass(frozen=True, slots=True)
class OfferedFrame:
    """A frame whose questions are asked.

    Attributes:
        captured: what the camera showed.
        frame: the id under which it is asked about.
        latent: what became of it.
        base_latents: length of the prefix that goes out first.
        query_ids: of its questions.
        captured_s: when it was captured, on the edge's monotonic clock.
        encode_s: how long encoding took, waiting included.
    """

    captured: CapturedFrame
    frame: FrameId
    latent: EncodedLatent
    base_latents: int
    query_ids: Sequence[str]
    captured_s: float
    encode_s: float


class EdgeObserver(Protocol):
    """Called on the event loop, so it must be quick and must not raise."""

    def frame_offered(self, offered: OfferedFrame) -> None:
        """A frame was captured and encoded, and its questions are asked."""

    def message_sent(self, sent: Sent) -> None:
        """A publish left on the uplink."""

    def query_ended(self, decision: Decision, delay_s: float | None) -> None:
        """A query has its terminal outcome, ``delay_s`` after its frame was captured; None of one that was stored."""

    def source_changed(self, camera: str, up: bool) -> None:
        """A camera's source was opened, or was lost."""
