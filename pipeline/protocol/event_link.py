"""Requests to the disk that keeps events, which it has not answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pipeline.protocol.event_requests import EventDiskFailed, EventRequest, EventResult
from pipeline.protocol.ports import Notice
from schemas.errors import StateError

Then = Callable[[EventResult, float], None]
"""What follows from a result, and when it came."""


class EventLink:
    """What a session wants of the disk, and what waits for its answer.

    Args:
        counters: where failures are counted.
    """

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._outputs: list[EventRequest | Notice] = []
        self._pending: dict[int, Then] = {}
        self._next_token = 1

    @property
    def pending(self) -> int:
        """Requests that the disk has not answered."""
        return len(self._pending)

    def take_outputs(self) -> list[EventRequest | Notice]:
        """What the shell must do, since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def request(self, make: Callable[[int], EventRequest], then: Then) -> None:
        """Want something done on disk.

        Args:
            make: makes the request, from its token.
            then: called with the result.
        """
        token, self._next_token = self._next_token, self._next_token + 1
        self._pending[token] = then
        self._outputs.append(make(token))

    def stored(self, token: int, result: EventResult, now_s: float) -> None:
        """What became of a request.

        Raises:
            StateError: the token is not under way: the shell has answered twice.
        """
        then = self._pending.pop(token, None)
        if then is None:
            raise StateError(f"event request {token} has no answer to come")
        if isinstance(result, EventDiskFailed):
            self._counters["disk_failed"] += 1
            count = self._counters["disk_failed"]
            if count == 10 ** (len(str(count)) - 1):
                context = {"problem": result.problem, "count": count, "fix": "free space on the disk of state_dir"}
                self.notice(Notice("error", "an event cannot be stored or read", context))
        then(result, now_s)

    def notice(self, notice: Notice) -> None:
        """A line for the log."""
        self._outputs.append(notice)
