"""Requests to the disk that keeps frames, and what it did not do yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Literal

from pipeline.protocol.ports import Notice
from pipeline.protocol.store_requests import Damaged, DiskFailed, Done, DropFrames, StoreRequest, StoreResult
from schemas.errors import StateError

Then = Callable[[StoreResult, float], None]
"""What follows from a result, and when it came."""


class StoreLink:
    """What a store wants of the disk, and what waits for its answer.

    Args:
        counters: where failures are counted.
        retry_s: pause before what the disk did not do is tried again.

    Attributes:
        retry_at_s: when that is; None while nothing has failed.
    """

    def __init__(self, counters: Counter[str], retry_s: float) -> None:
        self.retry_at_s: float | None = None
        self._counters = counters
        self._retry_s = retry_s
        self._outputs: list[StoreRequest | Notice] = []
        self._pending: dict[int, Then] = {}
        self._next_token = 1
        self._undropped: set[int] = set()

    @property
    def pending(self) -> int:
        """Requests that the disk has not answered."""
        return len(self._pending)

    @property
    def undropped(self) -> int:
        """Frames that the disk has not deleted yet."""
        return len(self._undropped)

    def take_outputs(self) -> list[StoreRequest | Notice]:
        """What the shell must do, since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def request(self, make: Callable[[int], StoreRequest], then: Then) -> None:
        """Want something done on disk.

        Args:
            make: makes the request, from its token.
            then: called with the result.
        """
        token, self._next_token = self._next_token, self._next_token + 1
        self._pending[token] = then
        self._outputs.append(make(token))

    def stored(self, token: int, result: StoreResult, now_s: float) -> None:
        """What became of a request.

        Raises:
            StateError: the token is not under way: the shell has answered twice.
        """
        then = self._pending.pop(token, None)
        if then is None:
            raise StateError(f"store request {token} has no answer to come")
        then(result, now_s)

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

    def retry_later(self, now_s: float) -> None:
        """Something failed: it is tried again, together with what fails until then."""
        if self.retry_at_s is None:
            self.retry_at_s = now_s + self._retry_s

    def failed(self, what: str, result: StoreResult) -> None:
        """Count what went wrong on disk; log the first, tenth, hundredth... of them."""
        self._counters["disk_problems"] += 1
        count = self._counters["disk_problems"]
        if count == 10 ** (len(str(count)) - 1):
            problem = result.problem if isinstance(result, Damaged | DiskFailed) else type(result).__name__
            self.say("error", what, problem=problem, count=count)

    def say(self, level: Literal["info", "warning", "error"], event: str, **context: object) -> None:
        """A line for the log."""
        self._outputs.append(Notice(level, event, context))
