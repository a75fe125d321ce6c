"""Whether torch can compute on a device, asked before anything is loaded onto it."""

from __future__ import annotations

import torch

from schemas.errors import ConfigError


def check_device(text: str, where: str) -> torch.device:
    """The device of this name, tried.

    Args:
        text: as torch names it, ``cpu`` or ``cuda:0``.
        where: setting or option that it comes from.

    Raises:
        ConfigError: there is no such device here; lists those that are.
    """
    try:
        device = torch.device(text)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        raise ConfigError(where, f"torch has no device {text!r} here; it has {', '.join(_usable())}") from None
    return device


def _usable() -> list[str]:
    accelerators = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cpu", *accelerators, *(["mps"] if torch.backends.mps.is_available() else [])]
