"""What is kept of a camera's frames for questions about the past, and for events."""

from __future__ import annotations

from collections.abc import Collection

from edge_nodes.picture import jpeg_of
from edge_nodes.sources import CapturedFrame
from pipeline.codec.latent import EncodedLatent
from pipeline.node.clock import Clock
from pipeline.node.work_thread import WorkThread
from pipeline.protocol.edge_session import EdgeSession
from schemas.types import FrameId


class RingKeeper:
    """Puts frames into the ring of a session.

    Args:
        session: the protocol machine.
        base_latents: prefix that an open message of a kept frame carries.
        clock: the edge's clock.
        pictures_of: cameras whose settings let somebody fetch pictures; of no other camera is one made.
    """

    def __init__(
        self, session: EdgeSession, base_latents: int, clock: Clock, *, pictures_of: Collection[str] = ()
    ) -> None:
        self._session = session
        self._base_latents = base_latents
        self._clock = clock
        self._pictures_of = frozenset(pictures_of)
        self._thread = WorkThread("pictures") if self._pictures_of else None

    async def keep(self, captured: CapturedFrame, latent: EncodedLatent, captured_s: float) -> FrameId:
        """Keep a frame; returns the id to offer it under.

        Args:
            captured: the frame, masked.
            latent: what became of it.
            captured_s: when it was taken, on the edge's clock.
        """
        picture = None
        if self._thread is not None and captured.camera in self._pictures_of:
            picture = await self._thread.call(jpeg_of, captured.pixels)
        return self._session.keep(
            captured.camera,
            latent,
            self._base_latents,
            captured_s,
            self._clock.now_s(),
            size_bytes=latent.symbols.nbytes + len(picture or b""),
            picture=picture,
        )

    async def close(self) -> None:
        """End the thread of the pictures."""
        if self._thread is not None:
            await self._thread.close()
