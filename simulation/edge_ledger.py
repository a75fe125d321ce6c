"""What one site is asked, says and hears, to judge its sessions by; one ledger over all of its processes."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery, Decision
from pipeline.protocol.ports import Publish, Received
from schemas.messages import FollowUp, Message, Open, Status
from schemas.types import FrameId
from simulation.change_gate import GateLedger, GatePlan
from simulation.content import seen
from simulation.encoder import Taken
from simulation.query_ledger import Problem, QueryLedger
from simulation.uplink_ledger import UplinkLedger
from simulation.wills import STALE_WILL, WillsRead, seen_outside


class EdgeLedger:
    """Ledger of a site.

    Args:
        site: its name.
        asked: what was asked of every frame.
        on_problem: told what is broken.
        gate: of its change gate, if it has one.
    """

    def __init__(self, site: str, asked: QueryLedger, on_problem: Problem, gate: GatePlan | None = None) -> None:
        self._site = site
        self._gate_plan = gate
        self._asked = asked
        self._on_problem = on_problem
        self._uplink = UplinkLedger(on_problem)
        self._workers = WillsRead()
        self._gate = self._new_gate()

    def started(self) -> None:
        """Another process of the site starts."""
        self._uplink = UplinkLedger(self._on_problem)
        self._workers = WillsRead()
        self._gate = self._new_gate()

    def taken(self, camera: str, queries: Sequence[AskedQuery], taken: Taken, now_s: float, *, linked: bool) -> None:
        """The session was given a frame, with these queries."""
        if self._gate is not None:
            self._gate.taken(camera, taken.scene, queries, taken.sifted, taken.frame, now_s, linked=linked)
        self._asked.offered(camera, taken.frame, seen(taken.mark), taken.told)
        if taken.sifted.asked:  # else it is only kept
            self._uplink.offered(camera, taken.frame, taken.sifted.asked, now_s)

    def offered_history(self, camera: str, frame: FrameId, mark: bytes, queries: Sequence[AskedQuery]) -> None:
        """The session asks about a frame that it had stored."""
        self._asked.offered(camera, frame, seen(mark), queries)

    def asked_again(self, camera: str, frame: FrameId, queries: Sequence[AskedQuery]) -> None:
        """The session asks more of a frame of the past."""
        self._asked.asked_again(camera, frame, queries)
        self._uplink.asked_again(camera, frame)

    def hears(self, session: EdgeSession, received: Received, message: Message, now_s: float) -> None:
        """The session reads a message; the last will of an earlier start of a worker must change nothing."""
        if not isinstance(message, Status) or message.kind != "worker":
            session.receive(received, now_s)
            return
        stale = self._workers.is_stale(message)
        self._workers.learn(message, now_s)
        before = seen_outside(session) if stale else ()
        session.receive(received, now_s)
        if stale and seen_outside(session) != before:
            self._on_problem(STALE_WILL, self._site, f"the will of boot {message.boot} of {message.id}")

    def refined(self, camera: str, now_s: float) -> None:
        """A chunk of this camera may wait for the uplink from now on."""
        self._uplink.wants(camera, now_s)

    def left(self, session: EdgeSession, publish: Publish, now_s: float, backlog_s: float) -> None:
        """A message leaves."""
        if isinstance(publish.message, Open | FollowUp):
            self._asked.opened(self._site, publish.topic.rsplit("/", 1)[1], publish.message)
        self._uplink.left(session, publish, now_s, backlog_s)

    def decided(self, decision: Decision, now_s: float) -> None:
        """The session has decided a query."""
        self._asked.decided(self._site, decision)
        if self._gate is not None:
            self._gate.decided(decision, now_s)

    def forgotten(self, query_ids: Sequence[str]) -> None:
        """Decisions that died with a process before the disk had them: their queries are asked again."""
        self._asked.forgotten(self._site, query_ids)

    def _new_gate(self) -> GateLedger | None:
        return None if self._gate_plan is None else GateLedger(self._site, self._gate_plan, self._on_problem)
