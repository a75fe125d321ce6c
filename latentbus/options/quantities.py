"""Sizes and times as a person types them."""

from __future__ import annotations

import re

_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30,
          "tib": 2**40}  # fmt: skip
_SECONDS = {"": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_bytes(text: str) -> int:
    """A size: ``512MB``, ``1GiB``, ``100000``.

    Raises:
        ValueError: it is none, or not positive.
    """
    return round(_quantity(text, {name: float(value) for name, value in _BYTES.items()}, "512MB or 1GiB"))


def parse_seconds(text: str) -> float:
    """A time: ``90s``, ``15min``, ``1h``, ``2d``, ``30``.

    Raises:
        ValueError: it is none, or not positive.
    """
    return _quantity(text, _SECONDS, "90s, 15min or 1h")


def _quantity(text: str, units: dict[str, float], examples: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    value = float(match[1]) * units[match[2]] if match and match[2] in units else 0.0
    if value <= 0:
        raise ValueError(f"{text!r} is none; write {examples}")
    return value
