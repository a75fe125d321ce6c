"""Requests to a disk that it has not answered: what the links of journal, events and stored frames share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

from pipeline.protocol.ports import Notice
from schemas.errors import StateError

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")
OutputT = TypeVar("OutputT")


class DiskLink(Generic[RequestT, ResultT, OutputT]):
    """What a session wants of a disk, and what waits for its answer.

    Args:
        name: of the requests, for errors.
        counters: where failures are counted.
        retry_s: pause before what the disk did not do is tried again.

    Attributes:
        retry_at_s: when that is; None while nothing has failed.
    """

    def __init__(self, name: str, counters: Counter[str], retry_s: float = 0.0) -> None:
        self.retry_at_s: float | None = None
        self._name = name
        self._counters = counters
        self._retry_s = retry_s
        self._outputs: list[RequestT | OutputT | Notice] = []
        self._pending: dict[int, Callable[[ResultT, float], None]] = {}
        self._next_token = 1

    @property
    def pending(self) -> int:
        """Requests that the disk has not answered."""
        return len(self._pending)

    def take_outputs(self) -> list[RequestT | OutputT | Notice]:
        """What the shell must do, since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def request(self, make: Callable[[int], RequestT], then: Callable[[ResultT, float], None]) -> None:
        """Want something done on disk.

        Args:
            make: makes the request, from its token.
            then: called with the result and when it came.
        """
        token, self._next_token = self._next_token, self._next_token + 1
        self._pending[token] = then
        self._outputs.append(make(token))

    def stored(self, token: int, result: ResultT, now_s: float) -> None:
        """What became of a request.

        Raises:
            StateError: the token is not under way: the shell has answered twice.
        """
        then = self._pending.pop(token, None)
        if then is None:
            raise StateError(f"{self._name} request {token} has no answer to come")
        then(result, now_s)

    def retry_later(self, now_s: float) -> None:
        """Something failed: it is tried again, together with what fails until then."""
        if self.retry_at_s is None:
            self.retry_at_s = now_s + self._retry_s

    def notice(self, notice: Notice) -> None:
        """A line for the log."""
        self._outputs.append(notice)

    def count_failure(self, counter: str, what: str, **context: object) -> None:
        """Count what the disk did not do; log the first, tenth, hundredth... of them."""
        self._counters[counter] += 1
        count = self._counters[counter]
        if count == 10 ** (len(str(count)) - 1):
            self.notice(Notice("error", what, {**context, "count": count}))
