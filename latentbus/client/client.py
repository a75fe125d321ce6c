"""The Python client: ask cameras, and watch what they are asked, over one connection to the broker.

See docs/client.md for its use. Every rule is in :class:`pipeline.protocol.client_session.ClientSession`; here are the
connection, the clock and the readers.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Protocol, Self

from latentbus.client.mailbox import Mailbox, Told, Watcher
from latentbus.client.questions import ask_of, client_name
from latentbus.options.arguments import checked_name
from pipeline.bus.base import ConnectionChange, Inbound, Subscription, Traffic, Will
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.node.containment import Containment
from pipeline.node.publisher import deliver
from pipeline.protocol.client_ports import (
    AnswerRead,
    ClientOutput,
    Ending,
    QueryEnded,
    Subscribe,
    WatchEnded,
)
from pipeline.protocol.client_session import ClientSession
from pipeline.protocol.fleet_view import FleetView
from pipeline.protocol.ports import Acknowledge, Delivery, Problem, Publish, Received, Unsubscribe
from pipeline.protocol.reducer import OutcomeReducer
from pipeline.protocol.settings import ClientProtocolSettings
from schemas import topics, wire
from schemas.errors import (
    BusError,
    CameraUnknownError,
    ConfigError,
    ConnectionLostError,
    LatentbusError,
    NoOutcomeError,
    QuestionError,
    QuestionRefusedError,
    StateError,
)
from schemas.messages import Answer, Ask, QueryOutcome, Status
from schemas.types import AnswerType, FrameId

CONNECT_TIMEOUT_S: Final = 10.0
RECEIVE_BATCH: Final = 256
RECEIVE_MAXIMUM: Final = 128

FLEET_TOPICS: Final = f"{topics.ROOT.partition('/')[0]}/"
KEPT_RECEIVE_MAXIMUM: Final = 1_024
"""Messages that a :class:`Keeper` may be given before the first of them is stored: then the broker waits."""
MAX_UNKEPT: Final = 4_096


class Keeper(Protocol):
    """Stores how all queries end. What it was given is acknowledged to the broker once it is stored, not before."""

    async def keep(self, messages: Sequence[Told]) -> None:
        """Store terminal messages, each the first of its query as far as this process knows."""

    def connection(self, change: ConnectionChange) -> None:
        """The connection came up or went down; ``session_resumed`` says that nothing was missed meanwhile."""


_log = get_logger(__name__)


class Client:
    """A client of a fleet, as an async context manager: connected from entry to exit, entered once.

    A broken connection is made again by itself, and the questions that are open are asked again.

    Args:
        broker: where the broker is, and who this client is to it.
        name: name to ask under; the broker's user name, or a drawn one, unless given.
        settings: times and bounds.
        connect_timeout_s: longest wait for the first connection; None does not wait for it.
        whole_fleet: read loads of workers and texts of standing questions as well, see :attr:`fleet`.
        keeper: stores how all queries of all cameras end.
        session_expiry_s: with a keeper: how long the broker keeps what comes while this client is away, under its
            name as the client id.
        announce: say as ``status/gateway/NAME`` when it is online and when it is not.

    Raises:
        ConfigError: the name cannot stand in a topic.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        *,
        name: str | None = None,
        settings: ClientProtocolSettings | None = None,
        connect_timeout_s: float | None = CONNECT_TIMEOUT_S,
        whole_fleet: bool = False,
        keeper: Keeper | None = None,
        session_expiry_s: int = 0,
        announce: bool = False,
    ) -> None:
        self.name = checked_name("name", name) or client_name(broker.username)
        self._session = ClientSession(self.name, settings, whole_fleet=whole_fleet)
        self._traced = broker.traceparent
        self._connect_timeout_s = connect_timeout_s
        self._keeper = keeper
        if keeper is not None:
            # Before the first connection: what the broker has kept comes at once.
            self._session.watch(None)
        self._birth = _gateway_status(self.name) if announce else None
        self._bus = MqttBus(
            broker,
            client_id=f"{self.name}-{secrets.token_hex(4)}" if keeper is None else self.name,
            subscriptions=self._session.subscriptions(),
            will=None if self._birth is None else _will_of(self._birth),
            receive_maximum=RECEIVE_MAXIMUM if keeper is None else KEPT_RECEIVE_MAXIMUM,
            clean_start=keeper is None,
            session_expiry_s=session_expiry_s if keeper is not None else 0,
        )
        self._stack = AsyncExitStack()
        self._questions: dict[str, Mailbox] = {}
        self._watchers: list[Watcher] = []
        self._received: dict[int, Inbound] = {}
        self._unkept: list[Told] = []
        self._unkept_tokens: list[int] = []
        self._to_keep = asyncio.Event()
        self._fleet_moved = asyncio.Event()
        self._beside: tuple[Sequence[str], Callable[[str, bytes], None]] | None = None
        self._tokens = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed: Exception | None = StateError("the client is not entered")
        self._problems = OncePerKind(_log)
        self._containment = Containment(_log)

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ConnectionLostError: the broker cannot be reached; the subclass says more.
            NotAuthorizedError: the broker refuses this identity.
            ConfigError: the TLS files cannot be loaded.
        """
        await self._stack.enter_async_context(self._bus)
        try:
            if self._connect_timeout_s is not None:
                await self._bus.wait_connected(self._connect_timeout_s)
        except BaseException:
            await self._stack.aclose()
            raise
        self._closed = None
        self._start(self._receive(), "receive")
        if self._keeper is not None:
            self._start(self._keep(self._keeper), "keep")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect; whoever still reads gets :class:`~schemas.errors.ConnectionLostError`."""
        if self._birth is not None and self.connected:
            await self._say(self._birth.model_copy(update={"online": False}))
        self._close(ConnectionLostError("the client is closed"))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.__aexit__(exc_type, exc, traceback)

    @property
    def cameras(self) -> list[str]:
        """Cameras of the edges that are online, as far as their statuses have come."""
        return self._session.fleet.cameras

    @property
    def fleet(self) -> FleetView:
        """What edges and workers say of themselves, to be read and not changed."""
        return self._session.fleet

    def read_beside(self, filters: Sequence[str], found: Callable[[str, bytes], None]) -> None:
        """Read what the broker retains on topics that are no part of the fleet, after each connection.

        Args:
            filters: of those topics; a broker that refuses one is told of in the log, and no more is.
            found: gets topic and payload.
        """
        self._beside = filters, found

    async def publish_beside(self, topic: str, payload: bytes) -> None:
        """Let the broker retain a message on a topic that is no part of the fleet; an empty one deletes it.

        Raises:
            StateError: the topic is the fleet's, and its sessions decide what is said there.
            NotAuthorizedError: the broker refuses it.
            BusError: it could not be published.
        """
        if topic.startswith(FLEET_TOPICS):
            raise StateError(f"{topic} is the fleet's")
        await self._bus.publish(topic, payload, qos=1, retain=True)

    async def fleet_changed(self, since: int) -> int:
        """Wait until :attr:`FleetView.changes` of the fleet is another than ``since``; what it is then.

        Raises:
            ConnectionLostError: the client was closed meanwhile.
        """
        while self.fleet.changes == since:
            self._check_open()
            self._fleet_moved.clear()
            await self._fleet_moved.wait()
        return self.fleet.changes

    @property
    def connected(self) -> bool:
        """Whether the broker is connected, with every subscription granted."""
        return self._bus.statistics().connected

    @property
    def traffic(self) -> Traffic:
        """What has passed between it and the broker, live."""
        return self._bus.traffic

    @property
    def reducer(self) -> OutcomeReducer:
        """Outcomes that were read, with their repeats and conflicts."""
        return self._session.reducer

    @property
    def counters(self) -> Mapping[str, int]:
        """What happened, by reason."""
        return self._session.counters

    def unfinished(self) -> int:
        """Questions without an outcome."""
        return self._session.unfinished()

    def cause(self, camera: str, *, certain: bool = False) -> str | None:
        """Why a camera gives no answers, as far as the statuses tell; None where they show nothing wrong.

        Args:
            camera: its name.
            certain: leave out that this identity may not see the workers.
        """
        return self._session.cause(camera, certain=certain)

    def renewed(self, outcome: QueryOutcome) -> Answer | None:
        """The answer that an *unchanged* outcome of a watched camera says holds on; None if it never came here."""
        decided = self._session.reducer.get(outcome.query_id)
        return None if decided is None else decided.renewed

    def ask(
        self,
        camera: str,
        text: str,
        answer_type: AnswerType = AnswerType.TEXT,
        *,
        options: Sequence[str] = (),
        deadline_s: float = 30.0,
        query_id: str | None = None,
        ago_s: float | None = None,
        frame: FrameId | str | None = None,
        check: bool = True,
    ) -> AsyncGenerator[Told, None]:
        """Ask a camera, and yield each answer that is new: provisional ones as they get better, then the terminal one.

        It is asked when the first answer is waited for. The last message has an outcome; whoever leaves the loop before
        does not wait for it any more.

        Args:
            camera: name of the camera.
            text: the question.
            answer_type: what the answer may look like.
            options: answers to choose from, for answer type ``choice``.
            deadline_s: time to the terminal outcome.
            query_id: id of the question; asked again under it by the same client, the same outcome comes.
            ago_s: ask the newest kept frame that is at least so old, in place of the next one. ``age_ms`` of an answer
                says how old it was.
            frame: ask this frame, which an earlier answer names, in place of the next one: a follow-up.
            check: ask only where an edge that is online serves the camera.

        Raises:
            ConfigError: this cannot be asked.
            CameraUnknownError: no edge that is online serves the camera.
            QuestionRefusedError: the edge cannot read the question.
            NoOutcomeError: nothing came by the deadline and a margin.
            TooManyQuestionsError: this client waits for as many answers as it may.
            NotAuthorizedError: the broker does not let this client ask the camera, or read its answers.
            ConnectionLostError: the client was closed meanwhile.
            StateError: the client is not entered, or a question of this id has no outcome yet.
        """
        message = ask_of(
            text,
            answer_type,
            deadline_s=deadline_s,
            query_id=query_id,
            options=options,
            ago_s=ago_s,
            frame=frame,
        )
        return self.follow(camera, message, check=check)

    def follow(self, camera: str, message: Ask, *, check: bool = True) -> AsyncGenerator[Told, None]:
        """The same as :meth:`ask`, of a message that was made before."""
        checked_name("camera", camera)
        return self._follow(camera, message, check)

    def watch(self, cameras: Collection[str] | None = None) -> AsyncGenerator[Told, None]:
        """Yield the answers to all questions, standing and ad-hoc, of whomever: of each query what is new, and one end.

        Args:
            cameras: names of cameras; None watches all of them.

        Raises:
            ConfigError: no camera, or one whose name cannot stand in a topic.
            NotAuthorizedError: the broker does not let this client read a camera.
            ConnectionLostError: the client was closed meanwhile.
            StateError: the client is not entered.
        """
        if cameras is None:
            return self._watch(None)
        chosen = frozenset([cameras] if isinstance(cameras, str) else cameras)
        for camera in chosen:
            checked_name("cameras", camera)
        if not chosen:
            raise ConfigError("cameras", "there is none; leave it out to watch all")
        return self._watch(chosen)

    async def _follow(self, camera: str, message: Ask, check: bool) -> AsyncGenerator[Told, None]:
        self._check_open()
        query_id = self._session.ask(camera, message, time.monotonic(), check=check)
        mailbox = self._questions[query_id] = Mailbox()
        self._carry_out()
        try:
            async for told in mailbox.messages():
                yield told
        finally:
            if self._questions.get(query_id) is mailbox:
                del self._questions[query_id]
                self._session.drop(query_id, time.monotonic())
                self._carry_out()

    async def _watch(self, cameras: frozenset[str] | None) -> AsyncGenerator[Told, None]:
        self._check_open()
        watcher = Watcher(cameras)
        self._watchers.append(watcher)
        self._session.watch(cameras)
        self._carry_out()
        try:
            async for told in watcher.mailbox.messages():
                yield told
        finally:
            if watcher in self._watchers:
                self._watchers.remove(watcher)
                self._session.unwatch(cameras)
                self._carry_out()

    # ---- what goes in -----------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            for event in await self._bus.receive_batch(RECEIVE_BATCH):
                now_s = time.monotonic()
                if isinstance(event, ConnectionChange):
                    self._changed(event, now_s)
                    continue
                if self._beside is not None and not event.topic.startswith(FLEET_TOPICS):
                    with self._containment.around("beside"):
                        self._read_beside(event, self._beside[1])
                    continue
                token = next(self._tokens) if event.qos else None
                if token is not None:
                    self._received[token] = event
                received = Received(
                    event.topic, event.payload, event.retain, event.response_topic, event.correlation_data, token
                )
                with self._containment.around("receive"):
                    self._session.receive(received, now_s)
            self._fleet_moved.set()
            self._carry_out()

    def _changed(self, change: ConnectionChange, now_s: float) -> None:
        self._session.connection(change.connected, now_s)
        if self._keeper is not None:
            self._keeper.connection(change)
        if self._birth is not None and change.connected:
            self._start(self._say(self._birth), "status")
        if self._beside is not None and change.connected:
            self._start(self._subscribe_beside(self._beside[0]), "beside")

    def _read_beside(self, event: Inbound, found: Callable[[str, bytes], None]) -> None:
        self._bus.acknowledge(event)
        if event.retain:
            found(event.topic, event.payload)

    async def _subscribe_beside(self, filters: Sequence[str]) -> None:
        for topic_filter in filters:
            try:
                await self._bus.subscribe(Subscription(topic_filter, qos=1))
            except BusError as error:
                self._problems.report("client/beside", str(error), filter=topic_filter)
            # Not asked for with the next connection: where the broker has changed its mind, that would be refused.
            await self._leave(topic_filter)

    async def _say(self, status: Status) -> None:
        topic = topics.status_topic(status.kind, status.id)
        try:
            await self._bus.publish(topic, wire.encode(status), qos=1, retain=True)
        except BusError as error:
            self._problems.report("client/status", str(error))

    async def _keep(self, keeper: Keeper) -> None:
        while True:
            await self._to_keep.wait()
            self._to_keep.clear()
            messages, tokens = self._unkept, self._unkept_tokens
            self._unkept, self._unkept_tokens = [], []
            if messages:
                await keeper.keep(messages)
            for token in tokens:
                self._bus.acknowledge(self._received.pop(token))

    async def _publish(self, publish: Publish) -> None:
        delivery, cause = await deliver(self._bus, publish.traced() if self._traced else publish)
        self._session.published(publish.token, delivery, time.monotonic())
        self._carry_out(cause)

    async def _subscribe(self, subscribe: Subscribe) -> None:
        delivery, cause = Delivery.DELIVERED, None
        try:
            await self._bus.subscribe(subscribe.subscription)
            if not self._bus.statistics().connected:
                raise ConnectionLostError("not granted yet")
        except ConnectionLostError:
            # The session asks for it again. The next connection must not: where it is refused, so would be the rest.
            delivery = Delivery.CONNECTION_LOST
            await self._leave(subscribe.subscription.filter)
        except BusError as error:
            delivery, cause = Delivery.REFUSED, error
        self._session.subscribed(subscribe.token, delivery, time.monotonic())
        self._carry_out(cause)

    async def _unsubscribe(self, topic_filter: str) -> None:
        await self._leave(topic_filter)
        self._session.unsubscribed(topic_filter, time.monotonic())
        self._carry_out()

    async def _leave(self, topic_filter: str) -> None:
        try:
            await self._bus.unsubscribe(topic_filter)
        except ConnectionLostError as error:
            _log.debug("not left in order", filter=topic_filter, problem=str(error))

    # ---- what comes out ---------------------------------------------------------------------------------------------

    def _carry_out(self, cause: BusError | None = None) -> None:
        """Do what the session wants now. What the broker has refused is the cause of what ends with it."""
        if self._closed is not None:
            return
        for output in self._session.poll(time.monotonic()):
            self._take(output, cause)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_s = self._session.next_wake_s()
        if wake_s is not None:
            delay_s = max(0.0, wake_s - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._carry_out)

    def _take(self, output: ClientOutput, cause: BusError | None) -> None:
        match output:
            case Publish():
                self._start(self._publish(output), "publish")
            case Subscribe():
                self._start(self._subscribe(output), "subscribe")
            case Unsubscribe():
                self._start(self._unsubscribe(output.filter), "unsubscribe")
            case Acknowledge() if self._keeper is not None:
                self._unkept_tokens += output.tokens
                self._to_keep.set()
            case Acknowledge():
                for token in output.tokens:
                    self._bus.acknowledge(self._received.pop(token))
            case AnswerRead():
                if output.mine:
                    self._tell(self._questions.get(output.message.query_id), output.message)
                if output.watched:
                    self._show(output.message)
            case QueryEnded():
                if output.mine and (mailbox := self._questions.pop(output.query_id, None)) is not None:
                    if output.message is not None:
                        self._tell(mailbox, output.message)
                    mailbox.end(_error_of(output, cause))
                if output.watched and output.message is not None:
                    self._show(output.message)
                    self._put_away(output.message)
            case WatchEnded():
                self._end_watchers(output.camera, cause)
            case Problem() if output.logged:
                self._problems.report(output.kind, output.text, about=output.about, **output.context)
            case Problem():
                pass

    def _put_away(self, message: Told) -> None:
        if self._keeper is None:
            return
        if len(self._unkept) >= MAX_UNKEPT:
            # QoS 1 cannot come so far, the receive window is smaller.
            self._problems.report("client/unkept", "QoS 0 outcomes come faster than they are stored")
            return
        self._unkept.append(message)
        self._to_keep.set()

    def _tell(self, mailbox: Mailbox | None, message: Told) -> None:
        if mailbox is not None and not mailbox.put(message):
            self._problems.report("client/unread", "answers come faster than they are read", camera=message.camera)

    def _show(self, message: Told) -> None:
        for watcher in self._watchers:
            if watcher.cameras is None or message.camera in watcher.cameras:
                self._tell(watcher.mailbox, message)

    def _end_watchers(self, camera: str | None, cause: BusError | None) -> None:
        for watcher in list(self._watchers):
            if camera is None if watcher.cameras is None else camera in watcher.cameras:
                self._watchers.remove(watcher)
                self._session.unwatch(None if watcher.cameras is None else watcher.cameras - {str(camera)})
                watcher.mailbox.end(cause)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"client {name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            # A bug of ours, or a bus that ended: nobody may wait for ever.
            if not isinstance(error, LatentbusError):
                _log.error("the client failed", task=task.get_name(), exc_info=error)
            self._close(error)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise self._closed

    def _close(self, error: Exception) -> None:
        if self._closed is None:
            self._closed = error
        self._fleet_moved.set()
        if self._timer is not None:
            self._timer.cancel()
        for mailbox in (*self._questions.values(), *(watcher.mailbox for watcher in self._watchers)):
            mailbox.end(error)
        self._problems.summarise()


def _gateway_status(name: str) -> Status:
    return Status(kind="gateway", id=name, boot=secrets.randbits(32), online=True)


def _will_of(birth: Status) -> Will:
    gone = birth.model_copy(update={"online": False})
    return Will(topics.status_topic(gone.kind, gone.id), wire.encode(gone))


def _error_of(ended: QueryEnded, cause: BusError | None) -> LatentbusError | None:
    """What the asker of a question that ended without a message is to hear."""
    match ended.ending:
        case Ending.OUTCOME:
            return None
        case Ending.CAMERA_UNKNOWN:
            return CameraUnknownError(ended.camera, ended.reason)
        case Ending.EDGE_REFUSES:
            return QuestionRefusedError(ended.camera, ended.site, ended.reason)
        case Ending.NO_OUTCOME:
            return NoOutcomeError(ended.camera, ended.limit_s, ended.cause)
        case Ending.BROKER_REFUSES:
            return cause or QuestionError(ended.camera, ended.reason)
