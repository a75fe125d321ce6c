"""When each frame is due next, without a look at all frames for each message."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Timers(Generic[Key]):
    """A heap of due times with lazy removal: whoever changes a key's state touches it, and its due time is asked anew.

    Args:
        due_of: due time of a key in seconds, None when nothing can time out or the key is gone.
    """

    def __init__(self, due_of: Callable[[Key], float | None]) -> None:
        self._due_of = due_of
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._pushes = 0
        self._touched: dict[Key, None] = {}

    def __len__(self) -> int:
        """Due times that are kept, those that were replaced since included."""
        return len(self._heap)

    def touch(self, key: Key) -> None:
        """The due time of a key may have changed."""
        self._touched[key] = None

    def next_s(self) -> float | None:
        """The earliest due time, None when there is none."""
        self._flush()
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now_s: float) -> list[Key]:
        """Keys that are due, earliest first; each is asked for its due time anew before the next call."""
        keys: list[Key] = []
        while (due_s := self.next_s()) is not None and due_s <= now_s:
            key = heapq.heappop(self._heap)[2]
            del self._due[key]
            keys.append(key)
        for key in keys:
            self.touch(key)
        return keys

    def _flush(self) -> None:
        if not self._touched:
            return
        touched, self._touched = self._touched, {}
        for key in touched:
            due_s = self._due_of(key)
            if due_s is None:
                self._due.pop(key, None)
            elif self._due.get(key) != due_s:
                self._due[key] = due_s
                self._pushes += 1  # breaks ties in order, so that a run is reproducible and keys need no order
                heapq.heappush(self._heap, (due_s, self._pushes, key))
