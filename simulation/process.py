"""What edges and workers have in common as simulated processes: life, socket, connection and timers of a session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Generic, Protocol, TypeVar

from pipeline.protocol.ports import Delivery, Received, Will
from schemas import topics, wire
from schemas.messages import Ask, Message
from simulation.broker import BrokerModel, Deleted
from simulation.clock import VirtualClock
from simulation.wire import Wire

RECONNECT_S = 0.5
Output = TypeVar("Output")
parse_topic = lru_cache(4096)(topics.parse)


class Machine(Protocol[Output]):
    """What a session of any kind has."""

    def poll(self, now_s: float) -> list[Output]:
        """What there is to do."""
        ...

    def next_wake_s(self) -> float | None:
        """When the next poll is due."""
        ...

    def published(self, token: int, delivery: Delivery, now_s: float) -> None:
        """What became of a publish."""
        ...

    def connection(self, connected: bool, now_s: float) -> None:
        """The connection came or went."""
        ...

    def will(self) -> Will:
        """The last will."""
        ...


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message that reached the socket of a process."""

    topic: str
    message: Message
    token: int | None
    retained: bool


class SimulatedProcess(ABC, Generic[Output]):
    """One process at a time under a name. It carries a session through time, and adds no rule.

    Args:
        clock: virtual clock.
        broker: model of the broker.
        name: of the process.

    Attributes:
        name: as given.
        session: of the running process.
        alive: it runs.
        frozen: it is stopped, with its socket open.
        draining: it was asked to stop.
        starts: processes so far.
    """

    def __init__(self, clock: VirtualClock, broker: BrokerModel, name: str) -> None:
        self.name = name
        self.session: Machine[Output]
        self.alive = False
        self.frozen = False
        self.draining = False
        self.starts = 0
        self._clock = clock
        self._broker = broker
        self._wire = Wire(clock, broker, name, self._answered)
        self._linked = False
        self._socket: deque[Delivered] = deque()
        self._answers: list[tuple[int, Delivery]] = []
        self._tokens = 0
        self._unacknowledged: dict[int, int] = {}
        self._wake_at_s: float | None = None
        self._polling = self._again = False

    # ---- life -------------------------------------------------------------------------------------------------------

    def _started(self) -> None:
        """Another process takes the place of the last one."""
        self.alive, self.frozen, self.draining = True, False, False
        self.starts += 1
        self._socket.clear()
        self._answers.clear()
        self._unacknowledged.clear()
        self._wire.restart()
        self._wake_at_s = None

    def _ended(self) -> None:
        """The process is gone."""
        self.alive = self._linked = False
        self._wire.restart()

    def linked(self) -> bool:
        """Whether the process runs and reaches the broker."""
        return self.alive and not self.frozen and self._linked and self._broker.is_up(self.name)

    def freeze(self) -> None:
        """SIGSTOP: the socket stays open, nothing is read and no timer runs."""
        self.frozen = True

    def wake(self) -> None:
        """SIGCONT: what has piled up is handled, late."""
        if not self.alive or not self.frozen:
            return
        self._thawed()
        self._after()
        answers, self._answers = self._answers, []
        for token, delivery in answers:
            self._told(token, delivery)
        while self._socket:
            self._handle(self._socket.popleft())
            self._after()  # what comes next may find the process at work on what came first
        if not self._linked or not self._broker.is_up(self.name):
            self.connection(False)
        self._after()

    def _thawed(self) -> None:
        self.frozen = False

    # ---- connection -------------------------------------------------------------------------------------------------

    def connection(self, connected: bool) -> None:
        """The process notices that its connection went; it reconnects by itself."""
        if not self.alive or self.frozen or connected:
            return
        self._linked = False
        self._unacknowledged.clear()  # the next connection brings them again
        self.session.connection(False, self._clock.now_s)
        self._disconnected()
        self._wire.connection_lost()
        self._after()
        self._clock.after(self._reconnect_s(), self._reconnect)

    def _disconnected(self) -> None:
        """The connection is gone."""

    def _reconnect_s(self) -> float:
        return RECONNECT_S

    def _reconnect(self) -> None:
        if self.alive and not self.frozen and not self._linked:
            self._connect()
            self._after()

    def _connect(self) -> None:
        if not self._broker.reachable(self.name):
            self._clock.after(RECONNECT_S, self._reconnect)
            return
        self._linked = True
        self._join(self._will())
        self.session.connection(True, self._clock.now_s)

    def _will(self) -> tuple[str, Message]:
        will = self.session.will()
        return will.topic, wire.decode(topics.Family.STATUS, will.payload)

    @abstractmethod
    def _join(self, will: tuple[str, Message]) -> None:
        """Connect at the broker, with this last will."""

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def receive(self, topic: str, message: Message, token: int | None, retained: bool = False) -> None:
        """A message reaches the socket, if the process has not closed it."""
        if not self.alive or not self._linked:
            return
        delivered = Delivered(topic, message, token, retained)
        if self.frozen:
            self._socket.append(delivered)
            return
        self._handle(delivered)
        self._after()

    def _handle(self, delivered: Delivered) -> None:
        topic, message = parse_topic(delivered.topic), delivered.message
        response_topic = None
        if isinstance(message, Ask):
            camera, client = topic.names
            response_topic = topics.reply_topic(client, camera, message.query_id)
        message = self._as_read(topic, message)
        token = None
        if delivered.token is not None:
            # What comes twice has a token each time.
            self._tokens = token = self._tokens + 1
            self._unacknowledged[token] = delivered.token
        received = Received(
            delivered.topic,
            retained=delivered.retained,
            response_topic=response_topic,
            token=token,
            decoded=(topic, None if isinstance(message, Deleted) else message),
        )
        self._hear(received, topic, message)

    def _as_read(self, topic: topics.Topic, message: Message) -> Message:  # noqa: ARG002 - for subclasses
        """What the process makes of a message before its session has it."""
        return message

    @abstractmethod
    def _hear(self, received: Received, topic: topics.Topic, message: Message) -> None:
        """Let the session receive a message."""

    def _answered(self, token: int, delivery: Delivery) -> None:
        if self.frozen:
            self._answers.append((token, delivery))
            return
        self._told(token, delivery)
        self._after()

    def _told(self, token: int, delivery: Delivery) -> None:
        self.session.published(token, delivery, self._clock.now_s)

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def _acknowledge(self, tokens: Iterable[int]) -> int:
        """Acknowledge messages to the broker; how many it is still waiting for on this connection."""
        given = [given for token in tokens if (given := self._unacknowledged.pop(token, None)) is not None]
        for token in given:
            self._broker.acknowledge(self.name, token)
        return len(given)

    def _after(self) -> None:
        """After every input: carry out what the session wants, and arm its timer."""
        self._again = True
        if self._polling:
            return  # an input in answer to an output: what comes of it is polled for below
        self._polling = True
        try:
            while self._again:
                self._again = False
                for output in self.session.poll(self._clock.now_s):
                    self._carry_out(output)
        finally:
            self._polling = False
        self._arm()

    @abstractmethod
    def _carry_out(self, output: Output) -> None:
        """Do what the session wants done."""

    def _arm(self) -> None:
        due_s = self.session.next_wake_s()
        if due_s is not None and (self._wake_at_s is None or due_s < self._wake_at_s):
            self._wake_at_s = due_s
            self._clock.at(due_s, partial(self._wake, self.starts, due_s))

    def _wake(self, starts: int, at_s: float) -> None:
        if starts != self.starts or not self.alive or at_s != self._wake_at_s:
            return
        self._wake_at_s = None
        if self.frozen:
            return
        due_s = self.session.next_wake_s()
        if due_s is not None and due_s <= self._clock.now_s:
            self._clock.handled += 1
            self._after()
        else:
            self._arm()
