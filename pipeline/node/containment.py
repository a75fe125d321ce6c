"""What is left of a bug of ours: it ends what met it, is counted and logged; the rest goes on.

Errors that are expected have their own handling where they arise. This is for the others, at the outermost place that
still knows what one piece of work is. What repeats for ever is backed off, so that it neither spins nor fills a log.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from pipeline.bus.backoff import Backoff

MAX_KINDS: Final = 256
"""Kinds that are told apart; later ones are counted together as ``other``."""
CONTAINED_EVENT: Final = "a bug of Latentbus was contained; please report it"
RETRY: Final = Backoff(initial_s=0.1, maximum_s=30.0, growth=2.0)
"""Waits before a loop whose pass has failed goes on."""

_strict = False


def raise_contained(on: bool) -> None:
    """Let errors through after they were counted, in this process: a test run must fail on a bug."""
    global _strict
    _strict = on


class Containment:
    """Counts and logs errors that nobody else has handled.

    Args:
        logger: of the process.
        sleep: waits so many seconds; a test gives its own.

    Attributes:
        counts: errors by kind: where, and the type of the error.
    """

    def __init__(
        self, logger: structlog.stdlib.BoundLogger, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._logger = logger
        self._sleep = sleep
        self._failures: Counter[str] = Counter()

    def note(self, where: str, error: Exception) -> None:
        """Count an error; the first of its kind is logged with its traceback.

        Args:
            where: what was going on, of low cardinality, for example ``receive/open``.
            error: what was raised.

        Raises:
            Exception: the error itself, in a process that is to fail on it, see :func:`raise_contained`.
        """
        kind = f"{where}/{type(error).__name__}"
        if kind not in self.counts and len(self.counts) >= MAX_KINDS:
            kind = "other"
        self.counts[kind] += 1
        if self.counts[kind] == 1:
            self._logger.error(CONTAINED_EVENT, kind=kind, problem=str(error), exc_info=error)
        if _strict:
            raise error

    @contextmanager
    def around(self, where: str) -> Iterator[None]:
        """Contain what one piece of work raises."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - this is the place that contains
            self.note(where, error)

    async def repeat(self, where: str, step: Callable[[], Awaitable[None]]) -> None:
        """Run a step again and again, until cancelled; after one that raises there is a growing wait."""
        while True:
            await self.once(where, step)

    async def once(self, where: str, step: Callable[[], Awaitable[None]]) -> None:
        """Run a step; when it raises, return after a wait that grows with each further failure in a row."""
        try:
            await step()
        except Exception as error:  # noqa: BLE001 - this is the place that contains
            self.note(where, error)
            self._failures[where] += 1
            await self._sleep(RETRY.delay_s(self._failures[where], 1.0))
        else:
            self._failures.pop(where, None)
