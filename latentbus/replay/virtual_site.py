"""A site whose frames come from a log: the real edge session and the real uplink, without cameras and encoder."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from analysis.replay.plan import ReplayFrame, SitePlan
from edge_nodes.outbox import Outbox
from edge_nodes.uplink import Sent, Uplink
from latentbus.replay.pace import Room
from pipeline.bus.base import Bus, ConnectionChange, Inbound, Subscription, Will
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.node.clock import Clock
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery, SendOpen, SendToWorker, Terminal
from pipeline.protocol.settings import EdgeProtocolSettings
from schemas import topics, wire
from schemas.errors import NotAuthorizedError, RemoteError
from schemas.messages import Accept, Answer, Busy, NeedText, Question, Refine, Reject, Status
from schemas.topics import Family

RECEIVE_BATCH: Final = 64

_log = get_logger(__name__)


class VirtualSite:
    """One virtual edge process.

    Args:
        plan: who it is.
        fingerprint: first 4 bytes of the fingerprint that its frames carry.
        bus: entered, with :meth:`subscriptions` and :meth:`will`.
        uplink_kbps: rate of its uplink; None has no limit.
        clock: monotonic time.
        ended: told about every query that is decided.
        sent: told about every publish that left.

    Attributes:
        plan: who it is.
        bus: its connection.
        session: the protocol machine.
        uplink: the way out.
        problems: what peers did wrong, logged once per kind.
        online: other processes that say they are up, by kind and id.
        retained: standing questions as the broker has them.
    """

    def __init__(
        self,
        plan: SitePlan,
        *,
        fingerprint: bytes,
        bus: Bus,
        uplink_kbps: float | None,
        clock: Clock,
        ended: Callable[[Terminal], None] = lambda _terminal: None,
        sent: Callable[[Sent], None] = lambda _sent: None,
    ) -> None:
        self.session = EdgeSession(
            EdgeProtocolSettings(), site=plan.name, pool=plan.pool, boot=plan.boot, fingerprint=fingerprint
        )
        self.session.connection(False, clock.now_s())
        self.uplink = Uplink(bus, uplink_kbps, clock, on_sent=sent)
        self.problems = OncePerKind(_log)
        self.online: dict[tuple[str, str], Status] = {}
        self.retained: dict[str, Question] = {}
        self.plan = plan
        self.bus = bus
        self._fingerprint = fingerprint
        self._outbox = Outbox(self.uplink)
        self._unlimited = uplink_kbps is None
        self._clock = clock
        self._ended = ended
        self._present = True
        self._unfinished: Counter[str] = Counter()
        self._rearm = asyncio.Event()
        self._changed = asyncio.Event()

    @staticmethod
    def subscriptions(plan: SitePlan) -> list[Subscription]:
        """What the bus of a site must be subscribed to, as an edge is; what may be refused is added in ``look_round``.

        QoS 0, as an edge has it: what is lost is repeated or asked for again.
        """
        return [
            *(Subscription(topics.control_topic(camera)) for camera in plan.cameras),
            *(Subscription(topics.answer_topic(camera)) for camera in plan.cameras),
            *(Subscription(topics.question_topic(plan.name, question), no_local=True) for question in plan.questions),
            Subscription(topics.family_filter(Family.STATUS).replace("/+/+", "/worker/+")),
        ]

    @staticmethod
    def will(plan: SitePlan) -> Will:
        """Its last will."""
        offline = Status(kind="edge", id=plan.name, boot=plan.boot, online=False, pool=plan.pool)
        return Will(topics.status_topic("edge", plan.name), wire.encode(offline))

    @property
    def name(self) -> str:
        """Its name."""
        return self.plan.name

    # ---- the process ------------------------------------------------------------------------------------------------

    async def look_round(self) -> bool:
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
        await self.bus.subscribe(self.subscriptions(self.plan)[-1])
        while self.bus.statistics().incoming_messages:
            for event in await self.bus.receive_batch():
                self.receive(event)
        return seen

    async def run(self) -> None:
        """Receive, send and let time pass, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._receive(), name=f"receive[{self.name}]")
            group.create_task(self.uplink.run(), name=f"uplink[{self.name}]")
            group.create_task(self._timers(), name=f"timers[{self.name}]")

    async def _receive(self) -> None:
        while True:
            for event in await self.bus.receive_batch(RECEIVE_BATCH):
                self.receive(event)
            await asyncio.sleep(0)

    async def _timers(self) -> None:
        while True:
            self._rearm.clear()
            wake_s = self.session.next_wake_s()
            if wake_s is None:
                await self._rearm.wait()
            else:
                try:
                    async with asyncio.timeout(max(0.0, wake_s - self._clock.now_s())):
                        await self._rearm.wait()
                except TimeoutError:
                    pass
            self.session.tick(self._clock.now_s())
            self._pump()

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def receive(self, event: Inbound | ConnectionChange) -> None:
        """Take in one event of the bus."""
        now_s = self._clock.now_s()
        if isinstance(event, ConnectionChange):
            self.session.connection(event.connected, now_s)
            self.uplink.connection(event.connected)
            if event.connected:
                self.send_status()
        else:
            try:
                self._message(event, now_s)
            except RemoteError as error:
                family = topics.label_of(event.topic)
                self.problems.remote_error(family, error, topic=event.topic)
            self.uplink.acknowledge(event)
        self._pump()

    def _message(self, inbound: Inbound, now_s: float) -> None:
        topic, message = wire.decode_publish(inbound.topic, inbound.payload)
        match message:
            case Accept() | Refine() | Busy() | Reject() | NeedText():
                self.session.receive_control(topic.name("camera"), message, now_s)
            case Answer():
                self.session.receive_answer(message, now_s)
            case Question():
                self.retained[message.question_id] = message
            case Status():
                self._status(message, now_s)
            case None if topic.family is Family.QUESTION:
                self.retained.pop(topic.name("question_id"), None)
            case _:
                pass  # nothing else was subscribed to

    def _status(self, status: Status, now_s: float) -> None:
        if status.kind == "worker":
            self.session.receive_worker_status(status, now_s)
        key = (status.kind, status.id)
        if status.online and status.boot != self.plan.boot:
            self.online[key] = status
        elif key in self.online and self.online[key].boot == status.boot:
            del self.online[key]
        self._changed.set()

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
        now_s = self._clock.now_s()
        queries = [
            _reworded(query.asked(captured_s, rate), questions.get((self.name, query.question_id)))
            for query in frame.queries
        ]
        self._unfinished[frame.camera] += len(queries)
        self.session.offer(frame.camera, frame.latent, frame.base_latents, queries, now_s, frame=frame.frame)
        self._pump()

    # ---- what the play waits for ------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds that a message or an outcome can make hold."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def left(self, camera: str) -> None:
        """Wait until the open message of the last frame has left, so that the next frame does not supersede it.

        On an uplink with a limit that rule is part of what is tried, and nothing is waited for.
        """
        if self._unlimited:
            await self.uplink.room(camera)

    async def room(self, camera: str, room: Room) -> None:
        """Wait until few enough queries are under way for a further frame of a camera."""
        most = math.inf if room.of_site is None else room.of_site
        await self.until(lambda: self._unfinished[camera] <= room.of_camera and self._unfinished.total() <= most)

    def pool_fingerprints(self) -> list[str]:
        """Codec of each worker of the pool that is online."""
        return [
            status.fingerprint
            for (kind, _), status in self.online.items()
            if kind == "worker" and status.pool == self.plan.pool
        ]

    async def finished(self) -> None:
        """Wait until every query has its outcome; its deadline is the latest."""
        await self.until(lambda: not self.session.unfinished())

    async def publish_question(self, question: Question) -> None:
        """Publish a standing question, unless the broker retains it as it is."""
        if not same_question(self.retained.get(question.question_id), question):
            self.retained[question.question_id] = question
            await self._outbox.question(question)

    async def leave(self, reason: str) -> None:
        """Decide what is left, and say that the site goes."""
        self.session.abandon(reason)
        self._pump()
        self._present = False
        self.send_status()
        await self.uplink.idle()

    def send_status(self) -> None:
        """Publish the retained status, as it is when it leaves."""
        self._outbox.status(self._status_message)

    # ---- effects ----------------------------------------------------------------------------------------------------

    def _status_message(self) -> Status:
        return Status(
            kind="edge",
            id=self.name,
            boot=self.plan.boot,
            online=self._present,
            pool=self.plan.pool,
            fingerprint=self._fingerprint.hex(),
            parked=self.session.unfinished(),
            cameras=self.plan.cameras,
        )

    def _pump(self) -> None:
        for effect in self.session.take_effects():
            match effect:
                case SendOpen():
                    self._outbox.open(effect, left=self._rearm.set, answered=self._open_answered, lost=self._open_lost)
                case SendToWorker():
                    self._outbox.to_worker(effect)
                case Terminal():
                    self._end(effect)
        self._rearm.set()

    def _open_answered(self, effect: SendOpen, no_subscribers: bool) -> None:
        self.session.left_uplink(effect, self._clock.now_s(), no_subscribers=no_subscribers)
        self._pump()

    def _open_lost(self, effect: SendOpen) -> None:
        self.session.open_lost(effect, self._clock.now_s())
        self._pump()

    def _end(self, terminal: Terminal) -> None:
        self._unfinished[terminal.camera] -= 1
        if terminal.publish is not None:
            self._outbox.report(terminal.publish)
        self._ended(terminal)
        self._changed.set()


def same_question(retained: Question | None, wanted: Question) -> bool:
    """Whether a retained question asks the same; its risk, its cameras and who set it are the operator's alone."""
    return (
        retained is not None
        and retained.content() == replace(wanted.content(), risk=retained.risk)
        and (retained.deadline_ms == wanted.deadline_ms)
    )


def _reworded(query: AskedQuery, other: Question | None) -> AskedQuery:
    return query if other is None or query.ad_hoc else replace(query, question=other.content())
