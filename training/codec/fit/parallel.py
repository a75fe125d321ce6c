"""Processes that learn one codec together."""

from __future__ import annotations

from typing import Final, Protocol

from torch import Tensor


class Parallel(Protocol):
    """This process among those that share each batch."""

    @property
    def rank(self) -> int:
        """Its number, from 0."""

    @property
    def count(self) -> int:
        """How many there are."""

    def total(self, values: Tensor) -> Tensor:
        """Sum of the values of all processes, the same on each of them; all have to call it."""


class _Alone:
    """A process that shares with none."""

    rank = 0
    count = 1

    def total(self, values: Tensor) -> Tensor:
        return values


ALONE: Final[Parallel] = _Alone()
