"""The last frames of every camera of a site, in memory: what questions about the past are asked of.

A frame is kept for a while after it was taken, whether it was asked about or not. What is too much goes: first what is
too old, then the oldest frames of the camera that holds most.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pipeline.protocol.effects import Latent
from schemas.types import FrameId

OVERHEAD_BYTES: Final = 600
"""Memory of a kept frame beside its latent and its picture, about."""
EXPIRY_STEP_S: Final = 5.0
"""Frames that are too old go together, so long after the first of them at most."""


@dataclass(frozen=True, slots=True)
class RingSettings:
    """Bounds of the ring.

    Attributes:
        history_s: age up to which a frame is kept; 0 keeps none.
        max_bytes: memory that all kept frames may take, about.
    """

    history_s: float = 60.0
    max_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PastFrame:
    """What an edge remembers of a frame whose questions were decided.

    Attributes:
        attempt: opens that have left the uplink.
        owner: worker that answered last, if one owned the frame then: it may hold the latents still.
        prefix: longest prefix that was asked for.
        sent: latents that reached the uplink in the last attempt.
    """

    attempt: int
    owner: str | None
    prefix: int
    sent: int


@dataclass(slots=True)
class HeldFrame:
    """A kept frame.

    Attributes:
        camera: its camera.
        frame: its id.
        captured_s: when it was taken, on the edge's monotonic clock.
        latent: its latent, coded by itself.
        base_latents: prefix that an open message of it carries.
        size_bytes: memory that latent and picture take.
        picture: the masked frame as a JPEG, where the settings of its camera allow that.
        past: what became of the questions that it was asked; None while it was never opened, or still is.
    """

    camera: str
    frame: FrameId
    captured_s: float
    latent: Latent
    base_latents: int
    size_bytes: int
    picture: bytes | None = None
    past: PastFrame | None = None


class FrameRing:
    """Kept frames by camera, in the order in which they were taken.

    Args:
        settings: bounds.

    Attributes:
        held_bytes: memory that they take, about.
    """

    def __init__(self, settings: RingSettings | None = None) -> None:
        self.held_bytes = 0
        self._settings = settings or RingSettings()
        self._frames: dict[str, OrderedDict[FrameId, HeldFrame]] = {}
        self._bytes: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._frames.values()))

    def keep(self, held: HeldFrame, now_s: float) -> None:
        """Keep a frame that was taken now, or a moment ago."""
        self.expire(now_s)
        if self._settings.history_s <= 0:
            return
        self._frames.setdefault(held.camera, OrderedDict())[held.frame] = held
        self._count(held, 1)
        while self.held_bytes > self._settings.max_bytes:
            fullest = max(self._bytes, key=lambda camera: self._bytes[camera])
            self._drop(next(iter(self._frames[fullest].values())))

    def find(self, camera: str, frame: FrameId) -> HeldFrame | None:
        """A frame, if it is kept."""
        frames = self._frames.get(camera)
        return None if frames is None else frames.get(frame)

    def as_of(self, camera: str, time_s: float) -> HeldFrame | None:
        """The newest frame that was taken at a time or before."""
        before = (held for held in self.of(camera) if held.captured_s <= time_s)
        return max(before, key=lambda held: held.captured_s, default=None)

    def of(self, camera: str) -> Iterator[HeldFrame]:
        """Frames of a camera, the oldest first."""
        return iter(self._frames.get(camera, OrderedDict[FrameId, HeldFrame]()).values())

    def oldest_s(self, camera: str) -> float | None:
        """When the oldest frame of a camera was taken that is kept; None where none is."""
        return min((held.captured_s for held in self.of(camera)), default=None)

    def ended(self, camera: str, frame: FrameId, past: PastFrame) -> None:
        """The questions of a frame are decided."""
        held = self.find(camera, frame)
        if held is not None:
            held.past = past

    def worker_lost(self, worker: str) -> None:
        """A worker has lost what it held."""
        for frames in self._frames.values():
            for held in frames.values():
                past = held.past
                if past is not None and past.owner == worker:
                    held.past = PastFrame(past.attempt, None, past.prefix, past.sent)

    def erase(self, camera: str, from_s: float, to_s: float) -> int:
        """Drop the frames of a camera that were taken between two times; how many there were."""
        gone = [held for held in self.of(camera) if from_s <= held.captured_s <= to_s]
        for held in gone:
            self._drop(held)
        return len(gone)

    def next_expiry_s(self) -> float | None:
        """When :meth:`expire` is due next."""
        oldest_s = [next(iter(frames.values())).captured_s for frames in self._frames.values()]
        return min(oldest_s) + self._settings.history_s + EXPIRY_STEP_S if oldest_s else None

    def expire(self, now_s: float) -> None:
        """Drop what is too old."""
        for camera in list(self._frames):
            while camera in self._frames:
                oldest = next(iter(self._frames[camera].values()))
                if now_s - oldest.captured_s <= self._settings.history_s:
                    break
                self._drop(oldest)

    def _drop(self, held: HeldFrame) -> None:
        frames = self._frames[held.camera]
        del frames[held.frame]
        self._count(held, -1)
        if not frames:
            del self._frames[held.camera], self._bytes[held.camera]

    def _count(self, held: HeldFrame, sign: int) -> None:
        size_bytes = sign * (held.size_bytes + OVERHEAD_BYTES)
        self.held_bytes += size_bytes
        self._bytes[held.camera] = self._bytes.get(held.camera, 0) + size_bytes
