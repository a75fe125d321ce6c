"""The gateway of a demo, and its dashboard in a browser."""

from __future__ import annotations

import asyncio
import socket
import webbrowser
from pathlib import Path
from typing import Final

from latentbus.fleet.launcher import Launcher, write_settings
from latentbus.fleet.process import FleetProcess
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.gateway_settings import GatewaySettings
from pipeline.config.settings import LatentbusSettings, LogSettings

NAME: Final = "gateway"
_HOST: Final = "127.0.0.1"


async def start_dashboard(launcher: Launcher, broker: BrokerSettings, run_dir: Path) -> tuple[FleetProcess, str]:
    """Start a gateway on loopback, which needs no token there.

    Args:
        launcher: of the demo.
        broker: of the demo.
        run_dir: for its settings and its history.

    Returns:
        The process, and where its dashboard is.

    Raises:
        LatentbusError: it did not come up.
    """
    port = await asyncio.to_thread(_free_port, GatewaySettings().port)
    settings = LatentbusSettings(
        broker=broker,
        gateway=GatewaySettings(port=port, state_dir=run_dir / NAME),
        log=LogSettings(json_lines=True),
    )
    config = write_settings(NAME, settings, run_dir)
    process = await launcher.start_command(NAME, [NAME, "--config", str(config)])
    await launcher.wait_ready(process)
    return process, f"http://localhost:{port}/"


async def show(url: str) -> bool:
    """Open a page in the user's browser; false where there is none."""
    return await asyncio.to_thread(webbrowser.open, url)


def _free_port(wanted: int) -> int:
    """The wanted port, or any other one where that is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise AssertionError("the system gives a free port")
