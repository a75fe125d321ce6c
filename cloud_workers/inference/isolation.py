"""Work over many items at once in which one that fails fails alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from traceback import format_exception
from typing import TypeVar

from pipeline.config.logs import get_logger

T = TypeVar("T")
R = TypeVar("R")

_log = get_logger(__name__)


class Isolation:
    """Halves what fails together, and logs the first error of each type.

    Args:
        message: of that log line.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._logged: set[type[Exception]] = set()

    def run(self, items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R | Exception]:
        """Results of all items, in order: of one that fails, also by itself, the error.

        Halving also fits a batch that was too large for the device's memory.

        Args:
            items: what to work on.
            work: results of some of them, as many and in order.
        """
        if not items:
            return []
        try:
            results = list(work(items))
            if len(results) != len(items):
                raise ValueError(f"{len(results)} results for {len(items)} items")
        except Exception as error:  # noqa: BLE001 - whatever a model raises on one item must not take the rest along
            if len(items) == 1:
                self._log_once(error)
                return [error]
            middle = len(items) // 2
            return [*self.run(items[:middle], work), *self.run(items[middle:], work)]
        return list(results)

    def _log_once(self, error: Exception) -> None:
        """Every error reaches the edge and the counters; the trace of one is enough."""
        if type(error) not in self._logged:
            self._logged.add(type(error))
            # As text: a renderer that shows local variables would print tensors and questions.
            _log.error(self._message, problem=described(error), trace="".join(format_exception(error)))


def described(error: Exception) -> str:
    """An error as one line, its type included."""
    return f"{type(error).__name__}: {error}"
