"""Known bugs of brokers that matter to a fleet, by version. No I/O; docs/brokers.md shows the table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

Version: TypeAlias = tuple[int, ...]

RECOMMENDED: Final[Version] = (2, 0, 22)
"""Of Mosquitto."""


def text_of(version: Version) -> str:
    """A version as it is written."""
    return ".".join(map(str, version))


@dataclass(frozen=True, slots=True)
class Software:
    """A broker and its version."""

    name: str
    version: Version

    def __str__(self) -> str:
        return f"{self.name} {text_of(self.version)}"


@dataclass(frozen=True, slots=True)
class KnownBug:
    """A bug of a broker.

    Attributes:
        broker: name of the broker, as :attr:`Software.name`.
        fixed: first version without it.
        text: what happens.
        since: first version with it; None: all before ``fixed``.
    """

    broker: str
    fixed: Version
    text: str
    since: Version | None = None

    def concerns(self, software: Software) -> bool:
        """Whether a broker has it, by its version; packages of distributions may have mended it."""
        if software.name != self.broker or software.version >= self.fixed:
            return False
        return self.since is None or software.version >= self.since


BUGS: Final = (
    KnownBug(
        "mosquitto",
        (2, 0, 12),
        "it counts connections wrongly, so max_connections does not bound them, and a publish with many user "
        "properties keeps it busy for long",
    ),
    KnownBug(
        "mosquitto",
        (2, 0, 13),
        "each acknowledgement opens a whole receive window, so a worker gets more frames than it can take",
    ),
    KnownBug("mosquitto", (2, 0, 15), "an expired message can block the queue of a client"),
    KnownBug(
        "mosquitto",
        (2, 0, 16),
        "clients can make it lose memory without end (CVE-2023-28366, CVE-2023-0809, CVE-2023-3592)",
    ),
    KnownBug("mosquitto", (2, 0, 19), "a shared and a plain subscription to one topic are mixed up when one ends"),
    KnownBug("mosquitto", (2, 0, 21), "it loses memory at some subscriptions"),
    KnownBug(
        "mosquitto",
        (2, 1, 1),
        "it disconnects clients that have more messages under way than they should",
        since=(2, 1, 0),
    ),
    KnownBug("mosquitto", (2, 1, 3), "it checks the largest packet of a client wrongly", since=(2, 1, 0)),
)
"""In the order of the versions that mend them."""


def bugs_of(software: Software) -> list[KnownBug]:
    """Known bugs of a broker of this version."""
    return [bug for bug in BUGS if bug.concerns(software)]


def parse_version(topic: str, payload: bytes) -> Software | None:
    """The broker that speaks on a ``$SYS`` topic; None where that is no version.

    Args:
        topic: ``$SYS/broker/version`` of Mosquitto, ``$SYS/brokers/NODE/version`` of EMQX.
        payload: what it says.
    """
    text = payload[:200].decode("utf-8", errors="replace")
    found = re.search(r"(\d+(?:\.\d+){1,3})", text)
    if found is None:
        return None
    name = "mosquitto" if "mosquitto" in text.lower() else "emqx" if topic.startswith("$SYS/brokers/") else "broker"
    return Software(name, tuple(int(part) for part in found[1].split(".")))
