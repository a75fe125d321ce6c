"""Latents of frames whose questions a worker has answered: a later question on one costs no latent on the way."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from pipeline.protocol.effects import ChunkData
from pipeline.protocol.worker_frame import WorkerFrame
from schemas.types import FrameId


@dataclass(frozen=True, slots=True)
class KeptFrame:
    """What a follow-up needs of an answered frame.

    Attributes:
        site: its site.
        attempt: attempt in which it was answered.
        chunks: coded latents, contiguous from 0.
        payload_bytes: latent payload that was received for it.
    """

    site: str
    attempt: int
    chunks: tuple[ChunkData, ...]
    payload_bytes: int

    @property
    def held_bytes(self) -> int:
        """Payload in memory."""
        return sum(len(chunk.payload) for chunk in self.chunks)


@dataclass(slots=True)
class KeptFrames:
    """Answered frames; the one that was answered longest ago is forgotten first.

    Attributes:
        capacity: frames kept.
        capacity_bytes: their payload.
        held_bytes: payload that is kept now.
    """

    capacity: int
    capacity_bytes: int
    held_bytes: int = 0
    _frames: OrderedDict[tuple[str, FrameId], KeptFrame] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._frames)

    def keep(self, frame: WorkerFrame) -> None:
        """All questions of a frame are answered."""
        self._pop((frame.camera, frame.frame))
        kept = KeptFrame(frame.site, frame.attempt, tuple(frame.chunks), frame.payload_bytes)
        self._frames[frame.camera, frame.frame] = kept
        self.held_bytes += kept.held_bytes
        while len(self._frames) > self.capacity or self.held_bytes > self.capacity_bytes:
            self._pop(next(iter(self._frames)))

    def find(self, camera: str, frame: FrameId, attempt: int) -> KeptFrame | None:
        """A frame, if it is kept and was answered in this attempt."""
        kept = self._frames.get((camera, frame))
        return kept if kept is not None and kept.attempt == attempt else None

    def under_way(self, camera: str, frame: FrameId) -> None:
        """A frame is asked again: what is known of it is kept there."""
        self._pop((camera, frame))

    def _pop(self, key: tuple[str, FrameId]) -> KeptFrame | None:
        kept = self._frames.pop(key, None)
        self.held_bytes -= 0 if kept is None else kept.held_bytes
        return kept
