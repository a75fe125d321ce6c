"""Honest clients beside an attack: they ask, and read everything that comes back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Final

from latentbus.attack.fleet import CAMERAS
from latentbus.attack.ledger import BystanderLedger
from latentbus.fleet.client import FleetClient
from pipeline.config.broker_settings import BrokerSettings
from schemas.errors import BusError
from schemas.messages import Answer, QueryOutcome
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


class Bystander(FleetClient):
    """A client that asks one camera after another, with query ids that every other client uses as well.

    Args:
        broker: with its certificate.
        name: its device.
        ledger: what it asks and gets.
        deadline_s: of its questions.
        first_camera: where it begins, so that two with one query id ask different cameras.

    Attributes:
        period_s: between two questions.
    """

    def __init__(
        self, broker: BrokerSettings, name: str, ledger: BystanderLedger, *, deadline_s: float, first_camera: int = 0
    ) -> None:
        super().__init__(broker, name, self._replied, families=(), replies=True)
        self.period_s = CALM_PERIOD_S
        self._begun = asyncio.Event()
        self._ledger = ledger
        self._deadline_s = deadline_s
        self._first_camera = first_camera

    def begin(self) -> None:
        """Let :meth:`run` ask."""
        self._begun.set()

    async def run(self) -> None:
        """Read, and ask once told to, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(super().run(), name=f"{self.name} reads")
            group.create_task(self._ask_for_ever(), name=f"{self.name} asks")

    async def ask(self, camera: str, text: str, answer_type: AnswerType) -> str:
        """Ask one question.

        Returns:
            Its key in the fleet.
        """
        key, ask = self.next_ask(camera, text, answer_type, self._deadline_s)
        self._ledger.bystander_asks(key, camera, text, time.monotonic(), self._deadline_s)
        # One that cannot be published is late, like one that nobody answers.
        with contextlib.suppress(BusError):
            await self.publish(camera, ask)
        return key

    async def _ask_for_ever(self) -> None:
        await self._begun.wait()
        pairs = itertools.cycle(itertools.product(QUESTIONS, range(len(_ALL_CAMERAS))))
        async with asyncio.TaskGroup() as group:
            for (text, answer_type), number in pairs:
                camera = _ALL_CAMERAS[(number + self._first_camera) % len(_ALL_CAMERAS)]
                group.create_task(self.ask(camera, text, answer_type), name=f"{self.name} asks {camera}")
                await asyncio.sleep(self.period_s)

    def _replied(self, message: Answer | QueryOutcome, now_s: float, *, reply: bool = False) -> None:
        self._ledger.replied(self.name, message)
        self._ledger.observe(message, now_s, reply=reply)


class Watcher(FleetClient):
    """A dashboard: reads what is public, and notices what is not what it should be.

    Args:
        broker: with its certificate.
        ledger: where answers go.
    """

    def __init__(self, broker: BrokerSettings, ledger: BystanderLedger) -> None:
        super().__init__(broker, "watcher", ledger.observe)
        self._ledger = ledger

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """See :meth:`FleetClient.wait_until`; the ledger looks at deadlines meanwhile."""

        def checked() -> bool:
            self._ledger.check(time.monotonic())
            return condition()

        return await super().wait_until(checked, timeout_s)
