"""A flood of connections without a certificate, in a network namespace of its own.

Run as ``python -m tests.broker.flood MODE``.
Prints one JSON object: connections that the flooder holds, how its next one failed, and whether a bystander at another
address gets in. MODE is ``open`` or ``ruled``: with the rule per address.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
import struct
import subprocess
import sys

from broker_config.firewall import firewall_rules
from broker_config.launcher import LocalBroker

SERVER, FLOODER, BYSTANDER = "127.0.0.1", "127.0.0.2", "127.0.0.3"
CAP = 100
"""``max_connections`` of the broker here: fewer than the flooder opens without the rule, more than with it."""
WAIT_S = 20.0
CONNECT = bytes.fromhex("101000044d51545405020006000003") + b"abc"
"""A CONNECT packet of MQTT 5 with client id ``abc``."""
CONNACK = 0x20
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def loopback_up() -> None:
    """A new namespace has its loopback interface down."""
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def dial(address: str, port: int) -> socket.socket:
    made = socket.socket()
    made.settimeout(WAIT_S)
    made.bind((address, 0))
    try:
        made.connect((SERVER, port))
    except OSError:
        made.close()
        raise
    return made


def gets_in(address: str, port: int) -> bool:
    """Whether the broker answers a CONNECT from this address."""
    with contextlib.suppress(OSError), dial(address, port) as made:
        made.sendall(CONNECT)
        answer = made.recv(1)
        return answer == bytes([CONNACK])
    return False


def flood(port: int, held: list[socket.socket]) -> str:
    """Open connections until one fails, or the broker's cap is reached; how it failed."""
    while len(held) < CAP:
        try:
            held.append(dial(FLOODER, port))
        except OSError as error:
            return type(error).__name__
    return ""


def main(mode: str) -> None:
    loopback_up()
    held: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(LocalBroker(options={"max_connections": str(CAP)}))
        if mode == "ruled":
            for _again in range(2):  # loading it twice replaces it
                subprocess.run(["nft", "-f", "-"], input=firewall_rules(broker.port), text=True, check=True)
        failed = flood(broker.port, held)
        for made in held:
            stack.enter_context(made)
        inside = gets_in(BYSTANDER, broker.port)
    sys.stdout.write(json.dumps({"held": len(held), "failed": failed, "bystander": inside}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
