"""State of one question of a client, the order of provisional answers, and which query a message is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from schemas.identity import ad_hoc_query_id, standing_query_id
from schemas.messages import Answer, Ask, QueryOutcome
from schemas.types import FrameId

FRAMES_REMEMBERED: Final = 8
"""Frames that one query was answered from; an edge that starts again takes another one."""


@dataclass(slots=True)
class Progress:
    """Which provisional answers of a query are new.

    They come on several topics, again after a reconnect, and late from workers that lost the frame. One is new when it
    read a longer prefix of the frame than the one before it, or a later frame.

    Attributes:
        latents: length of the longest prefix of the present frame.
    """

    latents: int = 0
    _frames: list[FrameId] = field(default_factory=list)

    def advance(self, answer: Answer) -> bool:
        """Take a provisional answer in; whether it is new."""
        if not self._frames or answer.frame != self._frames[-1]:
            if any(answer.frame.boot == known.boot and answer.frame <= known for known in self._frames):
                return False
            self._frames = [*self._frames, answer.frame][-FRAMES_REMEMBERED:]
            self.latents = answer.latents
            return True
        if answer.latents <= self.latents:
            return False
        self.latents = answer.latents
        return True


@dataclass(slots=True)
class Question:
    """A question without an outcome.

    Attributes:
        camera: whom it is asked of.
        message: what is published.
        payload: its bytes.
        since_s: when the client wanted it asked.
        check: ask only where an edge that is online serves the camera.
        asked_s: when it was published first; None before.
        token: names its last publish while that has no answer.
        retry_s: not to be published again before.
        progress: of its provisional answers.
    """

    camera: str
    message: Ask
    payload: bytes = field(repr=False)
    since_s: float
    check: bool
    asked_s: float | None = None
    token: int | None = None
    retry_s: float | None = None
    progress: Progress = field(default_factory=Progress)

    def limit_s(self, margin_s: float) -> float:
        """How long to wait for the outcome."""
        return self.message.deadline_ms / 1000 + margin_s

    def began_s(self) -> float:
        """When the wait for the outcome began."""
        return self.since_s if self.asked_s is None else self.asked_s


def key_of(message: Answer | QueryOutcome) -> str:
    """Key of the query that a message is about, by its other fields."""
    if message.ad_hoc:
        return ad_hoc_query_id(message.camera, message.owner.removeprefix("client/"), message.question_id)
    return standing_query_id(message.camera, message.frame, message.question_id)
