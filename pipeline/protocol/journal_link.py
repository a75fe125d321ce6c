"""Requests to the journal that the disk has not answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from pipeline.protocol.effects import TakeFrame
from pipeline.protocol.journal_requests import JournalRequest, JournalResult, NotStored
from pipeline.protocol.ports import Notice
from schemas.errors import StateError

RETRY_S: Final = 10.0
"""Between two attempts to store what a disk did not take."""

Then = Callable[[JournalResult, float], None]
"""What follows from a result, and when it came."""


class JournalLink:
    """What a session wants of the disk, and what waits for its answer.

    Args:
        counters: where failures are counted.

    Attributes:
        retry_s: when what failed is tried again; None while nothing has.
    """

    def __init__(self, counters: Counter[str]) -> None:
        self.retry_s: float | None = None
        self._counters = counters
        self._outputs: list[JournalRequest | TakeFrame | Notice] = []
        self._pending: dict[int, Then] = {}
        self._next_token = 1

    def take_outputs(self) -> list[JournalRequest | TakeFrame | Notice]:
        """What the shell must do, since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    @property
    def pending(self) -> int:
        """Requests that the disk has not answered."""
        return len(self._pending)

    def request(self, make: Callable[[int], JournalRequest], then: Then) -> None:
        """Want something done on disk.

        Args:
            make: makes the request, from its token.
            then: called with the result.
        """
        self._next_token += 1
        self._pending[self._next_token] = then
        self._outputs.append(make(self._next_token))

    def stored(self, token: int, result: JournalResult, now_s: float) -> None:
        """What became of a request.

        Raises:
            StateError: the token is not under way: the shell has answered twice.
        """
        then = self._pending.pop(token, None)
        if then is None:
            raise StateError(f"journal request {token} has no answer to come")
        then(result, now_s)

    def take_frame(self, camera: str) -> None:
        """A frame of this camera is wanted, after what was requested so far."""
        self._outputs.append(TakeFrame(camera))

    def retry_later(self, now_s: float) -> None:
        """Something failed: it is tried again, together with what fails until then."""
        if self.retry_s is None:
            self.retry_s = now_s + RETRY_S

    def failed(self, what: str, query_id: str, result: JournalResult) -> None:
        """Count a request that failed; log the first, tenth, hundredth... of them."""
        self._counters["not_stored"] += 1
        count = self._counters["not_stored"]
        if count == 10 ** (len(str(count)) - 1):
            problem = result.problem if isinstance(result, NotStored) else type(result).__name__
            context = {"query": query_id, "problem": problem, "count": count}
            self._outputs.append(Notice("error", what, {**context, "fix": "free space on the disk of state_dir"}))
