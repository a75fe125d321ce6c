"""Requests to the disk that keeps frames, and what it did not do yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Literal, Never

from pipeline.protocol.disk_link import DiskLink
from pipeline.protocol.ports import Notice
from pipeline.protocol.store_requests import Damaged, DiskFailed, Done, DropFrames, StoreRequest, StoreResult


class StoreLink(DiskLink[StoreRequest, StoreResult, Never]):
    """What a store wants of the disk.

    Args:
        counters: where failures are counted.
        retry_s: pause before what the disk did not do is tried again.
    """

    def __init__(self, counters: Counter[str], retry_s: float) -> None:
        super().__init__("store", counters, retry_s)
        self._undropped: set[int] = set()

    @property
    def undropped(self) -> int:
        """Frames that the disk has not deleted yet."""
        return len(self._undropped)

    def drop(self, entry_ids: Collection[int] = ()) -> None:
        """Delete frames, and those that the disk did not delete before."""
        together = tuple(sorted({*entry_ids, *self._undropped}))
        self._undropped.clear()
        if not together:
            return

        def then(result: StoreResult, now_s: float) -> None:
            if not isinstance(result, Done):
                self.failed("stored frames could not be deleted", result)
                self.drop_later(together, now_s)

        self.request(lambda token: DropFrames(token, together), then)

    def drop_later(self, entry_ids: Collection[int], now_s: float) -> None:
        """The disk may still have what is needed no more."""
        self._undropped.update(entry_ids)
        if self._undropped:
            self.retry_later(now_s)

    def failed(self, what: str, result: StoreResult) -> None:
        """Something went wrong on disk; see :meth:`DiskLink.count_failure`."""
        problem = result.problem if isinstance(result, Damaged | DiskFailed) else type(result).__name__
        self.count_failure("disk_problems", what, problem=problem)

    def say(self, level: Literal["info", "warning", "error"], event: str, **context: object) -> None:
        """A line for the log."""
        self.notice(Notice(level, event, context))
