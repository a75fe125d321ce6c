from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref

import pytest

from pipeline.node.work_thread import WorkThread, busy_threads
from schemas.errors import StateError

BLOCKED = """
import asyncio, threading
from pipeline.node.runtime import leave_blocked_threads, run
from pipeline.node.work_thread import WorkThread

async def main(stop):
    started = threading.Event()
    def block():
        started.set()
        threading.Event().wait()
    thread = WorkThread("blocked")
    call = asyncio.create_task(thread.call(block))
    while not started.is_set():
        await asyncio.sleep(0)
    call.cancel()
    thread.end()
    return 7

status = run(main)
leave_blocked_threads(status)
raise SystemExit("no thread was blocked")
"""


async def test_calls_run_one_after_the_other_and_errors_come_back() -> None:
    thread = WorkThread("work")
    order: list[int] = []

    def fail() -> None:
        raise ValueError("no")

    await asyncio.gather(*(thread.call(order.append, number) for number in range(20)))
    assert order == list(range(20))
    with pytest.raises(ValueError, match="no"):
        await thread.call(fail)
    await thread.close(lambda: order.append(-1))
    assert order[-1] == -1
    with pytest.raises(StateError, match="work"):
        await thread.call(fail)


async def test_a_caller_that_goes_leaves_its_call_running_and_the_last_call_comes_after_it() -> None:
    thread, started, go_on = WorkThread("work"), threading.Event(), threading.Event()
    order: list[str] = []

    def slow() -> None:
        started.set()
        go_on.wait()
        order.append("slow")

    call = asyncio.create_task(thread.call(slow))
    await asyncio.to_thread(started.wait)
    assert "work" in busy_threads()
    call.cancel()
    ended = thread.end(lambda: order.append("last"))
    assert order == []
    go_on.set()
    await asyncio.wrap_future(ended)
    assert order == ["slow", "last"]


def test_a_process_does_not_wait_for_a_thread_that_is_blocked() -> None:
    ended = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, timeout=60, check=False)
    assert ended.returncode == 7, ended.stderr.decode()
    assert b"blocked" in ended.stderr + ended.stdout


async def test_a_thread_is_prepared_once_and_in_itself_before_its_first_call() -> None:
    prepared: list[str] = []
    with WorkThread("model", prepare=lambda: prepared.append(threading.current_thread().name)) as thread:
        assert prepared == []
        assert [await thread.call(len, prepared) for _ in range(2)] == [1, 1]
        assert await thread.call(lambda: threading.current_thread().name) == prepared[0]
    with pytest.raises(StateError):
        await thread.call(len, prepared)


async def test_what_the_preparation_raises_the_call_raises() -> None:
    def fail() -> None:
        raise ValueError("no such device")

    with WorkThread("model", prepare=fail) as thread:
        for _ in range(2):
            with pytest.raises(ValueError, match="no such device"):
                await thread.call(len, "abc")


class Held:
    """Something large that a call works with."""


async def test_a_call_that_fails_keeps_nothing_once_its_error_was_seen() -> None:
    """An error in a cycle of references would keep all that until the garbage collector looks at old objects."""
    thread = WorkThread("fails")
    seen: list[weakref.ref[Held]] = []

    def fail() -> None:
        held = Held()
        seen.append(weakref.ref(held))
        raise ValueError("no")

    gc.collect()
    gc.disable()
    try:
        for _ in range(2):  # the thread itself lets go of a call with the next one at the latest
            with pytest.raises(ValueError, match="no"):
                await thread.call(fail)
        await thread.call(lambda: None)
        assert [reference() for reference in seen] == [None, None]
    finally:
        gc.enable()
        await thread.close()
