"""``latentbus broker``: the private Mosquitto in the foreground."""

from __future__ import annotations

import sys

from broker_config.launcher import LocalBroker
from pipeline.runtime import Stop


async def serve_broker(port: int | None, stop: Stop) -> int:
    """Run a broker until the process is stopped.

    Args:
        port: port on the loopback address, None for a free one.
        stop: ends it.

    Raises:
        BrokerStartError: it did not come up.
    """
    async with LocalBroker(port=port) as broker:
        sys.stdout.write(f"mosquitto listens on {broker.host}:{broker.port}, log {broker.log_path}\n")
        sys.stdout.flush()
        stop.set_ready()
        await stop.wait()
    return 0
