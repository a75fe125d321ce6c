"""A site whose frames come from a log: the real edge session on a real bus, without cameras, encoder and disk."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from analysis.replay.plan import ReplayFrame, SitePlan
from edge_nodes.shell import EdgeShell
from latentbus.replay.in_flight import Room
from pipeline.bus.base import Bus, Subscription
from pipeline.config.logs import get_logger
from pipeline.node.ask_journal import AskJournal
from pipeline.node.clock import Clock
from pipeline.node.containment import Containment
from pipeline.protocol.edge_session import EdgeOutput, EdgeSession
from pipeline.protocol.effects import AskedQuery, Decision
from pipeline.protocol.journal_requests import Admit, Decide, MarkTold, MoveToFile, ReadUnfinished
from pipeline.protocol.ports import Heard, Sent
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.site_settings import SiteSettings
from schemas import topics
from schemas.errors import NotAuthorizedError
from schemas.messages import Question, Status
from schemas.topics import Family

RECEIVE_BATCH: Final = 64

_log = get_logger(__name__)


def virtual_session(plan: SitePlan, *, fingerprint: bytes, uplink_kbps: float | None, clock: Clock) -> EdgeSession:
    """The session of a virtual site.

    Args:
        plan: who it is.
        fingerprint: first 4 bytes of the fingerprint that its frames carry.
        uplink_kbps: rate of its uplink; None has no limit.
        clock: monotonic time.
    """
    site = SiteSettings(
        site=plan.name,
        pool=plan.pool,
        asked_of=dict.fromkeys(plan.cameras, plan.questions),
        uplink_kbps=uplink_kbps,
        takes_asks=False,
        deletes_questions=False,
    )
    return EdgeSession(EdgeProtocolSettings(), site, boot=plan.boot, fingerprint=fingerprint, now_s=clock.now_s())


class VirtualSite(EdgeShell):
    """One virtual edge process.

    Args:
        plan: who it is.
        session: of :func:`virtual_session`.
        bus: entered, with the subscriptions and the will of the session.
        clock: monotonic time.
        ended: told about every query that is decided.
        sent: told about everything that left.

    Attributes:
        plan: who it is.
        online: other processes that say they are up, by kind and id.
    """

    def __init__(
        self,
        plan: SitePlan,
        session: EdgeSession,
        bus: Bus,
        clock: Clock,
        *,
        ended: Callable[[Decision], None] = lambda _decision: None,
        sent: Callable[[Sent], None] = lambda _sent: None,
    ) -> None:
        super().__init__(session, bus, clock, Containment(_log, sleep=clock.sleep))
        self.online: dict[tuple[str, str], Status] = {}
        self.plan = plan
        self._ended = ended
        self._sent = sent
        self._journal = AskJournal(None)
        self._unfinished: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """Its name."""
        return self.plan.name

    # ---- the process ------------------------------------------------------------------------------------------------

    async def read_retained(self) -> bool:
        """Take in what the broker retains, before anything is said.

        Returns:
            False when this identity may not see which edges there are.

        Raises:
            ConnectionLostError: the connection went away.
        """
        edges = Subscription(topics.family_filter(Family.STATUS).replace("/+/+", "/edge/+"))
        seen = True
        try:
            await self.bus.subscribe(edges)
        except NotAuthorizedError:
            seen = False
        # A broker sends what it retains before it answers the next request: after this one everything is here.
        await self.bus.subscribe(self.session.subscriptions()[-1])
        while self.bus.statistics().incoming_messages:
            for event in await self.bus.receive_batch():
                self.receive(event)
        return seen

    async def run(self) -> None:
        """Receive, send and let time pass, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._receive(), name=f"receive[{self.name}]")
            group.create_task(self.send(), name=f"send[{self.name}]")
            group.create_task(self.timers(), name=f"timers[{self.name}]")

    async def _receive(self) -> None:
        while True:
            for event in await self.bus.receive_batch(RECEIVE_BATCH):
                self.receive(event)
            await asyncio.sleep(0)

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def offer(
        self, frame: ReplayFrame, captured_s: float, rate: float, questions: dict[tuple[str, str], Question]
    ) -> None:
        """Ask the questions of a recorded frame.

        Args:
            frame: the frame.
            captured_s: when it counts as taken, on this process' monotonic clock.
            rate: what deadlines are divided by.
            questions: standing questions that are asked in another wording than the log's, by site and question id.
        """
        queries = [
            _reworded(query.asked(captured_s, rate), questions.get((self.name, query.question_id)))
            for query in frame.queries
        ]
        self._unfinished[frame.camera] += len(queries)
        now_s = self.clock.now_s()
        self.session.offer(frame.camera, frame.latent, frame.base_latents, queries, now_s, frame=frame.frame)
        self.pump()

    async def publish_question(self, question: Question) -> None:
        """Publish a standing question, unless the broker retains it as it is."""
        question_id = question.question_id
        if not same_question(self.retained(question_id), question):
            self.session.sync.overrule(question)
            self.pump()
            await self.until(lambda: not self.session.sync.is_publishing(question_id))

    async def leave(self, reason: str) -> None:
        """Decide what is left, and say that the site goes."""
        self.session.abandon(reason)
        self.session.leave(self.clock.now_s())
        self.pump()
        await self.until(self.session.idle)

    # ---- what the play waits for ------------------------------------------------------------------------------------

    async def left(self, camera: str) -> None:
        """Wait until the open message of the last frame has left, so that the next frame does not supersede it.

        On an uplink with a limit that rule is part of what is tried, and nothing is waited for.
        """
        if self.session.site.uplink_kbps is None:
            await self.until(lambda: not self.session.frames.waits_for_uplink(camera))

    async def room(self, camera: str, room: Room) -> None:
        """Wait until few enough queries are under way for a further frame of a camera."""
        most = math.inf if room.of_site is None else room.of_site
        await self.until(lambda: self._unfinished[camera] <= room.of_camera and self._unfinished.total() <= most)

    async def finished(self) -> None:
        """Wait until every query has its outcome; its deadline is the latest."""
        await self.until(lambda: not self.session.unfinished())

    def pool_fingerprints(self) -> list[str]:
        """Codec of each worker of the pool that is online."""
        return [
            status.fingerprint
            for (kind, _), status in self.online.items()
            if kind == "worker" and status.pool == self.plan.pool
        ]

    def retained(self, question_id: str) -> Question | None:
        """A standing question as the broker has it."""
        return self.session.standing.retained(question_id)

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def carry_out(self, output: EdgeOutput) -> None:
        """See :class:`~edge_nodes.shell.EdgeShell`."""
        match output:
            case Sent():
                self._sent(output)
            case Decision():
                self._unfinished[output.camera] -= 1
                self._ended(output)
            case Heard(message=Status() as status):
                self._heard(status)
            case Admit() | Decide() | MarkTold() | MoveToFile() | ReadUnfinished():
                # In memory: nothing of a replay survives it.
                self.session.stored(output.token, self._journal.perform(output), self.clock.now_s())
            case _:
                pass

    def _heard(self, status: Status) -> None:
        key = (status.kind, status.id)
        if status.online:
            self.online[key] = status
        elif key in self.online and self.online[key].boot == status.boot:
            del self.online[key]


def same_question(retained: Question | None, wanted: Question) -> bool:
    """Whether a retained question asks the same; its risk, its cameras and who set it are the operator's alone."""
    return (
        retained is not None
        and retained.content() == replace(wanted.content(), risk=retained.risk)
        and (retained.deadline_ms == wanted.deadline_ms)
    )


def _reworded(query: AskedQuery, other: Question | None) -> AskedQuery:
    return query if other is None or query.ad_hoc else replace(query, question=other.content())
