"""The frames that a worker holds, with their bytes and their timers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator

from pipeline.protocol.timers import Timers
from pipeline.protocol.worker_frame import WorkerEvent, WorkerFrame, WorkerStage
from schemas.types import FrameId

Key = tuple[str, FrameId]

_AT_THE_MODEL = (WorkerStage.PARKED, WorkerStage.INFERRING)


class FrameStore:
    """Undecided frames by camera and frame id.

    Args:
        due_of: when time changes something about a frame.

    Attributes:
        held_bytes: latent payload in memory.
    """

    def __init__(self, due_of: Callable[[WorkerFrame], float]) -> None:
        self.held_bytes = 0
        self._frames: dict[Key, WorkerFrame] = {}
        self._by_camera: Counter[str] = Counter()
        self._by_text: dict[bytes, dict[Key, WorkerFrame]] = {}
        self._due_of = due_of
        self._timers: Timers[Key] = Timers(self._due_s)

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[WorkerFrame]:
        return iter(self._frames.values())

    def in_stage(self, stage: WorkerStage) -> list[WorkerFrame]:
        """Frames that stand at a stage, the longest held first."""
        return [frame for frame in self._frames.values() if frame.stage is stage]

    def at_the_model(self) -> int:
        """Frames that the model reads, or that wait for it."""
        return sum(frame.stage in _AT_THE_MODEL for frame in self._frames.values())

    def of_camera(self, camera: str) -> int:
        """Frames of a camera."""
        return self._by_camera[camera]

    def fullest_camera(self) -> tuple[str, int]:
        """The camera with most frames, and their number; the empty name and 0 while no frame is held."""
        return max(self._by_camera.items(), key=lambda entry: entry[1], default=("", 0))

    def waiting_for(self, digest: bytes) -> list[WorkerFrame]:
        """Frames that wait for a text."""
        return list(self._by_text.get(digest, {}).values())

    def wait_for(self, frame: WorkerFrame, digests: Collection[bytes]) -> None:
        """A frame waits for these texts and no others."""
        key = (frame.camera, frame.frame)
        for digest in frame.missing.difference(digests):
            waiting = self._by_text[digest]
            del waiting[key]
            if not waiting:
                del self._by_text[digest]
        for digest in digests:
            self._by_text.setdefault(digest, {})[key] = frame
        frame.missing = frozenset(digests)

    def sizes(self) -> tuple[int, int, int]:
        """Cameras of the frames, texts that they wait for, and due times that are kept."""
        return len(self._by_camera), len(self._by_text), len(self._timers)

    def find(self, camera: str, frame: FrameId) -> WorkerFrame | None:
        """A frame whose state is about to change."""
        key = (camera, frame)
        self._timers.touch(key)
        return self._frames.get(key)

    def touch(self, frame: WorkerFrame) -> None:
        """The state of a frame is about to change."""
        self._timers.touch((frame.camera, frame.frame))

    def touch_all(self) -> None:
        """What decides all due times has changed."""
        for key in self._frames:
            self._timers.touch(key)

    def next_s(self) -> float | None:
        """When the first frame is due."""
        return self._timers.next_s()

    def take_due(self, now_s: float) -> Iterator[WorkerFrame]:
        """Frames that are due, the earliest first."""
        for key in self._timers.take_due(now_s):
            frame = self._frames.get(key)
            if frame is not None:
                yield frame

    def add(self, frame: WorkerFrame) -> None:
        """Hold a new frame."""
        self._frames[frame.camera, frame.frame] = frame
        self._by_camera[frame.camera] += 1
        self.held_bytes += frame.held_bytes
        self.touch(frame)

    def forget(self, frame: WorkerFrame, event: WorkerEvent) -> None:
        """A frame is done here."""
        frame.move(event)
        self.drop(frame)

    def drop(self, frame: WorkerFrame) -> None:
        """Forget a frame, whatever stage it is at."""
        frame.stage = WorkerStage.DONE
        self.touch(frame)
        self.wait_for(frame, ())
        self.held_bytes -= frame.held_bytes
        del self._frames[frame.camera, frame.frame]
        self._by_camera[frame.camera] -= 1
        if not self._by_camera[frame.camera]:
            del self._by_camera[frame.camera]

    def _due_s(self, key: Key) -> float | None:
        frame = self._frames.get(key)
        return None if frame is None else self._due_of(frame)
