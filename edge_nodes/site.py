"""What happens at a site: messages and frames go into the session, its effects go to the uplink."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from edge_nodes.ask_intake import AskIntake
from edge_nodes.asks import AskDesk
from edge_nodes.client_budgets import ClientBudgets
from edge_nodes.encoder import EncoderThread
from edge_nodes.first_prefix import FirstPrefix, first_latents
from edge_nodes.journal import JournalThread
from edge_nodes.observer import EdgeObserver, OfferedFrame
from edge_nodes.outbox import Outbox
from edge_nodes.pool_problems import PoolProblems
from edge_nodes.questions import QuestionBoard
from edge_nodes.sources import CapturedFrame
from edge_nodes.standing_questions import StandingQuestions
from edge_nodes.uplink import Uplink
from pipeline.bus.base import ConnectionChange, Inbound
from pipeline.codec.key_frame_policy import KeyFramePolicy
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.config.settings import EdgeSettings
from pipeline.node.clock import Clock
from pipeline.node.containment import Containment
from pipeline.node.tasks import first_of
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import (
    AskedQuery,
    EdgeEffect,
    SendKeyFrame,
    SendOpen,
    SendToWorker,
    Terminal,
)
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.thinning import Thinning
from schemas import topics, wire
from schemas.errors import CameraNameError, RemoteError
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.messages import (
    Accept,
    Answer,
    Ask,
    Busy,
    NeedText,
    QueryOutcome,
    Question,
    Refine,
    Reject,
    RejectReason,
    Status,
)
from schemas.types import FrameId

_log = get_logger(__name__)

HEARTBEAT_S = 60.0
"""Between two statuses of an edge that nothing happened to; each costs the uplink some 400 bytes."""


@dataclass(slots=True)
class _FrameInWork:
    captured_s: float
    undecided: int


class Site:
    """Cameras of one uplink, their questions and their session.

    Args:
        settings: the edge section.
        boot: random id of this process start.
        encoder: frames to latents.
        first_prefix: what the first message of each frame carries.
        journal: ad-hoc questions on disk.
        uplink: the way out.
        clock: the edge's clock.
        thinning: how many of the standing slots are taken.
        pool_problems: why the pool can answer nothing.
        observers: who watches.
        group: where work that a message starts runs.
        wake_camera: called with a camera that shall take a frame now.
        containment: takes what nobody else has handled.

    Attributes:
        session: the protocol machine.
        desk: ad-hoc questions.
        board: standing questions.
        budgets: what each client may cost.
        pool_problems: as given.
        problems: what peers did wrong, logged once per kind.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        *,
        boot: int,
        encoder: EncoderThread,
        first_prefix: FirstPrefix,
        journal: JournalThread,
        uplink: Uplink,
        clock: Clock,
        thinning: Thinning,
        pool_problems: PoolProblems,
        observers: Sequence[EdgeObserver],
        group: asyncio.TaskGroup,
        wake_camera: Callable[[str], None],
        containment: Containment,
    ) -> None:
        self._settings = settings
        self._boot = boot
        self._encoder = encoder
        self._first_prefix = first_prefix
        self._key_frames = KeyFramePolicy() if settings.key_frames else None
        self._uplink = uplink
        self._outbox = Outbox(uplink)
        self._online = True
        self._clock = clock
        self._observers = observers
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()
        self._unawaited: set[asyncio.Task[None]] = set()
        self.problems = OncePerKind(_log)
        self.containment = containment
        self.board = QuestionBoard(settings)
        self.budgets = ClientBudgets(settings, clock)
        self.pool_problems = pool_problems
        self.desk = AskDesk(
            journal,
            clock,
            boot=boot,
            cameras=settings.cameras.keys(),
            budgets=self.budgets,
            report=self._outbox.report,
            reply=self._outbox.reply,
            wake=self._wake_for_ask(wake_camera),
            spawn=self._spawn,
        )
        self._intake = AskIntake(
            settings,
            self.desk,
            self.budgets,
            self._outbox,
            problems=self.problems,
            acknowledge=uplink.acknowledge,
            spawn=self._spawn,
            clock=clock,
        )
        self._questions = StandingQuestions(
            settings.site,
            self.board,
            self._outbox,
            self.budgets,
            problems=self.problems,
            spawn=self._spawn_unawaited,
            clock=clock,
        )
        self.session = EdgeSession(
            EdgeProtocolSettings(),
            site=settings.site,
            pool=settings.pool,
            boot=boot,
            fingerprint=encoder.spec.fingerprint4,
            priorities={name: camera.priority for name, camera in settings.cameras.items()},
        )
        self.session.connection(False, clock.now_s())
        self._thinning = thinning
        self._in_work: dict[tuple[str, FrameId], _FrameInWork] = {}
        self._connected = asyncio.Event()
        self._new_connection = asyncio.Event()
        self._heard_own_status = asyncio.Event()
        self._questions_are_out = asyncio.Event()
        self._rearm = asyncio.Event()
        self._wake_s: float | None = None
        self._decided = asyncio.Event()

    # ---- from the broker --------------------------------------------------------------------------------------------

    def receive(self, event: Inbound | ConnectionChange) -> None:
        """Take in one event of the bus."""
        now_s = self._clock.now_s()
        if isinstance(event, ConnectionChange):
            with self.containment.around("connection"):
                self._connection(event, now_s)
        else:
            family = topics.label_of(event.topic)
            try:
                self._message(event, now_s)
            except RemoteError as error:
                with self.containment.around(f"receive/{family}"):
                    self._bad_message(family, event, error)
                self._uplink.acknowledge(event)
            except Exception as error:  # noqa: BLE001 - it ends this message, not the site
                self._uplink.acknowledge(event)
                self.containment.note(f"receive/{family}", error)
        self._pump()

    def _connection(self, change: ConnectionChange, now_s: float) -> None:
        self.session.connection(change.connected, now_s)
        self._uplink.connection(change.connected)
        if change.connected:
            _log.info("connected", generation=change.generation, session_resumed=change.session_resumed)
            self._questions.connected(change)
            self._heard_own_status.clear()
            self._new_connection.set()
            self._connected.set()
            self.send_status()
        else:
            _log.warning("connection lost", reason=change.reason)
            self._connected.clear()

    def _message(self, inbound: Inbound, now_s: float) -> None:
        topic, message = wire.decode_publish(inbound.topic, inbound.payload)
        match message:
            case Ask():
                # Acknowledged when it is stored, not before.
                self._intake.receive(inbound, topic.name("camera"), topic.name("client"), message)
                return
            case Accept() | Refine() | Busy() | Reject() | NeedText():
                if isinstance(message, Reject):
                    self.pool_problems.reject(message)
                if isinstance(message, NeedText):
                    self.desk.texts_requested(message.digests)
                elif isinstance(message, Reject) and message.reason is RejectReason.KEY_FRAME:
                    self._key_frame_missing(topic.name("camera"), message.frame)
                elif isinstance(message, Busy) and message.frame.boot == self._boot:  # not of another site's frame
                    self._thinning.busy(topic.name("camera"), message.frame, now_s)
                self.session.receive_control(topic.name("camera"), message, now_s)
            case Answer():
                # Raises where it is an answer to another site's frame, from which nothing is to be learned.
                self.session.receive_answer(message, now_s)
                self._first_prefix.answered(message)
                self.pool_problems.answer(message)
            case Question():
                self._questions.receive(inbound, message.question_id, message)
            case Status(kind="worker"):
                self.pool_problems.worker_status(message)
                self.session.receive_worker_status(message, now_s, retained=inbound.retain)
            case Status(kind="edge") if message.id == self._settings.site:
                # A retained one is of the connection before.
                if message.boot == self._boot and not inbound.retain:
                    self._heard_own_status.set()
                elif message.boot == self._boot and not message.online:
                    self._questions.last_will(inbound)
            case Status(kind="edge", online=True):
                self._other_site(message)
            case None if topic.family is topics.Family.QUESTION:
                self._questions.receive(inbound, topic.name("question_id"), None)
            case _:
                pass  # a status that is not for us
        self._uplink.acknowledge(inbound)

    def _bad_message(self, family: str, inbound: Inbound, error: RemoteError) -> None:
        if family == topics.Family.ASK:
            self._intake.unreadable(inbound, error)
        elif family == topics.Family.QUESTION:
            self._questions.unreadable(inbound, error)
        else:
            self.problems.remote_error(family, error, topic=inbound.topic)

    def _other_site(self, status: Status) -> None:
        """Another site says which cameras it has; on a broker without roles nobody has kept their names apart."""
        for camera in sorted(set(status.cameras) & set(self._settings.cameras)):
            error = CameraNameError(camera, self._settings.site, status.id)
            self.problems.report("status/camera", str(error), about=f"{status.id}/{camera}", camera=camera)

    # ---- from the cameras (FrameTaker) ------------------------------------------------------------------------------

    async def room(self, camera: str) -> None:
        """Wait for questions, connection, and until no open message of this camera waits for the uplink."""
        await self._questions_are_out.wait()
        await self._connected.wait()
        await self._uplink.room(camera)

    def asked(self, camera: str) -> bool:
        """Whether an ad-hoc question waits for a frame of this camera."""
        return self.desk.waiting(camera)

    def takes_standing(self, camera: str) -> bool:
        """Whether the standing questions of this slot are asked, or left out because the pool is overloaded."""
        return self.board.asks(camera) and self._thinning.takes(camera, self._clock.now_s())

    async def take(self, captured: CapturedFrame, *, standing: bool) -> None:
        """Encode a frame and ask its questions."""
        captured_s = self._clock.now_s()
        queries: list[AskedQuery] = []
        if standing:
            queries += self.board.asked(captured.camera, captured_s)
        queries += self.desk.take(captured.camera, MAX_QUERIES_PER_FRAME - len(queries))
        try:
            latent = await self._encoder.encode(captured.pixels)
            queries = [query for query in queries if not self._known(captured.camera, query)]
            if not queries:
                return
            now_s = self._clock.now_s()
            key = self._key_frames.choose(captured.camera, latent) if self._key_frames is not None else None
            choice = self._first_prefix.choose(
                captured.camera,
                latent,
                [query.answer_type for query in queries],
                self.session.response_s,
                given=None if key is None else key.latent,
            )
            frame = self.session.offer(captured.camera, latent, first_latents(choice), queries, now_s, given_key=key)
        except BaseException:
            # Whatever went wrong with this frame: its ad-hoc questions wait for the next one.
            self.desk.give_back(captured.camera, queries)
            raise
        if self._key_frames is not None:
            self._key_frames.offered(captured.camera, key, frame.sequence)
        if any(not query.ad_hoc for query in queries):
            self._thinning.offered(captured.camera, frame)
        self._in_work[captured.camera, frame] = _FrameInWork(captured_s, len(queries))
        query_ids = [query.query_id(captured.camera, frame) for query in queries]
        self._first_prefix.offered(captured.camera, query_ids, choice)
        offered = OfferedFrame(
            captured, frame, latent, first_latents(choice), query_ids, captured_s, now_s - captured_s
        )
        for observer in self._observers:
            observer.frame_offered(offered)
        self._pump()

    def source_changed(self, camera: str, up: bool) -> None:
        """Tell the observers."""
        for observer in self._observers:
            observer.source_changed(camera, up)

    def _known(self, camera: str, query: AskedQuery) -> bool:
        """Whether an ad-hoc query was decided before the journal's memory begins; its client is told again."""
        state = self.session.ad_hoc_state(query.question.query_id(camera, FrameId(0, 0))) if query.ad_hoc else None
        if isinstance(state, Terminal):
            self._end_ad_hoc(state)
        return state is not None

    # ---- time -------------------------------------------------------------------------------------------------------

    async def timers(self) -> None:
        """Let time pass for session and desk, until cancelled."""
        await self.containment.repeat("timers", self._tick_once)

    async def _tick_once(self) -> None:
        self._wake_s = self._next_wake_s()
        self._rearm.clear()
        if self._wake_s is None:
            await self._rearm.wait()
        elif (wait_s := self._wake_s - self._clock.now_s()) > 0:
            await first_of(self._clock.sleep(wait_s), self._rearm.wait())
        now_s = self._clock.now_s()
        try:
            self.session.tick(now_s)
        finally:
            # What one frame does to the session keeps no question of a client waiting.
            for outcome in self.desk.expire(now_s):
                self._decide_ad_hoc(outcome, published=False)
            self._pump()

    async def heartbeat(self) -> None:
        """Repeat the status now and then, until cancelled."""
        while True:
            await self._clock.sleep(HEARTBEAT_S)
            await self._connected.wait()
            self.send_status()

    async def keep_questions(self, patience_s: float = 5.0) -> None:
        """After each connection, publish the standing questions that the broker has not as they are asked.

        Frames wait for the first time: a worker that meets an unknown question asks for its text, which costs the
        uplink more. A broker sends what it retains when it grants a subscription, so before it answers anything that
        comes later: once the edge has read its own status back, it has seen every retained question.
        """
        while True:
            await self._new_connection.wait()
            self._new_connection.clear()
            await first_of(self._heard_own_status.wait(), self._clock.sleep(patience_s))
            await self._questions.settle(complete=self._heard_own_status.is_set())
            self._questions_are_out.set()

    async def finished(self) -> None:
        """Wait until the session has no undecided query."""
        while self.session.unfinished():
            self._decided.clear()
            await self._decided.wait()

    async def abandon(self, reason: str) -> None:
        """Decide what is left as failed; returns when all that is stored and the edge has said that it goes."""
        self.session.abandon(reason)
        self._pump()
        for task in self._unawaited:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._online = False
        self.send_status()

    def send_status(self) -> None:
        """Publish the retained status of this edge, as it is when it leaves."""
        self._outbox.status(self._status)

    def _status(self) -> Status:
        return Status(
            kind="edge",
            id=self._settings.site,
            boot=self._boot,
            online=self._online,
            pool=self._settings.pool,
            fingerprint=self._encoder.spec.fingerprint4.hex(),
            parked=self.session.unfinished(),
            cameras=tuple(self._settings.cameras),
        )

    def _next_wake_s(self) -> float | None:
        times = (self.session.next_wake_s(), self.desk.next_wake_s())
        return min((time_s for time_s in times if time_s is not None), default=None)

    # ---- effects ----------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Carry out what the session wants, and wake the timers if something is due earlier than they know."""
        for effect in self.session.take_effects():
            with self.containment.around("effect"):
                self._carry_out(effect)
        wake_s = self._next_wake_s()
        if wake_s is not None and (self._wake_s is None or wake_s < self._wake_s):
            self._rearm.set()

    def _carry_out(self, effect: EdgeEffect) -> None:
        match effect:
            case SendOpen():
                self._outbox.open(effect, left=self._rearm.set, answered=self._open_answered, lost=self._open_lost)
            case SendKeyFrame():
                self._outbox.key_frame(effect, left=self._pump, lost=self._key_frame_lost)
            case SendToWorker():
                self._outbox.to_worker(effect)
            case Terminal():
                self._end(effect)

    def _open_answered(self, effect: SendOpen, no_subscribers: bool) -> None:
        self.session.left_uplink(effect, self._clock.now_s(), no_subscribers=no_subscribers)
        self._pump()

    def _key_frame_lost(self, effect: SendKeyFrame) -> None:
        if self._key_frames is not None:
            self._key_frames.lost(effect.camera, effect.frame.sequence)
        self.session.key_frame_lost(effect)
        self._pump()

    def _key_frame_missing(self, camera: str, frame: FrameId) -> None:
        key = self.session.key_of(camera, frame)
        if self._key_frames is not None and key is not None:
            self._key_frames.lost(camera, key)

    def _open_lost(self, effect: SendOpen) -> None:
        self.session.open_lost(effect, self._clock.now_s())
        self._pump()

    def _end(self, terminal: Terminal) -> None:
        key = (terminal.camera, terminal.frame)
        frame = self._in_work[key]
        frame.undecided -= 1
        if frame.undecided == 0:
            del self._in_work[key]
        now_s = self._clock.now_s()
        self._thinning.ended(terminal, now_s)
        delay_s = now_s - frame.captured_s
        for observer in self._observers:
            observer.query_ended(terminal, delay_s)
        if terminal.ad_hoc:
            self._end_ad_hoc(terminal)
        elif terminal.publish is not None:
            self._outbox.report(terminal.publish)
        self._decided.set()

    def _end_ad_hoc(self, terminal: Terminal) -> None:
        message = terminal.answer or terminal.publish
        assert message is not None  # noqa: S101 - one of them is what made it terminal
        self._decide_ad_hoc(message, published=terminal.publish is None)

    def _decide_ad_hoc(self, message: Answer | QueryOutcome, *, published: bool) -> None:
        self._spawn(self.desk.decided(message, published=published), f"decided {message.query_id}")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run work that this process finishes before it ends."""
        self._start(work, name, self._tasks)

    def _spawn_unawaited(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run work that waits for the broker, perhaps for ever; the end of the process does not."""
        self._start(work, name, self._unawaited)

    def _start(self, work: Coroutine[Any, Any, None], name: str, tasks: set[asyncio.Task[None]]) -> None:
        task = self._group.create_task(self._contained(work, name.partition(" ")[0]), name=name)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _contained(self, work: Coroutine[Any, Any, None], where: str) -> None:
        with self.containment.around(where):
            await work

    def _wake_for_ask(self, wake_camera: Callable[[str], None]) -> Callable[[str], None]:
        def wake(camera: str) -> None:
            wake_camera(camera)
            self._rearm.set()

        return wake
