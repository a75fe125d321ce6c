"""Faults of a soak: cameras that are killed and stall, links that are cut, one after the other."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

from benchmarks.flaky_camera import FlakyCamera
from latentbus.chaos.tcp_proxy import FaultProxy

SHORTEST_S: Final = 6.0
LONGEST_S: Final = 16.0
"""Of a fault: a camera that stalls is given up after 5 s, a link that is silent within 8 s."""
LINK_S: Final = 12.0
STALL_S: Final = 5.0
KEEPALIVE_S: Final = 5


class Fault(StrEnum):
    """What is broken on purpose."""

    SOURCE_KILLED = "camera killed"
    SOURCE_STALLED = "camera stalled"
    LINK_CUT = "link cut"


class Faults:
    """So many faults of each kind, in turn.

    Args:
        cameras: who is killed and stalled.
        links: what is cut: torn down, or silent.
        times: faults of each kind.
        seed: of their lengths.
        said: told a line for each.

    Attributes:
        done: faults that have begun and ended, by kind.
    """

    def __init__(
        self,
        cameras: Sequence[FlakyCamera],
        links: Sequence[FaultProxy],
        times: int,
        *,
        seed: int = 0,
        said: Callable[[str], None],
    ) -> None:
        self.done: Counter[str] = Counter()
        self._cameras = itertools.cycle(cameras)
        self._links = itertools.cycle(links)
        self._times = times
        self._draw = random.Random(seed)
        self._said = said

    @property
    def complete(self) -> bool:
        """Whether all of them are over."""
        return all(self.done[fault] == self._times for fault in Fault)

    async def run(self, lasts_s: float) -> None:
        """Let them happen, spread over a time.

        Args:
            lasts_s: time for all of them.
        """
        plan = [fault for fault in Fault for _ in range(self._times)]
        self._draw.shuffle(plan)
        for fault in plan:
            slot_s = lasts_s / len(plan)
            # A link has to be away for a while before frames are stored.
            shortest_s = LINK_S if fault is Fault.LINK_CUT else SHORTEST_S
            fault_s = min(self._draw.uniform(shortest_s, LONGEST_S), 0.6 * slot_s)
            await asyncio.sleep(slot_s - fault_s)
            self._said(f"{fault} for {fault_s:.1f} s")
            await self._happens(fault, fault_s)
            self.done[fault] += 1

    async def _happens(self, fault: Fault, fault_s: float) -> None:
        match fault:
            case Fault.SOURCE_KILLED:
                camera = next(self._cameras)
                await camera.kill()
                try:
                    await asyncio.sleep(fault_s)
                finally:
                    await camera.revive()
            case Fault.SOURCE_STALLED:
                camera = next(self._cameras)
                camera.stall()
                try:
                    await asyncio.sleep(fault_s)
                finally:
                    camera.resume()
            case Fault.LINK_CUT:
                link = next(self._links)
                if self._draw.random() < 0.5:
                    link.cut()
                else:
                    link.stall()
                try:
                    await asyncio.sleep(fault_s)
                finally:
                    link.heal()
