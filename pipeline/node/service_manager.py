"""What systemd is told of a process: sd_notify(3) and its watchdog, ``WatchdogSec=`` of the unit.

A ping of a bare timer would say no more than that there is a timer. This one is sent from the event loop, after the
process was asked whether it makes progress: without it the process is restarted.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.config.logs import get_logger
from pipeline.node.clock import Clock

_log = get_logger(__name__)

_USEC_PER_S: Final = 1_000_000
_PINGS: Final = 3
"""In the time after which systemd restarts a silent process; two may be late."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a process is.

    Attributes:
        status: a line for ``systemctl status``.
        stuck: what no longer makes progress and a restart would mend; None while all is well. What a restart does not
            mend, such as a broker or a camera that is away, is none of it.
    """

    status: str
    stuck: str | None = None


def notify(*states: str) -> None:
    """Tell systemd, when this process was started with a notify socket.

    Args:
        states: lines such as ``READY=1``, sent as one message.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.setblocking(False)  # a service manager that does not read must not hold up the event loop
        try:
            sending.sendto("\n".join(states).encode(), address)
        except OSError as error:
            _log.warning("systemd cannot be told", state=states[0], problem=str(error))


def watchdog_s() -> float | None:
    """Silence after which systemd restarts this process; None when it does not watch it."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    meant = os.environ.get("WATCHDOG_PID") or str(os.getpid())
    if not os.environ.get("NOTIFY_SOCKET") or not usec.isdecimal() or int(usec) == 0 or meant != str(os.getpid()):
        return None
    return int(usec) / _USEC_PER_S


async def keep_alive(limit_s: float, clock: Clock, health: Callable[[], Health], ready: Callable[[], bool]) -> None:
    """Ping the watchdog for as long as there is progress, until cancelled.

    Before the process is ready systemd does not watch it, but ends a start that takes too long. One that waits for a
    broker or a camera is given more time, again and again.

    Args:
        limit_s: see :func:`watchdog_s`.
        clock: what is waited on.
        health: asked before each ping.
        ready: whether the process has said that it is.
    """
    said, was_stuck = "", False
    while True:
        found = health()
        if found.stuck is None:
            status = [] if found.status == said else [f"STATUS={found.status}"]
            ping = "WATCHDOG=1" if ready() else f"EXTEND_TIMEOUT_USEC={round(limit_s * _USEC_PER_S)}"
            notify(ping, *status)
            said = found.status
        elif not was_stuck:
            _log.error("no progress: systemd is not told that all is well", problem=found.stuck, restart_s=limit_s)
            notify(f"STATUS=stuck: {found.stuck}")
            said = ""
        was_stuck = found.stuck is not None
        await clock.sleep(limit_s / _PINGS)
