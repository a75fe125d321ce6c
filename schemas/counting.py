"""Numbers of things in words for people: one message, two messages."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun, in the singular for 1; thousands have commas.

    Args:
        count: how many.
        noun: in the singular, perhaps with what stands before it: ``query``, ``bad message``.
        plural: where it is not the noun with an s (``queries``).
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
