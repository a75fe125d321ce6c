"""What is kept of a camera's frames for questions about the past, and for events."""

from __future__ import annotations

from edge_nodes.sources import CapturedFrame
from pipeline.codec.latent import EncodedLatent
from pipeline.node.clock import Clock
from pipeline.protocol.edge_session import EdgeSession
from schemas.types import FrameId


class RingKeeper:
    """Puts frames into the ring of a session.

    Args:
        session: the protocol machine.
        base_latents: prefix that an open message of a kept frame carries.
        clock: the edge's clock.
    """

    def __init__(self, session: EdgeSession, base_latents: int, clock: Clock) -> None:
        self._session = session
        self._base_latents = base_latents
        self._clock = clock

    async def keep(self, captured: CapturedFrame, latent: EncodedLatent, captured_s: float) -> FrameId:
        """Keep a frame; returns the id to offer it under.

        Args:
            captured: the frame, masked.
            latent: what became of it.
            captured_s: when it was taken, on the edge's clock.
        """
        return self._session.keep(
            captured.camera,
            latent,
            self._base_latents,
            captured_s,
            self._clock.now_s(),
            size_bytes=latent.symbols.nbytes,
        )
