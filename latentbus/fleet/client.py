"""The client of a run: an ordinary MQTT client beside the fleet that reads how queries end, who is up, and asks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Protocol

from pipeline.bus.backoff import Backoff
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.logs import OncePerKind, get_logger
from schemas import topics, wire
from schemas.errors import WireError
from schemas.identity import ad_hoc_query_id
from schemas.messages import Answer, Ask, Message, QueryOutcome, Status
from schemas.topics import Family, Topic
from schemas.types import AnswerType

CONNECT_TIMEOUT_S: Final = 20.0
OUTCOMES: Final = (Family.ANSWER, Family.OUTCOME, Family.STATUS)
"""What tells how queries end, and who is up."""
KEPT_SESSION: Final[dict[str, Any]] = {
    # Mosquitto 2.0 saves no session that began with a clean start, whatever its expiry.
    "clean_start": False,
    "session_expiry_s": 3600,
    # A witness of how soon the fleet is back must not come later than the fleet.
    "backoff": Backoff(initial_s=0.1, maximum_s=0.5),
}
"""Options of a bus whose broker saves what comes while it is away: it misses no terminal message."""
_RECEIVE_MAXIMUM: Final = 1024
_CHECK_PERIOD_S: Final = 0.2

_log = get_logger(__name__)


class TakesOutcomes(Protocol):
    """Who is told of answers and outcomes."""

    def __call__(self, message: Answer | QueryOutcome, now_s: float, *, reply: bool = False) -> object:
        """One was read; ``reply`` is set below the client's own reply topic."""


class FleetClient:
    """Reads answers, outcomes and statuses, and asks under its own name.

    Args:
        broker: where to connect.
        name: its client id.
        observe: told of answers and outcomes.
        families: what it reads.
        replies: it reads its own replies as well.
        other: told of every message besides.
        session: options of its connection, such as :data:`KEPT_SESSION`.

    Attributes:
        name: as given.
        bus: its connection; entered by whoever runs it, see :func:`reading`.
        online: boot id of each process that says it is up, by ``worker/w1``.
        asked: questions that it was given a message for; the next one has the id ``q{asked}``.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        name: str,
        observe: TakesOutcomes,
        *,
        families: Sequence[Family] = OUTCOMES,
        replies: bool = False,
        other: Callable[[Topic, Message], None] | None = None,
        session: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.online: dict[str, int] = {}
        self.asked = 0
        # Control messages flow at QoS 0 (docs/protocol.md).
        filters = [Subscription(topics.family_filter(one), qos=0 if one is Family.CONTROL else 1) for one in families]
        filters += [Subscription(topics.reply_filter(name), qos=1)] if replies else []
        self.bus = MqttBus(
            broker, client_id=name, subscriptions=filters, receive_maximum=_RECEIVE_MAXIMUM, **(session or {})
        )
        self._observe = observe
        self._other = other
        self._dropped = OncePerKind(_log)
        self._changed = asyncio.Condition()

    # ---- reading ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            for event in await self.bus.receive_batch():
                if isinstance(event, Inbound):
                    self._take(event)
                elif event.connected:
                    self.connected()
            await self.wake()

    def connected(self) -> None:
        """The connection was made, or made again."""

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for something to become true; looked at after each batch of messages, and every now and then.

        Returns:
            False when the time was over.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_CHECK_PERIOD_S):
                            await self.wait_change()
        except TimeoutError:
            return condition()
        return True

    async def wait_change(self) -> None:
        """Wait until something more was received."""
        async with self._changed:
            await self._changed.wait()

    async def wake(self) -> None:
        """Let everybody who waits look again."""
        async with self._changed:
            self._changed.notify_all()

    # ---- asking -----------------------------------------------------------------------------------------------------

    def next_ask(self, camera: str, text: str, answer_type: AnswerType, deadline_s: float) -> tuple[str, Ask]:
        """The next ad-hoc question.

        Args:
            camera: of whom it is asked.
            text: the question.
            answer_type: what its answer may look like.
            deadline_s: the time that it has.

        Returns:
            The key of its query in the fleet, and its message.
        """
        ask = Ask(query_id=f"q{self.asked}", text=text, answer_type=answer_type, deadline_ms=round(1000 * deadline_s))
        self.asked += 1
        return ad_hoc_query_id(camera, self.name, ask.query_id), ask

    async def publish(self, camera: str, ask: Ask) -> None:
        """Publish a question.

        Raises:
            BusError: it could not be published.
        """
        await self.bus.publish(
            topics.ask_topic(camera, self.name),
            wire.encode(ask),
            qos=1,
            response_topic=topics.reply_topic(self.name, camera, ask.query_id),
            correlation_data=ask.query_id.encode(),
        )

    def _take(self, inbound: Inbound) -> None:
        try:
            topic, message = wire.decode_publish(inbound.topic, inbound.payload)
        except WireError as error:
            self._dropped.remote_error(self.name, error)
            return
        finally:
            self.bus.acknowledge(inbound)
        if isinstance(message, Answer | QueryOutcome):
            self._observe(message, time.monotonic(), reply=topic.family is Family.REPLY)
        elif isinstance(message, Status):
            self._status(message)
        if self._other is not None and message is not None:
            self._other(topic, message)

    def _status(self, status: Status) -> None:
        name = f"{status.kind}/{status.id}"
        if status.online:
            self.online[name] = status.boot
        elif self.online.get(name) == status.boot:
            # The will of an older process of that name says nothing about this one.
            del self.online[name]


@asynccontextmanager
async def reading(*clients: FleetClient) -> AsyncIterator[None]:
    """Connect clients, and let them read while the context lasts.

    Raises:
        ConnectionLostError: the broker cannot be reached.
        NotAuthorizedError: it refuses one of them.
    """
    async with AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(client.bus)
            await client.bus.wait_connected(CONNECT_TIMEOUT_S)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.run(), name=f"{client.name} reads") for client in clients]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
