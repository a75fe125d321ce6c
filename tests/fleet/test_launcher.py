"""Processes of a fleet: ready when they say so, told to end in order, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_config.launcher import LocalBroker
from latentbus.fleet.launcher import Launcher
from latentbus.fleet.orphan_guard import Ward, end
from latentbus.fleet.process import FleetProcess, NotReadyError, ProcessEndedError
from latentbus.fleet.settings import edge_node
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from schemas.errors import StateError

PATIENCE_S = 30.0
"""A test that waits longer than this has failed."""
PATIENCE_MS = round(1000 * PATIENCE_S)

NODE = """
import os, signal, socket, sys
def drain(*_):
    print("drained", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, drain)
print("works", flush=True)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as said:
    said.sendto(b"STATUS=hello\\nREADY=1", os.environ["NOTIFY_SOCKET"])
while True:
    signal.pause()
"""
"""Ready at once; drains when it is told to."""
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"

OWNER = f"""
import asyncio, json, sys
from pathlib import Path
from latentbus.fleet.launcher import Launcher
from broker_config.launcher import LocalBroker
from pipeline.config.logs import configure_logging
from pipeline.node.runtime import run

async def main(stop):
    async with Launcher(Path(sys.argv[1])) as launcher:
        broker = LocalBroker()
        await launcher.start_broker(broker)
        works = await launcher.start_python("works", ["-c", {NODE!r}])
        frozen = await launcher.start_python("frozen", ["-c", {NODE!r}])
        await launcher.wait_ready()
        frozen.freeze()
        await launcher.start_broker(restarted := LocalBroker())
        restarted.kill()
        await launcher.start_broker(restarted)
        pids = {{"works": works.pid, "frozen": frozen.pid, "broker": broker.pid, "restarted": restarted.pid}}
        print(json.dumps(pids), flush=True)
        await stop.wait()
        frozen.thaw()
        print(json.dumps(await launcher.drain()), flush=True)
    return 0

configure_logging("error")
sys.exit(run(main))
"""
"""The process that a launcher lives in, as `latentbus demo` is one."""


@contextlib.contextmanager
def owner(run_dir: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, int]]]:
    """The owner of a launcher in a session of its own, and what its launcher started."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(run_dir)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def watched(pids: dict[str, int]) -> Iterator[dict[str, int]]:
    """Descriptors of processes, which are readable when those have ended."""
    found = {name: os.pidfd_open(pid) for name, pid in pids.items()}
    try:
        yield found
    finally:
        for descriptor in found.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)


def ended(descriptor: int, timeout_ms: int = PATIENCE_MS) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_ms))


@pytest.mark.broker
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the test watches processes that are not its children")
def test_a_killed_owner_leaves_no_process_behind_not_even_a_frozen_one_or_a_broker(tmp_path: Path) -> None:
    with owner(tmp_path) as (process, pids), watched(pids) as descriptors:
        assert not any(ended(descriptor, 0) for descriptor in descriptors.values())
        process.send_signal(signal.SIGKILL)
        assert [name for name, descriptor in descriptors.items() if not ended(descriptor)] == []
    # Those that could drain did.
    assert [(tmp_path / f"{name}.log").read_text() for name in ("works", "frozen")] == 2 * ["works\ndrained\n"]


@pytest.mark.broker
def test_ctrl_c_reaches_the_owner_alone_which_drains_the_others(tmp_path: Path) -> None:
    with owner(tmp_path) as (process, pids):
        assert process.stdout is not None
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert json.loads(process.stdout.readline()) == [0, 0]
        assert process.wait(PATIENCE_S) == 0
    assert (tmp_path / "works.log").read_text() == "works\ndrained\n"
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_does_not_end_in_time_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as deaf:
        assert deaf.stdout is not None
        deaf.stdout.readline()
        ward = Ward(deaf.pid)
        end([ward], grace_s=0.0)
        assert deaf.wait(PATIENCE_S) == -signal.SIGKILL
        assert Ward(deaf.pid).wait(0.0), "one that has ended needs no guard"
        ward.close()


async def test_a_process_is_ready_when_it_says_so_and_can_be_drained_and_started_again(tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S), Launcher(tmp_path) as launcher:
        first = await launcher.start_python("node", ["-c", NODE])
        await launcher.wait_ready(first)
        assert first.log() == "works\n"
        with pytest.raises(StateError, match="node is running"):
            await launcher.start_python("node", ["-c", NODE])
        assert await launcher.drain(first) == [0]
        assert (first.status, first.told_to_end, launcher.processes) == (0, True, {})
        second = await launcher.start_python("node", ["-c", NODE])
        await launcher.wait_ready()
        assert (second.log_path.name, launcher.ended) == ("node-2.log", [])
    assert second.status == -signal.SIGKILL
    assert first.log() == "works\ndrained\n"


async def test_one_that_ends_on_its_own_is_told_with_its_last_words(tmp_path: Path) -> None:
    ends: list[FleetProcess] = []
    edge = EdgeSettings(site="s1", cameras={"c1": CameraSettings(source="test:none")})
    async with asyncio.timeout(PATIENCE_S), Launcher(tmp_path, on_exit=ends.append) as launcher:
        await launcher.start_python("other", ["-c", NODE])
        node = await launcher.start_node("s1", edge_node(BrokerSettings(port=9), edge))
        with pytest.raises(ProcessEndedError, match="test:SEED") as raised:
            await launcher.wait_ready()
        assert (raised.value.name, raised.value.status) == ("s1", 1)
        assert await launcher.wait_end() is node
        assert (launcher.ended, ends) == ([node], [node])
        assert await node.drain() == 1
        assert node.ended_on_its_own, "it had ended before"
    assert ends == [node], "the other one was told to"
    assert (tmp_path / "s1.yaml").is_file()


async def test_one_that_never_says_that_it_is_ready_is_named(tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S), Launcher(tmp_path) as launcher:
        await launcher.start_python("deaf", ["-c", DEAF])
        with pytest.raises(NotReadyError, match="deaf was not ready within 0 s"):
            await launcher.wait_ready(timeout_s=0.01)


@pytest.mark.broker
async def test_a_broker_that_was_killed_starts_again_where_it_was(tmp_path: Path) -> None:
    broker = LocalBroker()
    async with Launcher(tmp_path) as launcher:
        settings = await launcher.start_broker(broker)
        broker.kill()
        assert await launcher.start_broker(broker) == settings
        assert broker.running
    assert not broker.running
