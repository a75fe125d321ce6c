"""An event loop whose time jumps to what is due next, and a bus that a script feeds: processes in no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from dataclasses import fields
from typing import Any, Self, TypeVar

from pipeline.bus.base import BusStatistics, ConnectionChange, Inbound, PublishResult, Qos, Subscription, Traffic
from schemas.errors import ConnectionLostError
from tests.edge.support import RecordingBus

Result = TypeVar("Result")
_NONE: dict[str, Any] = dict.fromkeys((field.name for field in fields(BusStatistics)), 0)


class _Jumping(selectors.SelectSelector):
    """Waits for nothing: what would have been waited for has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everybody waits, and for nothing that time brings")
        if not ready and timeout is not None:
            self.passed_s += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at time 0."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.passed_s


class LoopClock:
    """The time of the running loop."""

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(max(0.0, delay_s))


async def sleep_until(time_s: float) -> None:
    """Let time pass on the running loop."""
    await asyncio.sleep(max(0.0, time_s - asyncio.get_running_loop().time()))


def run_virtually(main: Coroutine[Any, Any, Result]) -> Result:
    """Run something to its end, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class ScriptedBus(RecordingBus):
    """A bus that receives what it is given, and grants everything.

    Args:
        puback_s: how long the broker takes to acknowledge a publish.
    """

    def __init__(self, puback_s: float = 0.0) -> None:
        super().__init__()
        self.connected = False
        self._puback_s = puback_s
        self._losses = 0
        self._events: asyncio.Queue[Inbound | ConnectionChange] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to close."""

    def give(self, event: Inbound | ConnectionChange) -> None:
        """Something comes."""
        if isinstance(event, ConnectionChange):
            self.connected = event.connected
            self._losses += not event.connected
        self._events.put_nowait(event)

    async def publish(self, topic: str, payload: bytes, *, qos: Qos = 0, **properties: Any) -> PublishResult:
        losses = self._losses
        result = await super().publish(topic, payload, qos=qos, **properties)
        if qos:
            await asyncio.sleep(self._puback_s)
            if losses != self._losses:
                raise ConnectionLostError("connection lost before the acknowledgement")
        return result

    async def wait_connected(self, timeout_s: float) -> None:
        """It is, or will be."""

    async def receive_batch(self, max_count: int = 256) -> list[Inbound | ConnectionChange]:
        return [await self._events.get()]

    async def subscribe(self, subscription: Subscription, timeout_s: float = 10.0) -> None:
        """Granted."""

    async def unsubscribe(self, topic_filter: str, timeout_s: float = 10.0) -> None:
        """Done."""

    @property
    def traffic(self) -> Traffic:
        return Traffic()

    def statistics(self) -> BusStatistics:
        return BusStatistics(**{**_NONE, "connected": self.connected})
