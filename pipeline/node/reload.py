"""Settings that are read again while a process runs: SIGHUP asks for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.config.logs import get_logger
from pipeline.node.runtime import Stop
from pipeline.node.service_manager import notify
from schemas.errors import ConfigError

T = TypeVar("T")

_log = get_logger(__name__)


async def keep_reloading(stop: Stop, read: Callable[[], T], apply: Callable[[T], None]) -> None:
    """Read the settings again whenever that is asked for, until cancelled. What is wrong changes nothing.

    Args:
        stop: of the process; it takes SIGHUP as a wish to reload from now on.
        read: reads them; called in a thread.
        apply: takes them over as a whole, or raises before it has changed anything.
    """
    stop.reloads = True
    while True:
        await stop.wait_reload()
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            apply(await asyncio.to_thread(read))
        except ConfigError as error:
            _log.error("the settings were not taken over; nothing was changed", problem=str(error))
        else:
            _log.info("the settings were read again")
        notify("READY=1")
