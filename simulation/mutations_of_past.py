"""Deliberate faults about frames of the past: which one is meant, who holds it, and what is kept."""

from __future__ import annotations

from pipeline.protocol.frame_ring import FrameRing, HeldFrame
from pipeline.protocol.worker_frame import WorkerFrame
from pipeline.protocol.worker_kept import KeptFrame, KeptFrames
from schemas.types import FrameId
from simulation.mutation import Mutation

_find = KeptFrames.find


def _newest(self: FrameRing, camera: str, _time_s: float) -> HeldFrame | None:
    return max(self.of(camera), key=lambda held: held.captured_s, default=None)


def _any_kept(self: KeptFrames, camera: str, frame: FrameId, attempt: int) -> KeptFrame | None:
    for (known_camera, known), kept in self._frames.items():
        if known_camera == camera and known != frame:
            return kept
    return _find(self, camera, frame, attempt)


def _keep_all(self: KeptFrames, frame: WorkerFrame) -> None:
    kept = KeptFrame(frame.site, frame.attempt, tuple(frame.chunks), frame.payload_bytes)
    self._frames[frame.camera, frame.frame] = kept
    self.held_bytes += kept.held_bytes


PAST_MUTATIONS: tuple[Mutation, ...] = (
    Mutation("a question of the past is asked of the newest frame", 1, FrameRing, "as_of", _newest),
    Mutation("any kept frame of the camera will do", 1, KeptFrames, "find", _any_kept),
    Mutation("no bound on kept frames", 1, KeptFrames, "keep", _keep_all),
)
