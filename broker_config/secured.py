"""The secured listener: TLS, one certificate a device, rights by dynamic security.

``mosquitto.conf`` has the same lines with the paths of the official image; a test compares.
"""

from __future__ import annotations

from pathlib import Path

from broker_config.dynamic_security import find_plugin
from broker_config.launcher import LocalBroker, find_mosquitto

CA_FILE = "ca.crt"
CERTIFICATE_FILE = "server.crt"
KEY_FILE = "server.key"
REVOKED_FILE = "revoked.pem"
RULES_FILE = "dynamic-security.json"


def secured_listener(folder: Path, plugin: Path) -> tuple[str, ...]:
    """Lines of a configuration file after its ``listener``.

    Args:
        folder: the broker's part of a fleet folder, see :class:`broker_config.fleet_folder.FleetFolder`.
        plugin: the dynamic-security plug-in.
    """
    return (
        f"cafile {folder / CA_FILE}",
        f"certfile {folder / CERTIFICATE_FILE}",
        f"keyfile {folder / KEY_FILE}",
        f"crlfile {folder / REVOKED_FILE}",
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        f"plugin {plugin}",
        f"plugin_opt_config_file {folder / RULES_FILE}",
    )


def secured_broker(
    folder: Path, *, directory: Path | None = None, port: int | None = None, persistent: bool = False
) -> LocalBroker:
    """A private broker that lets only the devices of a fleet in.

    Args:
        folder: the broker's part of a fleet folder.
        directory: see :class:`LocalBroker`.
        port: see :class:`LocalBroker`.
        persistent: see :class:`LocalBroker`.

    Raises:
        BrokerStartError: Mosquitto or its plug-in is not installed.
    """
    return LocalBroker(
        directory=directory,
        port=port,
        anonymous=False,
        persistent=persistent,
        listener_lines=secured_listener(folder.absolute(), find_plugin(find_mosquitto())),
    )
