"""What an edge hears of other sites that have a camera of one of its names; such names are unique in a fleet.

Both sites read the control and answer topics of the camera, so that each hears of the other without a message more:
the answers to the other's standing questions name it, and both read that a worker has refused one of them.
"""

from __future__ import annotations

from typing import Final

from schemas.errors import CameraNameError
from schemas.identity import owner_of
from schemas.messages import Answer
from schemas.types import FrameId

NAME_CONFLICT_S: Final = 60.0
"""So long after the last sign of another site, what is said of unknown frames of the camera may be meant for it."""


class CameraNames:
    """Cameras of an edge that another site has as well.

    Args:
        site: this edge.
        boot: random id of its process start.
    """

    def __init__(self, site: str, boot: int) -> None:
        self._site = site
        self._owner = owner_of("site", site)
        self._boot = boot
        self._others: dict[str, tuple[str, float]] = {}

    def foreign_answer(self, answer: Answer, now_s: float) -> CameraNameError | None:
        """What an answer to a standing question of another site means; None for one of this site, or of a client."""
        if answer.ad_hoc or answer.owner == self._owner:
            return None
        other = answer.owner.removeprefix("site/")
        self._others[answer.camera] = (other, now_s)
        return CameraNameError(answer.camera, self._site, other)

    def refused(self, camera: str, frame: FrameId, now_s: float) -> CameraNameError:
        """A worker has refused a frame because of the name of its camera."""
        other, _ = self._others.get(camera, ("", 0.0))
        self._others[camera] = (other, now_s)
        mine = frame.boot == self._boot
        return CameraNameError(camera, self._site if mine else other, other if mine else self._site)

    def foreign(self, camera: str, frame: FrameId, now_s: float) -> bool:
        """Whether an unknown frame of a camera may be another site's; else it is of an earlier process of this one."""
        known = self._others.get(camera)
        return frame.boot != self._boot and known is not None and now_s - known[1] < NAME_CONFLICT_S
