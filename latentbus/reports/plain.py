"""Figures of a report as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping


def plain(value: object) -> str:
    """A figure without brackets and quotes: ``answered 3, failed 1``; ``none`` where a list has nothing in it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return str(value)
