"""Load from C clients: ``mosquitto_pub`` processes that read their messages, one a line, from a paced pipe."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass
from typing import Final

from schemas.errors import ConfigError, LocalError

PUBLISHER: Final = "mosquitto_pub"
TOPIC_ROOT: Final = "bench"
IN_FLIGHT: Final = 100
"""QoS 1 publishes of one process that wait for their PUBACK."""
_SLICE_S: Final = 0.01
"""Messages of a hundredth of a second are written at a time."""
_NUMBER_CHARS: Final = 10


@dataclass(frozen=True, slots=True)
class Offered:
    """What publishers sent.

    Attributes:
        messages: messages, all acknowledged by the broker.
        seconds: from the first line to the last.
    """

    messages: int
    seconds: float


def require_publisher() -> str:
    """Path of ``mosquitto_pub``.

    Raises:
        ConfigError: it is not installed.
    """
    found = shutil.which(PUBLISHER)
    if found is None:
        raise ConfigError(
            PUBLISHER, "not found: make setup installs it (Debian, Ubuntu: apt-get install mosquitto-clients)"
        )
    return found


def payload(publisher: int, number: int, size_bytes: int) -> bytes:
    """The line that is one message: who sent it, its number, and filling."""
    head = b"%d:%0*d:" % (publisher, _NUMBER_CHARS, number)
    return head + b"x" * (size_bytes - len(head))


async def publish(host: str, port: int, *, processes: int, rate_hz: float, messages: int, size_bytes: int) -> Offered:
    """Publish at QoS 1, each process on a topic of its own.

    Args:
        host: of the broker.
        port: of the broker.
        processes: publishers.
        rate_hz: messages a second, all of them together.
        messages: in all, a multiple of ``processes``.
        size_bytes: of each payload.

    Returns:
        When every message is acknowledged.

    Raises:
        LocalError: a publisher failed.
    """
    arguments = ["-h", host, "-p", str(port), "-V", "5", "-q", "1", "-l", "-M", str(IN_FLIGHT)]
    begun_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                _publisher(
                    [require_publisher(), *arguments, "-t", f"{TOPIC_ROOT}/{number}"],
                    number,
                    rate_hz / processes,
                    messages // processes,
                    size_bytes,
                )
            )
            for number in range(processes)
        ]
    return Offered(sum(task.result() for task in tasks), time.monotonic() - begun_s)


async def _publisher(command: list[str], publisher: int, rate_hz: float, messages: int, size_bytes: int) -> int:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None  # noqa: S101 - it was asked for
    assert process.stderr is not None  # noqa: S101
    try:
        loop, sent = asyncio.get_running_loop(), 0
        begun_s = loop.time()
        while sent < messages:
            due = min(messages, int((loop.time() - begun_s + _SLICE_S) * rate_hz))
            lines = [payload(publisher, number, size_bytes) for number in range(sent, due)]
            if lines:
                process.stdin.write(b"\n".join(lines) + b"\n")
                await process.stdin.drain()
                sent = due
            await asyncio.sleep(max(0.0, begun_s + sent / rate_hz - loop.time()))
        process.stdin.close()
        problem = await process.stderr.read()
        if await process.wait():
            raise LocalError(f"{PUBLISHER} ended with status {process.returncode}: {problem.decode(errors='replace')}")
    except BrokenPipeError:
        problem = await process.stderr.read()
        raise LocalError(f"{PUBLISHER} ended early: {problem.decode(errors='replace').strip()}") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return messages
