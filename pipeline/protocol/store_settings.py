"""Policy, bounds and reasons of store and forward."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_TRIES: Final = 3
"""Opens of a stored frame, each a query of its own, that may come to nothing while there is a link."""
MAX_EVICTED_A_PUT: Final = 8
"""Frames that one new frame may cost on a full disk."""
ENTRY_OVERHEAD_BYTES: Final = 256
"""What a frame takes on disk beside its latent, about: names, digests, and its place in the file."""


OLD_CHECK_S: Final = 60.0
"""Between two looks for frames that are too old."""


class StorePolicy(StrEnum):
    """Which frames are kept while there is no link."""

    OFF = "off"
    """None: cameras wait for the link."""
    NEWEST = "newest"
    """The newest one of each question."""
    EVERY_NTH = "every_nth"
    """Those of every n-th slot of a camera, as far as there is room."""


class DropReason(StrEnum):
    """Why a stored frame was not sent, or not to its end."""

    REPLACED = "replaced"
    """A newer frame of its questions has come, and the policy keeps that alone."""
    NO_ROOM = "no_room"
    """The bounds of the settings, or of one message."""
    DISK_FULL = "disk_full"
    """The disk had no room."""
    DISK_FAILED = "disk_failed"
    """The disk did not take it."""
    TOO_OLD = "too_old"
    """Older than the settings allow; one of unknown age, so long after it was found."""
    CODEC_CHANGED = "codec_changed"
    """Its latent is another codec's than this edge has now."""
    QUESTION_CHANGED = "question_changed"
    """Its questions were deleted, changed, or are not asked of its camera any more."""
    CAMERA_GONE = "camera_gone"
    """The site has no camera of its name any more."""
    DAMAGED = "damaged"
    """It cannot be read any more."""
    GIVEN_UP = "given_up"
    """No worker answered, several times."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Bounds of store and forward.

    Attributes:
        policy: which frames are kept.
        nth: with EVERY_NTH, slots of a camera from one kept frame to the next.
        newest_every_s: with NEWEST, least time from one kept frame of a camera to the next: each is written, and memory
            cards wear out.
        max_entries: frames kept.
        max_bytes: their latents, with :data:`ENTRY_OVERHEAD_BYTES` each.
        max_age_s: older frames are dropped; those of unknown age, so long after they were found.
        offline_after_s: without a connection for so long, frames are kept; before, cameras wait.
        least_deadline_s: time that the query of a stored frame has at least: nobody waits for it, and a worker takes
            first what is more urgent.
        under_way: stored frames without an outcome at a time.
        retry_s: pause after a frame came to nothing, a worker was busy, or the disk failed.
    """

    policy: StorePolicy = StorePolicy.NEWEST
    nth: int = 10
    newest_every_s: float = 10.0
    max_entries: int = 4096
    max_bytes: int = 16 * 1024 * 1024
    max_age_s: float = 604_800.0
    offline_after_s: float = 5.0
    least_deadline_s: float = 60.0
    under_way: int = 4
    retry_s: float = 10.0
