"""What a camera is to the edge: something that has a newest frame."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

# The last @ before the path ends the password: some have one in them, not escaped.
_CREDENTIALS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^/?#\s]*@", re.IGNORECASE)
# What follows the host is no port, so it is a password with a slash or the like in it.
_ODD_PASSWORD = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^/?#\s:@]*:(?!\d*(?:[/?#\s'\"]|$))[^\s@]*@", re.IGNORECASE
)
_SECRET_PARAMETERS = re.compile(
    r"(?P<name>[?&;](?:user(?:name)?|usr|u|pass(?:word|wd)?|pwd|p|token|auth|api_?key|key|secret|session|sid|signature)=)"
    r"[^&;#\s'\"]*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One frame of a camera.

    Attributes:
        camera: name of the camera.
        index: number of the frame in its source: position in the file, or count since a live source was opened.
        time_s: time of the frame within its source.
        pixels: RGB, uint8 [H, W, 3].
        age_s: how long ago the camera saw it, as far as the source can tell.
    """

    camera: str
    index: int
    time_s: float
    pixels: NDArray[np.uint8]
    age_s: float = 0.0


class FrameSource(Protocol):
    """A camera, live or replayed.

    The edge pulls: it asks for the newest frame when it has a use for one, so no queue of stale frames can form between
    camera and encoder. A live source (RTSP, V4L2) reads on in its own thread and keeps one frame, the newest.
    Methods are called by one task at a time, blocking calls of libraries in a
    :class:`~pipeline.node.work_thread.WorkThread`. What they raise costs the camera and nobody else: it is closed and
    opened again. A method that does not return is waited for; the other cameras go on.

    Attributes:
        counters: what was wrong and did not end it, by kind; for metrics.
    """

    counters: Counter[str]

    async def open(self) -> None:
        """Start the source.

        Raises:
            SourceError: it cannot be read.
        """

    async def newest(self) -> CapturedFrame | None:
        """The newest frame, newer than the one returned before; waits for one if need be.

        Returns:
            None when the source has ended.

        Raises:
            SourceError: it cannot be read any more; it may be closed and opened again.
        """

    async def close(self) -> None:
        """Release everything, after a failed ``open`` as well. Harmless when it is not open."""


@runtime_checkable
class WatchedSource(FrameSource, Protocol):
    """A source that can be lost while nobody asks it for a frame, and knows."""

    async def watch(self) -> None:
        """Wait until the source has ended. Cancelled when a frame is wanted.

        Raises:
            SourceError: it is lost.
        """


def redacted(source: str) -> str:
    """A source as it may be shown: without user name and password, wherever they stand in an address."""
    shown = _ODD_PASSWORD.sub(r"\g<scheme>***@", _CREDENTIALS.sub(r"\g<scheme>***@", source))
    return _SECRET_PARAMETERS.sub(r"\g<name>***", shown)
