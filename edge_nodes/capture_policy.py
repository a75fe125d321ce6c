"""When a camera takes a frame, and what it is asked: the one place where that is decided.

A frame is due when a slot of the interval has come, unless the pool is overloaded and the slot is shed, or at once
when an ad-hoc question waits. It is taken once the uplink has room: under load fewer frames are taken, and each is
fresh when it leaves. A camera may take frames for the ring of the edge as well, whether the uplink has room or not.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edge_nodes.sampling import Sampler
from edge_nodes.sources import CapturedFrame
from schemas.errors import SourceError


class SiteView(Protocol):
    """What the policy reads of its site."""

    def asked(self, camera: str) -> bool:
        """Whether an ad-hoc question waits for a frame."""

    def has_room(self, camera: str) -> bool:
        """Whether a frame that is taken now would leave soon."""

    def takes_standing(self, camera: str) -> bool:
        """Whether the standing questions of a slot that has come are asked; called once a slot."""


class CapturePolicy:
    """The rules of one camera. It has no clock: whoever drives it says what time it is.

    Args:
        camera: its name.
        interval_s: time between frames for standing questions; None when there are none.
        phase_s: when the first of them is due, from the opening of the source on; spreads the cameras of a site.
        site: what else decides.
        ring_interval_s: time between frames for the ring; None takes none for it alone.

    Attributes:
        missed: slots that passed without a frame, because source, encoder or uplink could not keep up. Those that were
            shed do not count.
    """

    def __init__(
        self,
        camera: str,
        interval_s: float | None,
        phase_s: float,
        site: SiteView,
        *,
        ring_interval_s: float | None = None,
    ) -> None:
        self.missed = 0
        self._camera = camera
        self._interval_s = interval_s
        self._phase_s = phase_s
        self._site = site
        self._sampler: Sampler | None = None
        self._ring_interval_s = ring_interval_s
        self._ring: Sampler | None = None

    def source_opened(self, now_s: float) -> None:
        """The slots begin anew."""
        if self._interval_s is not None:
            self._sampler = Sampler(self._interval_s, now_s + self._phase_s)
        if self._ring_interval_s is not None:
            self._ring = Sampler(self._ring_interval_s, now_s)

    def set_interval(self, interval_s: float, now_s: float) -> None:
        """Another time between frames for standing questions: the slots begin anew. A camera without any stays so."""
        if self._interval_s is None or interval_s == self._interval_s:
            return
        self._interval_s = interval_s
        self._phase_s = min(self._phase_s, interval_s)
        if self._sampler is not None:
            self._sampler = Sampler(interval_s, min(self._sampler.due_s, now_s + interval_s))

    def due(self, now_s: float) -> bool:
        """Whether a frame shall be taken as soon as there is room."""
        return self._site.asked(self._camera) or self._slot(now_s) is not None or self.ring_due(now_s)

    def next_due_s(self) -> float | None:
        """When time alone can make :meth:`due` true; None when only a question can."""
        due_s = [sampler.due_s for sampler in (self._sampler, self._ring) if sampler is not None]
        return min(due_s, default=None)

    def ring_due_s(self) -> float | None:
        """When the next frame for the ring is due; None where none is taken for it alone."""
        return None if self._ring is None else self._ring.due_s

    def ring_due(self, now_s: float) -> bool:
        """Whether a frame for the ring is due, room on the uplink or not."""
        return self._ring is not None and self._ring.due_s <= now_s

    def for_ring(self, now_s: float) -> bool:
        """Whether a frame that has just been read is kept even if nothing is asked of it; its slot is used up."""
        if self._ring is None or self._ring.due_s > now_s:
            return False
        self._ring.taken(now_s)
        return True

    def has_room(self) -> bool:
        """Whether the uplink can take a frame."""
        return self._site.has_room(self._camera)

    def standing(self, now_s: float) -> bool:
        """Whether a frame that has just been read is asked the standing questions; its slot is used up."""
        sampler = self._slot(now_s)
        if sampler is not None:
            self._use_up(sampler, now_s)
        return sampler is not None

    def check(self, captured: CapturedFrame) -> None:
        """A source may give anything.

        Raises:
            SourceError: it is no picture.
        """
        pixels = captured.pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            found = f"{pixels.dtype} {list(pixels.shape)}"
            raise SourceError(captured.camera, f"frame {captured.index} is {found}, not uint8 [height, width, 3]")

    def _slot(self, now_s: float) -> Sampler | None:
        """The grid whose slot has come and is taken. One that is shed is used up here."""
        sampler = self._sampler
        if sampler is None or sampler.due_s > now_s:
            return None
        if not sampler.granted and not self._site.takes_standing(self._camera):
            self._use_up(sampler, now_s)
            return None
        sampler.granted = True
        return sampler

    def _use_up(self, sampler: Sampler, now_s: float) -> None:
        before = sampler.missed
        sampler.taken(now_s)
        self.missed += sampler.missed - before
