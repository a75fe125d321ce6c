"""The run's own client: it reads everything that tells who works on what, and asks questions of its own.

It talks to the broker directly, with a session that the broker keeps, so that it misses no terminal message that an
ordinary recorder would have got.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from latentbus.chaos.ledger import ChaosLedger
from latentbus.fleet.client import KEPT_SESSION, OUTCOMES, FleetClient
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.logs import get_logger
from schemas.errors import ConnectionLostError
from schemas.messages import Accept, Answer, Ask, Message, NeedText, Open, Refine
from schemas.topics import Family, Topic
from schemas.types import AnswerType

CLIENT: Final = "chaos"

_log = get_logger(__name__)


class Reader(FleetClient):
    """Reads the bus into the ledger.

    Args:
        broker: where to connect.
        ledger: what it writes to.
        deadline_s: of the questions that it asks.
    """

    def __init__(self, broker: BrokerSettings, ledger: ChaosLedger, deadline_s: float) -> None:
        super().__init__(
            broker,
            CLIENT,
            ledger.observe,
            families=(Family.OPEN, Family.CONTROL, *OUTCOMES),
            replies=True,
            other=self._other_message,
            session=KEPT_SESSION,
        )
        self._ledger = ledger
        self._deadline_s = deadline_s
        self._asks: dict[str, tuple[str, Ask]] = {}  # by key of the query
        self._questions_due: asyncio.Queue[str] = asyncio.Queue()

    async def run(self) -> None:
        """Read, and publish questions as they become due, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(super().run(), name="reader")
            group.create_task(self._run_asks(), name="asks")

    def ask_until_decided(self, camera: str, text: str, answer_type: AnswerType) -> None:
        """Ask an ad-hoc question, now and again after each reconnect until it has its outcome."""
        query_id, ask = self.next_ask(camera, text, answer_type, self._deadline_s)
        self._asks[query_id] = (camera, ask)
        self._put(query_id)

    def connected(self) -> None:
        """Ask again what has no outcome: the broker may have lost it, or its answer."""
        for query_id in self._asks:
            if query_id in self._ledger.undecided:
                self._put(query_id)

    async def _run_asks(self) -> None:
        while True:
            query_id = await self._questions_due.get()
            try:
                await self.publish(*self._asks[query_id])
            except ConnectionLostError as error:
                _log.warning("asking again after the next connection", query=query_id, problem=str(error))

    def _put(self, query_id: str) -> None:
        (camera, ask), now_s = self._asks[query_id], time.monotonic()
        due_s = now_s + self._deadline_s
        self._ledger.asked(query_id, camera, ask.query_id, ad_hoc=True, asked_s=now_s, due_s=due_s)
        self._questions_due.put_nowait(query_id)

    def _other_message(self, topic: Topic, message: Message) -> None:
        match message:
            case Open():
                self._ledger.opened(topic.name("camera"), message, time.monotonic())
            case Accept() | Refine() | NeedText():
                self._ledger.claimed(topic.name("camera"), message)
            case Answer():
                self._ledger.claimed(message.camera, message)
            case _:
                pass
