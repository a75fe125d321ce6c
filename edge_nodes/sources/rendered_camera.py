"""A camera that needs no hardware: scenes rendered from a seed, in real time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from urllib.parse import parse_qsl

from edge_nodes.sources.base import CapturedFrame
from pipeline.node.clock import Clock, MonotonicClock
from pipeline.node.work_thread import WorkThread
from pipeline.scenes.motion import SceneClip
from pipeline.scenes.questions import QUESTION_KINDS, QuestionSpec, make_question
from pipeline.scenes.renderer import render
from schemas.errors import SourceError

FPS = 10.0
CLIP_S = 60.0
"""The clip repeats after this time."""
SIZE_PX = 256

_FORM = "test:SEED or test:SEED?questions=color:car,existence:bus:red"


class RenderedCamera:
    """A :class:`~edge_nodes.sources.base.FrameSource` of 256 x 256 pixels at 10 frames a second.

    Args:
        camera: name of the camera.
        seed: same seed and questions, same frames.
        questions: questions that the scenes are laid out to answer clearly.
        clock: what the camera runs by.

    Attributes:
        counters: stays empty.
    """

    def __init__(
        self, camera: str, seed: int, *, questions: Sequence[QuestionSpec] = (), clock: Clock | None = None
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._camera = camera
        self._seed = seed
        self._questions = tuple(questions)
        self._clock = clock or MonotonicClock()
        self._thread: WorkThread | None = None
        self._clip: SceneClip | None = None
        self._start_s = 0.0
        self._last_tick = -1

    @classmethod
    def from_source(cls, camera: str, source: str) -> RenderedCamera:
        """The camera that ``test:SEED`` means.

        Raises:
            SourceError: it does not read like that.
        """
        seed, _, options = source.removeprefix("test:").partition("?")
        try:
            pairs = dict(parse_qsl(options, keep_blank_values=True, strict_parsing=bool(options)))
            listed = pairs.pop("questions", "")
            if pairs:
                raise ValueError(f"unknown option {next(iter(pairs))!r}")
            questions = [_question(entry) for entry in listed.split(",") if entry]
            if not (seed.isascii() and seed.isdigit()):
                raise ValueError(f"{seed!r} is no whole number")
            return cls(camera, int(seed), questions=questions)
        except ValueError as error:
            raise SourceError(source, f"{error}; write {_FORM}") from None

    async def open(self) -> None:
        """Lay out the scenes; the camera starts now."""
        self._thread = WorkThread(f"camera-{self._camera}")
        self._clip = await self._thread.call(SceneClip, self._seed, CLIP_S, self._questions)
        self._start_s = self._clock.now_s()
        self._last_tick = -1

    async def newest(self) -> CapturedFrame:
        """The present frame; waits for the next one if it was returned already.

        Raises:
            SourceError: the camera is not open.
        """
        if self._thread is None or self._clip is None:
            raise SourceError(f"test:{self._seed}", "is not open")
        tick = self._present_tick()
        while tick <= self._last_tick:
            await self._clock.sleep(self._start_s + (self._last_tick + 1) / FPS - self._clock.now_s())
            tick = self._present_tick()
        self._last_tick = tick
        index = tick % round(CLIP_S * FPS)
        time_s = index / FPS
        pixels = await self._thread.call(render, self._clip.scene_at(time_s), SIZE_PX)
        return CapturedFrame(self._camera, index, time_s, pixels)

    async def close(self) -> None:
        """End the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.close()

    def _present_tick(self) -> int:
        # The small constant keeps a wait that ended exactly on a tick from being rounded to the tick before.
        return math.floor((self._clock.now_s() - self._start_s) * FPS + 1e-6)


def _question(entry: str) -> QuestionSpec:
    kind, _, rest = entry.partition(":")
    object_kind, _, color = rest.partition(":")
    for known in QUESTION_KINDS:
        if known == kind:
            return make_question(known, object_kind, color or None)
    raise ValueError(f"question kind {kind!r} is none of {', '.join(QUESTION_KINDS)}")
