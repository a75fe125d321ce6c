"""Which Mosquitto the tests run with: some of what they show depends on it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from schemas.errors import BrokerStartError


def mosquitto_version(binary: Path) -> tuple[int, int, int]:
    """Version of a Mosquitto binary.

    Raises:
        BrokerStartError: it does not say one.
    """
    # `-h` prints the version and ends with status 3 on the versions in use.
    done = subprocess.run([binary, "-h"], capture_output=True, text=True, timeout=10, check=False)
    answer = done.stdout
    words = answer.split("\n", 1)[0].split()
    try:
        major, minor, patch = (int(part) for part in words[2].split(".")[:3])
    except (IndexError, ValueError):
        raise BrokerStartError(f"{binary} does not say its version: {answer[:200]!r}") from None
    return major, minor, patch
