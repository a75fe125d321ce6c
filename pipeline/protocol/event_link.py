"""Requests to the disk that keeps events, which it has not answered."""

from __future__ import annotations

from collections import Counter
from typing import Never

from pipeline.protocol.disk_link import DiskLink
from pipeline.protocol.event_requests import EventDiskFailed, EventRequest, EventResult


class EventLink(DiskLink[EventRequest, EventResult, Never]):
    """What a session wants of the disk of events.

    Args:
        counters: where failures are counted.
    """

    def __init__(self, counters: Counter[str]) -> None:
        super().__init__("event", counters)

    def stored(self, token: int, result: EventResult, now_s: float) -> None:
        """What became of a request; see :meth:`DiskLink.stored`."""
        if isinstance(result, EventDiskFailed):
            fix = "free space on the disk of state_dir"
            self.count_failure("disk_failed", "an event cannot be stored or read", problem=result.problem, fix=fix)
        super().stored(token, result, now_s)
