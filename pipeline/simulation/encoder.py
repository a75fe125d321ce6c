"""How a simulated edge codes its frames: by themselves, given a key frame, or as one."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery, GivenKey, Latent
from pipeline.simulation.content import LADDER, LATENTS, MARK_BYTES, LatentGivenKey, SimulatedLatent
from schemas.messages import Reject, RejectReason
from schemas.types import FrameId

_ALONE = 4
"""One frame in so many is coded by itself, as after a change of the scene."""
PLAIN = SimulatedLatent()
"""Of every frame that is no key frame."""


class SimulatedEncoder:
    """Codes the frames of one edge process; one in so many of a camera becomes a key frame, whatever that saves.

    Args:
        session: of the process.
        process: name that no other process has.
        key_every: frames of a camera from one key frame to the next; 0 has no key frames.
    """

    def __init__(self, session: EdgeSession, process: str, key_every: int) -> None:
        self._session = session
        self._process = process
        self._key_every = key_every
        self._coded: Counter[str] = Counter()
        self._keys: dict[str, tuple[int, bytes]] = {}

    def offer(
        self,
        camera: str,
        queries: Sequence[AskedQuery],
        now_s: float,
        *,
        latent: Latent = PLAIN,
        base_latents: int = LADDER[0],
    ) -> FrameId:
        """Ask the session's pool questions of a new frame.

        Args:
            camera: its camera.
            queries: what is asked.
            now_s: virtual time.
            latent: of the frame, unless it becomes a key frame.
            base_latents: prefix that the first open carries.
        """
        given = None
        if self._key_every:
            latent, given = self._code(camera, latent)
        frame = self._session.offer(camera, latent, base_latents, queries, now_s, given_key=given)
        if given is not None and given.sequence is None:
            self._keys[camera] = (frame.sequence, latent.payload(0, LATENTS))
        return frame

    def rejected(self, camera: str, message: Reject) -> None:
        """A worker rejects a frame, and the session has not heard of it yet."""
        key = self._session.key_of(camera, message.frame)
        if message.reason is RejectReason.KEY_FRAME and key is not None:
            self.lost(camera, key)

    def lost(self, camera: str, sequence: int) -> None:
        """A worker lacks a key frame, or it found no way out: nothing more is coded given it."""
        key = self._keys.get(camera)
        if key is not None and key[0] == sequence:
            del self._keys[camera]

    def _code(self, camera: str, latent: Latent) -> tuple[Latent, GivenKey[Latent] | None]:
        number = self._coded[camera]
        self._coded[camera] += 1
        name = zlib.crc32(f"{self._process}/{camera}/{number}".encode())
        if number % self._key_every == 0:
            own = SimulatedLatent(name.to_bytes(MARK_BYTES, "big"))
            return own, GivenKey(LatentGivenKey(own.payload(0, LATENTS)), None)
        key = self._keys.get(camera)
        if key is None or name % _ALONE == 0:
            return latent, None
        return latent, GivenKey(LatentGivenKey(key[1]), key[0])
