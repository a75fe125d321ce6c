"""How many frames of virtual cameras may be under way at once. Pure.

A replay that is faster than the day it replays asks more of the workers than that day did. What they are too slow for
waits before it is offered, where it costs no deadline; behind an open message it would cost one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FRAMES_OF_A_CAMERA: Final = 8
"""Enough to keep workers busy, and under the number at which a session begins to drop the oldest."""
FRAMES_OF_A_WORKER: Final = 16
LEAST: Final = 2
"""Of a worker: one frame is at the model, one is on its way."""


@dataclass(frozen=True, slots=True)
class Room:
    """The next frame waits while more queries than these are undecided.

    Attributes:
        of_camera: queries of its camera.
        of_site: queries of all cameras of its site; None has no bound.
    """

    of_camera: int
    of_site: int | None


def room(queries: int, *, speed: float, workers: int, sites: int, cameras: int) -> Room:
    """Room for frames.

    Args:
        queries: queries of the next frame.
        speed: what deadlines are divided by, 1 where they are as recorded.
        workers: workers that are online.
        sites: sites that share them.
        cameras: cameras of this site.

    Returns:
        The bounds. They shrink as deadlines do, or these would pass in the workers' queues. Workers bound all frames
        together only where deadlines are shorter than on the day of the log; what one of them has no room for would be
        superseded by the next frame of its camera, so a camera has no more frames under way than its share.
    """
    if speed <= 1.0:
        return Room((FRAMES_OF_A_CAMERA - 1) * queries, None)
    of_worker = max(LEAST, round(FRAMES_OF_A_WORKER / speed))
    of_site = max(1, of_worker * max(1, workers) // sites)
    of_camera = min(max(LEAST, round(FRAMES_OF_A_CAMERA / speed)), -(-of_site // cameras))
    return Room((of_camera - 1) * queries, (of_site - 1) * queries)
