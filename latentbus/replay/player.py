"""Waits until each message of a log is due, and obeys who sits at the keyboard."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

from analysis.replay.playback import PlayClock
from latentbus.replay.keyboard import Key


class Player:
    """The play clock with somebody who waits for it.

    Args:
        rate: log seconds in a second; infinite plays as fast as possible.
        paused: begin paused.
        now: monotonic time in seconds.

    Attributes:
        begun: something is played.
        ended: nothing more is played.
    """

    def __init__(self, rate: float, *, paused: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        self.begun = False
        self.ended = False
        self._now = now
        self._clock = PlayClock(0, now(), rate=rate, paused=paused)
        self._changed = asyncio.Event()
        self._end = asyncio.Event()

    @property
    def rate(self) -> float:
        """Log seconds in a second."""
        return self._clock.rate

    @property
    def paused(self) -> bool:
        """Only steps go on."""
        return self._clock.paused

    @property
    def position_ns(self) -> int:
        """Log time now."""
        return self._clock.position_ns(self._now())

    def begin(self, start_ns: int) -> None:
        """Play from this log time, now."""
        self.begun = True
        self._clock.restart(start_ns, self._now())

    def end(self) -> None:
        """Play nothing more."""
        self.ended = True
        self._changed.set()
        self._end.set()

    def press(self, key: Key) -> None:
        """Obey a key."""
        now_s = self._now()
        match key:
            case Key.PAUSE:
                self._clock.toggle_pause(now_s)
            case Key.STEP:
                self._clock.step(now_s)
            case Key.FASTER:
                self._clock.faster(now_s)
            case Key.SLOWER:
                self._clock.slower(now_s)
            case Key.QUIT:
                self.end()
        self._changed.set()

    async def turn(self, time_ns: int) -> float | None:
        """Wait until a message is due, and take it as played.

        Returns:
            Monotonic time at which it was due, which is now where nothing says when; None when the play has ended.
        """
        while not self.ended:
            due_s, now_s = self._clock.due_s(time_ns), self._now()
            if due_s is not None and due_s <= now_s:
                self._clock.played(time_ns, now_s)
                return now_s if due_s == -math.inf else due_s
            self._changed.clear()
            try:
                async with asyncio.timeout(None if due_s is None else due_s - now_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return None

    async def unless_ended(self, work: Coroutine[Any, Any, object]) -> bool:
        """Wait for something, but not beyond the end of the play.

        Returns:
            False when the play has ended; work that was under way is cancelled then.
        """
        tasks = [asyncio.ensure_future(work), asyncio.ensure_future(self._end.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return not self.ended
