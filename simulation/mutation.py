"""One deliberate fault in the protocol code, for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Mutation:
    """One deliberate fault.

    Attributes:
        name: what was taken away.
        seed: a run seed that catches it.
        target: what is patched.
        attribute: its attribute.
        replacement: what it does instead.
    """

    name: str
    seed: int
    target: Any
    attribute: str
    replacement: Any

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The protocol code with this fault in it."""
        original = getattr(self.target, self.attribute)
        setattr(self.target, self.attribute, self.replacement)
        try:
            yield
        finally:
            setattr(self.target, self.attribute, original)


def nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""
