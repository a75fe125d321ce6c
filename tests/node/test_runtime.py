"""Process runtime: drain on the first signal, cancel on the second or when the time is over."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from pipeline.node import runtime
from pipeline.node.reload import keep_reloading
from pipeline.node.runtime import EXIT_NOT_DRAINED, Stop, run, supervise
from schemas.errors import ConfigError, LatentbusError


def test_run_returns_the_status_of_main() -> None:
    async def main(stop: Stop) -> int:
        stop.set_ready()
        assert stop.ready.is_set()
        assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
        return 7

    assert run(main) == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_first_signal_lets_main_finish(number: signal.Signals) -> None:
    finished = False

    async def main(stop: Stop) -> int:
        nonlocal finished
        os.kill(os.getpid(), number)
        await stop.wait()
        await asyncio.sleep(0)
        finished = True
        return 0

    assert await supervise(main) == 0
    assert finished


async def test_second_signal_cancels_a_drain_that_hangs() -> None:
    async def main(stop: Stop) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
        return 0

    assert await supervise(main, drain_timeout_s=60) == EXIT_NOT_DRAINED


async def test_a_drain_that_takes_too_long_is_cancelled() -> None:
    async def main(stop: Stop) -> int:
        stop.request()
        await asyncio.Event().wait()
        return 0

    assert await supervise(main, drain_timeout_s=0.01) == EXIT_NOT_DRAINED


async def test_our_error_leaves_its_group_and_a_foreign_one_keeps_it() -> None:
    async def fail(error: Exception) -> None:
        raise error

    def main_with(*errors: Exception) -> Callable[[Stop], Awaitable[int]]:
        async def main(stop: Stop) -> int:
            async with asyncio.TaskGroup() as group:
                for error in errors:
                    group.create_task(fail(error))
            return 0

        return main

    with pytest.raises(LatentbusError, match="a: wrong"):
        await supervise(main_with(ConfigError("a", "wrong")))
    with pytest.raises(ExceptionGroup) as caught:
        await supervise(main_with(ConfigError("a", "wrong"), ZeroDivisionError()))
    assert caught.value.split(ZeroDivisionError)[0] is not None


async def test_cancelling_the_supervisor_ends_main() -> None:
    started = asyncio.Event()
    ended = False

    async def main(stop: Stop) -> int:
        nonlocal ended
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended = True
        return 0

    task = asyncio.create_task(supervise(main))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended


async def test_systemd_hears_ready_and_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))

        async def main(stop: Stop) -> int:
            stop.set_ready()
            stop.set_ready()
            stop.request()
            return 0

        assert await supervise(main) == 0
        assert [listener.recv(64), listener.recv(64)] == [b"READY=1", b"STOPPING=1"]
        with pytest.raises(BlockingIOError):
            listener.recv(64)


async def test_a_hang_up_drains() -> None:
    async def main(stop: Stop) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        await stop.wait()
        return 7

    assert await supervise(main) == 7


async def test_sighup_asks_a_process_that_can_do_so_to_read_its_settings_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_has_terminal", lambda: False)
    reads: asyncio.Queue[int] = asyncio.Queue()
    taken: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    answers: Iterator[ConfigError | str] = iter([ConfigError("fleet.yaml", "is wrong"), "good"])

    def again() -> str:
        loop.call_soon_threadsafe(reads.put_nowait, 1)
        answer = next(answers)
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    async def main(stop: Stop) -> int:
        reloading = asyncio.create_task(keep_reloading(stop, again, taken.put_nowait))
        await asyncio.sleep(0)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            await reads.get()
        assert await taken.get() == "good"
        assert taken.empty(), "what is wrong changes nothing"
        assert not stop.requested
        reloading.cancel()
        return 0

    assert await supervise(main) == 0


async def test_a_terminal_that_hangs_up_drains_a_process_that_reloads(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [True]
    monkeypatch.setattr(runtime, "_has_terminal", lambda: there[0])

    async def main(stop: Stop) -> int:
        stop.reloads = True
        there[0] = False
        os.kill(os.getpid(), signal.SIGHUP)
        await stop.wait()
        return 0

    assert await supervise(main) == 0
