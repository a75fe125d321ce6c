"""Wake mode: one frame of each camera is asked about, and the process ends when all is answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from edge_nodes.capture import CameraCapture, FrameTaker
from edge_nodes.capture_policy import CapturePolicy, SiteView
from edge_nodes.observer import OfferedFrame
from edge_nodes.sources import CapturedFrame
from pipeline.config.logs import get_logger
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import Decision
from pipeline.protocol.ports import Sent

_log = get_logger(__name__)

EXIT_INCOMPLETE: Final = 4
"""Exit status when a camera showed no frame in time, or a question found no answer in time."""


class OncePolicy(CapturePolicy):
    """A frame of this camera is due once, from :meth:`begin` on, and whenever an ad-hoc question waits.

    A frame that came to nothing does not count.

    Args:
        camera: its name.
        site: what else decides.

    Attributes:
        done: its standing questions were asked, or are left out.
    """

    def __init__(self, camera: str, site: SiteView) -> None:
        super().__init__(camera, None, 0.0, site)
        self.done = False
        self._begun = False

    def begin(self) -> None:
        """The site knows its standing questions: ask them, unless it is to leave this slot out."""
        self._begun = True
        self.done = not self._site.takes_standing(self._camera)

    def due(self, now_s: float) -> bool:
        """See :class:`~edge_nodes.capture_policy.CapturePolicy`."""
        return super().due(now_s) or (self._begun and not self.done)

    def standing(self, now_s: float) -> bool:  # noqa: ARG002 - one interface for all policies
        """See :class:`~edge_nodes.capture_policy.CapturePolicy`."""
        return self._begun and not self.done


class OnceTaker:
    """Hands frames on to the site, and notes that a camera is done.

    Args:
        site: whom the cameras work for.
        policies: by camera.
    """

    def __init__(self, site: FrameTaker, policies: Mapping[str, OncePolicy]) -> None:
        self._site = site
        self._policies = policies

    async def until(self, condition: Callable[[], bool]) -> None:
        """See :class:`~edge_nodes.capture.FrameTaker`."""
        await self._site.until(condition)

    async def take(self, captured: CapturedFrame, *, standing: bool, ring: bool) -> None:
        """See :class:`~edge_nodes.capture.FrameTaker`."""
        await self._site.take(captured, standing=standing, ring=ring)
        if standing:
            self._policies[captured.camera].done = True

    async def keep(self, captured: CapturedFrame) -> None:
        """See :class:`~edge_nodes.capture.FrameTaker`."""
        await self._site.keep(captured)

    def source_changed(self, camera: str, up: bool) -> None:
        """See :class:`~edge_nodes.capture.FrameTaker`."""
        self._site.source_changed(camera, up)


class OnceRun:
    """One waking of a site; an :class:`~edge_nodes.observer.EdgeObserver` that counts.

    Args:
        session: of the site.
    """

    def __init__(self, session: EdgeSession) -> None:
        self.policies: dict[str, OncePolicy] = {}
        self._session = session
        self._outcomes: Counter[str] = Counter()
        self._wire_bytes = 0
        self._abandoned = 0

    # ---- what is seen -----------------------------------------------------------------------------------------------

    def frame_offered(self, offered: OfferedFrame) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""

    def message_sent(self, sent: Sent) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        self._wire_bytes += sent.wire_bytes

    def query_ended(self, decision: Decision, delay_s: float | None) -> None:  # noqa: ARG002 - one interface for all observers
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        self._outcomes[decision.outcome.value] += 1

    def source_changed(self, camera: str, up: bool) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""

    # ---- the run ----------------------------------------------------------------------------------------------------

    async def finished(
        self,
        taker: FrameTaker,
        captures: Mapping[str, CameraCapture],
        cameras: Mapping[str, asyncio.Task[None]],
    ) -> None:
        """Let every camera take its frame, and wait until everything that was asked has its outcome.

        Args:
            taker: the site.
            captures: its cameras, with the policies of this run.
            cameras: their loops; a source that ends has no frame to come.
        """
        budget = self._session.budget
        await taker.until(lambda: self._session.sync.out or budget.is_closed)
        if budget.is_closed:
            for policy in self.policies.values():
                policy.done = True
            return
        for name, policy in self.policies.items():
            policy.begin()
            captures[name].wake()
        ends = [asyncio.ensure_future(asyncio.wait({task})) for task in cameras.values()]
        try:
            settled = asyncio.ensure_future(taker.until(lambda: self._settled(cameras)))
            while not settled.done():
                await asyncio.wait({settled, *ends}, return_when=asyncio.FIRST_COMPLETED)
                ends = [end for end in ends if not end.done()]
                if self._settled(cameras):
                    break
            settled.cancel()
        finally:
            for end in ends:
                end.cancel()

    def _settled(self, cameras: Mapping[str, asyncio.Task[None]]) -> bool:
        ad_hoc = self._session.ad_hoc
        if self._session.unfinished() or ad_hoc.pending or ad_hoc.sizes()["asks"]:
            return False
        return all(policy.done or cameras[name].done() for name, policy in self.policies.items())

    def abandoned(self, count: int) -> None:
        """So many queries had no outcome when the time was over."""
        self._abandoned = count

    def status(self) -> int:
        """Exit status, with a line for the log."""
        missing = [name for name, policy in self.policies.items() if not policy.done]
        say = _log.warning if missing or self._abandoned else _log.info
        say(
            "one frame of each camera",
            outcomes=dict(self._outcomes),
            without_frame=missing,
            without_answer=self._abandoned,
            wire_bytes=self._wire_bytes,
            uplink=self._session.budget.stage.value,
        )
        return EXIT_INCOMPLETE if missing or self._abandoned else 0
