"""``latentbus broker run``: the private Mosquitto in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path

from broker_config.launcher import LocalBroker
from broker_config.secured import secured_broker
from pipeline.node.runtime import Stop


async def serve_broker(port: int | None, stop: Stop, *, fleet: Path | None = None) -> int:
    """Run a broker until the process is stopped.

    Args:
        port: port on the loopback address, None for a free one.
        stop: ends it.
        fleet: the broker's part of a fleet folder, whose devices alone it lets in; None lets everybody in.

    Raises:
        BrokerStartError: it did not come up.
    """
    async with LocalBroker(port=port) if fleet is None else secured_broker(fleet, port=port) as broker:
        who = "everybody on this machine" if fleet is None else f"the devices of {fleet.parent}"
        sys.stdout.write(f"mosquitto listens on {broker.host}:{broker.port} for {who}, log {broker.log_path}\n")
        sys.stdout.flush()
        stop.set_ready()
        await stop.wait()
    return 0
