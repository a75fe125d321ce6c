"""Ends the processes of a launcher that died without ending them. A program of its own, of the standard library alone.

It reads lines on its standard input: ``add PID STAGE`` and ``remove PID``. The input ends when the launcher does,
however that came about: then whatever is left is told to end, and killed when it does not; stage 0 first, then the
brokers in stage 1, so that a node still drains over its broker.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterable

GRACE_S = 20.0
"""Longer than a node's own drain."""
_POLL_S = 0.05


class Ward:
    """A process that is looked after; a process id that is used again later is none of it where the system can tell.

    Args:
        pid: its process id.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor: int | None = None
        self._gone = False
        try:
            if hasattr(os, "pidfd_open"):
                self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._gone = True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended gets none."""
        if self._gone:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._descriptor is not None and hasattr(signal, "pidfd_send_signal"):
                signal.pidfd_send_signal(self._descriptor, number)
            else:
                os.kill(self._pid, number)

    def wait(self, until_s: float) -> bool:
        """Wait for its end, at most until then by the monotonic clock; whether it came."""
        if not self._gone and self._descriptor is not None:
            left_ms = max(0, round(1000 * (until_s - time.monotonic())))
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            self._gone = bool(poll.poll(left_ms))
        while not self._gone and self._descriptor is None:
            try:
                os.kill(self._pid, 0)
            except ProcessLookupError:
                self._gone = True
                break
            if time.monotonic() >= until_s:
                break
            time.sleep(_POLL_S)  # without pidfd a process that is no child can only be looked at
        return self._gone

    def close(self) -> None:
        """Look after it no longer."""
        if self._descriptor is not None:
            os.close(self._descriptor)


def end(wards: Iterable[Ward], grace_s: float = GRACE_S) -> None:
    """Tell all to end, and kill those that do not."""
    wards = list(wards)
    for ward in wards:
        ward.signal(signal.SIGTERM)
        ward.signal(signal.SIGCONT)  # a stopped one hears nothing before it goes on
    until_s = time.monotonic() + grace_s
    for ward in wards:
        if not ward.wait(until_s):
            ward.signal(signal.SIGKILL)


def main() -> None:
    """Read until the launcher is gone, then end what it left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its work begins when others are ended
    wards: dict[str, tuple[Ward, str]] = {}
    for line in sys.stdin:
        match line.split():
            case ["add", pid, stage]:
                wards[pid] = Ward(int(pid)), stage
            case ["remove", pid] if pid in wards:
                wards.pop(pid)[0].close()
            case _:
                pass
    for stage in ("0", "1"):
        end(ward for ward, of in wards.values() if of == stage)


if __name__ == "__main__":
    main()
