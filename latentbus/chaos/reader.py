"""The run's own client: it reads everything that tells who works on what, and asks questions of its own.

It talks to the broker directly, with a session that the broker keeps, so that it misses no terminal message that an
ordinary recorder would have got.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from latentbus.chaos.books import Books
from pipeline.bus.backoff import Backoff
from pipeline.bus.base import ConnectionChange, Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.config.settings import BrokerSettings
from schemas import topics, wire
from schemas.errors import ConnectionLostError, WireError
from schemas.identity import ad_hoc_query_id
from schemas.messages import Accept, Answer, Ask, NeedText, Open, QueryOutcome, Refine, Status
from schemas.topics import Family
from schemas.types import AnswerType

CLIENT: Final = "chaos"
_SESSION_EXPIRY_S: Final = 3600
_RECEIVE_MAXIMUM: Final = 1024
_LOOK_PERIOD_S: Final = 0.5
_READ: Final[dict[Family, int]] = {
    Family.OPEN: 1,
    Family.CONTROL: 0,
    Family.ANSWER: 1,
    Family.OUTCOME: 1,
    Family.STATUS: 1,
}

_log = get_logger(__name__)


class Reader:
    """Reads the bus into the books.

    Args:
        broker: where to connect.
        books: what it writes to.
        deadline_s: of the questions that it asks.

    Attributes:
        bus: its connection; entered by whoever runs it.
        boots: boot id of each process that says it is up, by ``worker/w1``.
        asked: ad-hoc questions asked so far.
    """

    def __init__(self, broker: BrokerSettings, books: Books, deadline_s: float) -> None:
        self.boots: dict[str, int] = {}
        self.asked = 0
        self.bus = MqttBus(
            broker,
            client_id=CLIENT,
            subscriptions=[
                *(Subscription(topics.family_filter(family), qos=1 if qos else 0) for family, qos in _READ.items()),
                Subscription(topics.reply_filter(CLIENT), qos=1),
            ],
            receive_maximum=_RECEIVE_MAXIMUM,
            # Mosquitto 2.0 saves no session that began with a clean start, whatever its expiry.
            clean_start=False,
            session_expiry_s=_SESSION_EXPIRY_S,
            # What is measured is how soon the fleet is back, so its witness must not come later.
            backoff=Backoff(initial_s=0.1, maximum_s=0.5),
        )
        self._books = books
        self._deadline_s = deadline_s
        self._dropped = OncePerKind(_log)
        self._changed = asyncio.Condition()
        self._asks: dict[str, tuple[str, Ask]] = {}  # by key of the query
        self._questions_due: asyncio.Queue[str] = asyncio.Queue()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            for event in await self.bus.receive_batch():
                if isinstance(event, Inbound):
                    self._take(event)
                else:
                    self._connection(event)
            await self.wake()

    async def run_asks(self) -> None:
        """Publish questions as they become due, until cancelled."""
        while True:
            query_id = await self._questions_due.get()
            camera, ask = self._asks[query_id]
            try:
                await self.bus.publish(
                    topics.ask_topic(camera, CLIENT),
                    wire.encode(ask),
                    qos=1,
                    response_topic=topics.reply_topic(CLIENT, camera, ask.query_id),
                    correlation_data=ask.query_id.encode(),
                )
            except ConnectionLostError as error:
                _log.warning("asking again after the next connection", query=query_id, problem=str(error))

    def ask(self, camera: str, text: str, answer_type: AnswerType) -> None:
        """Ask an ad-hoc question, now and again after each reconnect until it has its outcome."""
        deadline_ms = round(self._deadline_s * 1000)
        ask = Ask(query_id=f"q{self.asked}", text=text, answer_type=answer_type, deadline_ms=deadline_ms)
        self.asked += 1
        query_id = ad_hoc_query_id(camera, CLIENT, ask.query_id)
        self._asks[query_id] = (camera, ask)
        self._put(query_id)

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for something to become true; looked at after each batch of messages, and every now and then.

        Returns:
            False when the time was over.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_PERIOD_S):
                            await self.wait_change()
        except TimeoutError:
            return False
        return True

    async def wait_change(self) -> None:
        """Wait until something more was received."""
        async with self._changed:
            await self._changed.wait()

    async def wake(self) -> None:
        """Let everybody who waits look again."""
        async with self._changed:
            self._changed.notify_all()

    def _put(self, query_id: str) -> None:
        self._books.asked(query_id, self._asks[query_id][0], time.monotonic(), self._deadline_s)
        self._questions_due.put_nowait(query_id)

    def _connection(self, change: ConnectionChange) -> None:
        if change.connected:
            for query_id in self._asks:
                if query_id in self._books.undecided:
                    self._put(query_id)

    def _take(self, inbound: Inbound) -> None:
        try:
            topic, message = wire.decode_publish(inbound.topic, inbound.payload)
        except WireError as error:
            self._dropped.remote_error(CLIENT, error)
            return
        finally:
            self.bus.acknowledge(inbound)
        now_s = time.monotonic()
        match message:
            case Open():
                self._books.opened(topic.name("camera"), message, now_s)
            case Accept() | Refine() | NeedText():
                self._books.claimed(topic.name("camera"), message)
            case Answer() | QueryOutcome():
                if isinstance(message, Answer):
                    self._books.claimed(message.camera, message)
                self._books.received(message, now_s, reply=topic.family is Family.REPLY)
            case Status(online=True):
                self.boots[f"{message.kind}/{message.id}"] = message.boot
            case Status() if self.boots.get(f"{message.kind}/{message.id}") == message.boot:
                del self.boots[f"{message.kind}/{message.id}"]
            case _:
                pass
