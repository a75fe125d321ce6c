"""What an edge asks of the disk that keeps frames while the link is down, and what it is told. Plain data.

The shell does the requests one after the other, in the order in which they come, and answers each one once with
``frame_stored(token, result, now_s)``. :class:`edge_nodes.frame_file.FrameFile` does them with SQLite.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.protocol.effects import Latent


class StoredQuestion(NamedTuple):
    """A standing question that a stored frame is to be asked. Its text is the site's, and not stored.

    Attributes:
        question_id: its id; the site owns it.
        digest: of the question as it was when the frame was taken.
    """

    question_id: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame on disk, without its latent.

    Attributes:
        entry_id: its number; a later frame has a larger one.
        camera: its camera.
        questions: what it is to be asked.
        fingerprint: first 4 bytes of the fingerprint of the codec that made its latent.
        base_latents: prefix that the first open shall carry.
        size_bytes: coded size of its latent.
        age_s: how old it is as it is read; None when nobody knows, because the machine was off in between.
    """

    entry_id: int
    camera: str
    questions: tuple[StoredQuestion, ...]
    fingerprint: bytes
    base_latents: int
    size_bytes: int
    age_s: float | None


# ---- requests -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadStored:
    """The frames that an earlier process left: :class:`Found`."""

    token: int


@dataclass(frozen=True, slots=True)
class PutFrame:
    """Store a frame, and drop others in the same step: :class:`Done`.

    Attributes:
        token: names the request.
        stored: the frame; its age is that of now.
        latent_count: latents in the payload.
        payload: coded symbols of all its latents, one chunk.
        replaces: numbers of frames that it makes needless.
    """

    token: int
    stored: StoredFrame
    latent_count: int
    payload: bytes = field(repr=False)
    replaces: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadFrame:
    """The latent of a frame: :class:`FrameRead`, or :class:`Damaged`."""

    token: int
    entry_id: int


@dataclass(frozen=True, slots=True)
class DropFrames:
    """Delete frames, as far as they are there: :class:`Done`."""

    token: int
    entry_ids: tuple[int, ...]


StoreRequest = ReadStored | PutFrame | ReadFrame | DropFrames


# ---- results --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """Frames on disk, the oldest first.

    Attributes:
        frames: they.
        damaged: rows that were not readable, and are gone.
    """

    frames: tuple[StoredFrame, ...]
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class FrameRead:
    """A frame, ready to be sent in parts.

    Attributes:
        latent: its latent.
        age_s: how old it is; None when nobody knows.
    """

    latent: Latent
    age_s: float | None


@dataclass(frozen=True, slots=True)
class Damaged:
    """A frame that is not there, or not as it was written.

    Attributes:
        problem: what is wrong with it.
    """

    problem: str


@dataclass(frozen=True, slots=True)
class Done:
    """It is on disk."""


@dataclass(frozen=True, slots=True)
class DiskFailed:
    """The disk did not do it.

    Attributes:
        problem: why.
        full: it has no room.
    """

    problem: str
    full: bool = False


StoreResult = Found | FrameRead | Damaged | Done | DiskFailed
