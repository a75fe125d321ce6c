"""How a simulated edge codes its frames: by themselves, given a key frame, or as one."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.protocol.change_gate import Sifted
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery, GivenKey, Latent
from schemas.types import FrameId
from simulation.content import LADDER, LATENTS, MARK_BYTES, LatentGivenKey, SimulatedLatent

_KEPT_BYTES = 200
_ALONE = 4
"""One frame in so many is coded by itself, as after a change of the scene."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a frame.

    Attributes:
        frame: its id.
        mark: its mark, if its latent has one.
        scene: what it shows.
        sifted: what is asked of it, and what is not.
    """

    frame: FrameId
    mark: bytes
    scene: int
    sifted: Sifted

    @property
    def told(self) -> list[AskedQuery]:
        """Queries that exist: those that are asked, and those whose answers hold on."""
        return [*self.sifted.asked, *(renewal.query for renewal in self.sifted.renewals)]


class SimulatedEncoder:
    """Codes the frames of one edge process; one in so many of a camera becomes a key frame, whatever that saves.

    Args:
        session: of the process.
        process: name that no other process has.
        key_every: frames of a camera from one key frame to the next; 0 has no key frames.
        scene: what a camera's frame shows, by its number.
    """

    def __init__(
        self, session: EdgeSession, process: str, key_every: int, scene: Callable[[int], int] = lambda _number: 0
    ) -> None:
        self._scene = scene
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
        latent: Latent | None = None,
        as_key: Latent | None = None,
        base_latents: int = LADDER[0],
    ) -> Taken:
        """Keep a new frame, and ask the session's pool questions of it, as far as they are asked.

        Args:
            camera: its camera.
            queries: what is asked; nothing where it is kept alone.
            now_s: virtual time.
            latent: of the frame; None makes one of its own.
            as_key: the same latent coded given itself: makes the frame a key frame.
            base_latents: prefix that the first open carries.

        Returns:
            What became of the frame.
        """
        number, mark = self._next(camera)
        scene = self._scene(number)
        own = SimulatedLatent(mark, scene)
        shown: Latent = own if latent is None else latent
        given = None if as_key is None else GivenKey(as_key, None)
        if latent is None and queries:
            given = self._given(camera, number, own)
        frame = self._session.keep(camera, shown, base_latents, now_s, now_s, size_bytes=_KEPT_BYTES)
        sifted, _ = self._session.sift(camera, shown, queries, now_s, frame=frame)
        if not sifted.asked:
            return Taken(frame, mark, scene, sifted)
        self._session.offer(camera, shown, base_latents, sifted.asked, now_s, frame=frame, given_key=given)
        if latent is None and given is not None and given.sequence is None:
            self._keys[camera] = (frame.sequence, shown.payload(0, LATENTS))
        return Taken(frame, mark, scene, sifted)

    def keep(
        self, camera: str, queries: Sequence[AskedQuery], now_s: float, *, base_latents: int = LADDER[0]
    ) -> tuple[int | None, bytes]:
        """Let the session keep a new frame until there is a link; its number there, and its mark."""
        _, mark = self._next(camera)
        return self._session.store_frame(camera, SimulatedLatent(mark), base_latents, queries, now_s, now_s), mark

    def _next(self, camera: str) -> tuple[int, bytes]:
        """Number and mark of a camera's next frame."""
        number = self._coded[camera]
        self._coded[camera] += 1
        name = zlib.crc32(f"{self._process}/{camera}/{number}".encode())
        return number, name.to_bytes(MARK_BYTES, "big")

    def lost(self, camera: str, sequence: int) -> None:
        """A worker lacks a key frame, or it found no way out: nothing more is coded given it."""
        key = self._keys.get(camera)
        if key is not None and key[0] == sequence:
            del self._keys[camera]

    def _given(self, camera: str, number: int, latent: SimulatedLatent) -> GivenKey[Latent] | None:
        if not self._key_every:
            return None
        if number % self._key_every == 0:
            return GivenKey(LatentGivenKey(latent.payload(0, LATENTS), latent.mark), None)
        key = self._keys.get(camera)
        if key is None or int.from_bytes(latent.mark, "big") % _ALONE == 0:
            return None
        return GivenKey(LatentGivenKey(key[1], latent.mark), key[0])
