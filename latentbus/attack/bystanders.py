"""Honest clients beside an attack: they ask, and read everything that comes back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Final

from latentbus.attack.books import Books
from latentbus.attack.fleet import CAMERAS
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.settings import BrokerSettings
from schemas import topics, wire
from schemas.errors import BusError, WireError
from schemas.identity import ad_hoc_query_id
from schemas.messages import Answer, Ask, QueryOutcome, Status
from schemas.topics import Family
from schemas.types import AnswerType

PERIOD_S: Final = 1.0
"""Between two questions of one bystander."""
CALM_PERIOD_S: Final = 0.5
"""The same before the first attack."""
QUESTIONS: Final[tuple[tuple[str, AnswerType], ...]] = (
    ("Is there a car?", AnswerType.YES_NO),
    ("How many cars are there?", AnswerType.COUNT),
    ("Is there a person?", AnswerType.YES_NO),
    ("How many trees are there?", AnswerType.COUNT),
)
_ALL_CAMERAS: Final = tuple(camera for cameras in CAMERAS.values() for camera in cameras)
_LOOK_PERIOD_S: Final = 0.2


class Bystander:
    """A client that asks one camera after another, with query ids that every other client uses as well.

    Args:
        name: its device.
        broker: with its certificate.
        books: what it asks and gets.
        deadline_s: of its questions.
        first_camera: where it begins, so that two with one query id ask different cameras.

    Attributes:
        bus: entered by whoever runs it.
        asked: questions asked so far; the next one has the id ``q{asked}``.
        period_s: between two questions.
    """

    def __init__(
        self, name: str, broker: BrokerSettings, books: Books, *, deadline_s: float, first_camera: int = 0
    ) -> None:
        self.asked = 0
        self.period_s = CALM_PERIOD_S
        self._begun = asyncio.Event()
        self.bus = MqttBus(broker, client_id=name, subscriptions=[Subscription(topics.reply_filter(name), qos=1)])
        self._name = name
        self._books = books
        self._deadline_s = deadline_s
        self._first_camera = first_camera

    def begin(self) -> None:
        """Let :meth:`run` ask."""
        self._begun.set()

    async def run(self) -> None:
        """Read, and ask once told to, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.read(), name=f"{self._name} reads")
            group.create_task(self._ask_for_ever(), name=f"{self._name} asks")

    async def ask(self, camera: str, text: str, answer_type: AnswerType) -> str:
        """Ask one question.

        Returns:
            Its key in the fleet.
        """
        query_id = f"q{self.asked}"
        self.asked += 1
        ask = Ask(query_id=query_id, text=text, answer_type=answer_type, deadline_ms=round(self._deadline_s * 1000))
        key = ad_hoc_query_id(camera, self._name, query_id)
        self._books.asked(key, camera, text, time.monotonic(), self._deadline_s)
        # One that cannot be published is late, like one that nobody answers.
        with contextlib.suppress(BusError):
            await self.bus.publish(
                topics.ask_topic(camera, self._name),
                wire.encode(ask),
                qos=1,
                response_topic=topics.reply_topic(self._name, camera, query_id),
                correlation_data=query_id.encode(),
            )
        return key

    async def _ask_for_ever(self) -> None:
        await self._begun.wait()
        pairs = itertools.cycle(itertools.product(QUESTIONS, range(len(_ALL_CAMERAS))))
        async with asyncio.TaskGroup() as group:
            for (text, answer_type), number in pairs:
                camera = _ALL_CAMERAS[(number + self._first_camera) % len(_ALL_CAMERAS)]
                group.create_task(self.ask(camera, text, answer_type), name=f"{self._name} asks {camera}")
                await asyncio.sleep(self.period_s)

    async def read(self) -> None:
        """Read until cancelled."""
        while True:
            for event in await self.bus.receive_batch():
                if not isinstance(event, Inbound):
                    continue
                self.bus.acknowledge(event)
                with contextlib.suppress(WireError):
                    _, message = wire.decode_publish(event.topic, event.payload)
                    if isinstance(message, Answer | QueryOutcome):
                        self._books.replied(self._name, message)
                        self._books.received(message, time.monotonic())


class Watcher:
    """A dashboard: reads what is public, and notices what is not what it should be.

    Args:
        broker: with its certificate.
        books: where answers go.

    Attributes:
        bus: entered by whoever runs it.
        online: processes that say they are up, as ``worker/w1``.
    """

    def __init__(self, broker: BrokerSettings, books: Books) -> None:
        self.online: set[str] = set()
        self.bus = MqttBus(
            broker,
            client_id="watcher",
            subscriptions=[
                Subscription(topics.family_filter(family), qos=1)
                for family in (Family.ANSWER, Family.OUTCOME, Family.STATUS)
            ],
            receive_maximum=1024,
        )
        self._books = books

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            for event in await self.bus.receive_batch():
                if isinstance(event, Inbound):
                    self.bus.acknowledge(event)
                    with contextlib.suppress(WireError):
                        self._take(event)

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for something to become true; the books look at deadlines meanwhile.

        Returns:
            Whether it did.
        """
        until_s = time.monotonic() + timeout_s
        while True:
            self._books.look(time.monotonic())
            if condition():
                return True
            if time.monotonic() >= until_s:
                return False
            await asyncio.sleep(_LOOK_PERIOD_S)

    def _take(self, inbound: Inbound) -> None:
        _, message = wire.decode_publish(inbound.topic, inbound.payload)
        if isinstance(message, Answer | QueryOutcome):
            self._books.received(message, time.monotonic())
        elif isinstance(message, Status):
            name = f"{message.kind}/{message.id}"
            (self.online.add if message.online else self.online.discard)(name)
