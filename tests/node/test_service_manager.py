from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.node.service_manager import Health, keep_alive, notify, watchdog_s
from tests.edge.support import TurnedClock, settle


class SystemdSocket:
    """What systemd listens on."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        try:
            while True:
                messages.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SystemdSocket]:
    path = tmp_path / "notify"
    listening = SystemdSocket(path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    yield listening
    listening.close()


def test_states_go_out_as_one_message(systemd: SystemdSocket) -> None:
    notify("READY=1", "STATUS=2 of 3 cameras up")
    assert systemd.heard() == ["READY=1\nSTATUS=2 of 3 cameras up"]


def test_nobody_is_told_without_a_socket(systemd: SystemdSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET")
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    notify("READY=1")
    assert systemd.heard() == []
    assert watchdog_s() is None


def test_a_service_manager_that_does_not_read_holds_nobody_up(systemd: SystemdSocket) -> None:
    for _ in range(1000):
        notify("WATCHDOG=1")
    assert 0 < len(systemd.heard()) < 1000


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("60000000", None, 60.0),
        ("500000", "own", 0.5),
        ("60000000", "1", None),  # meant for the parent
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_what_the_watchdog_wants_is_read_from_the_environment(
    systemd: SystemdSocket, monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, expected: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert watchdog_s() == expected


async def test_pings_come_three_times_in_the_limit_and_only_with_progress(systemd: SystemdSocket) -> None:
    clock, ready = TurnedClock(0.0), False
    health = Health("1 of 2 cameras up, connected")
    task = asyncio.create_task(keep_alive(60.0, clock, lambda: health, lambda: ready))
    await settle()
    assert systemd.heard() == ["EXTEND_TIMEOUT_USEC=60000000\nSTATUS=1 of 2 cameras up, connected"], "not ready yet"
    ready = True
    for second in (20, 40, 60):
        await clock.turn_to(second)
        assert systemd.heard() == ["WATCHDOG=1"]
    health = Health("0 of 2 cameras up, connected", stuck="a frame is being encoded for 61 s")
    await clock.turn_to(80)
    assert systemd.heard() == ["STATUS=stuck: a frame is being encoded for 61 s"], "no ping"
    await clock.turn_to(140)
    assert systemd.heard() == []
    health = Health("2 of 2 cameras up, connected")
    await clock.turn_to(160)
    assert systemd.heard() == ["WATCHDOG=1\nSTATUS=2 of 2 cameras up, connected"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_blocked_loop_does_not_ping(systemd: SystemdSocket) -> None:
    """The pings have no thread of their own: when the loop stands still, so do they."""
    clock = TurnedClock(0.0)
    task = asyncio.create_task(keep_alive(60.0, clock, lambda: Health("fine"), lambda: True))
    await settle()
    systemd.heard()
    clock.time_s = 500.0  # time passes, and the loop does not come round
    assert systemd.heard() == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
