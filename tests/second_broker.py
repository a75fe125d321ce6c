"""A broker that is not Mosquitto: rumqttd, as the package ``iotcore`` has it compiled in.

With ``LATENTBUS_TEST_BROKER=iotcore`` the fixture ``broker`` of the tests is one of these; docs/brokers.md says what
differs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from schemas.errors import BrokerStartError

CHOICE: Final = "LATENTBUS_TEST_BROKER"
IOTCORE: Final = "iotcore"
VERSION: Final = "0.4.0"
_HOST: Final = "127.0.0.1"
_START_LIMIT_S: Final = 20.0
_CONFIG: Final = """\
id = 0

[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
shared_subscriptions_strategy = "roundrobin"

[v5.1]
name = "v5-1"
listen = "{host}:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 262144
max_inflight_count = 100
dynamic_filters = true
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """What it does otherwise than Mosquitto.

    Attributes:
        text: what.
        means: what that means for a fleet.
        tests: tests of the bus that show it; they are expected to fail.
    """

    text: str
    means: str
    tests: tuple[str, ...]


DIFFERENCES: Final = (
    Difference(
        "forgets the session of a client that reconnects, whatever its Session Expiry Interval",
        "what comes while the gateway is away is missing from its history, which it shows as a gap; a member of a "
        "share group that sleeps is dealt nothing, which is as it should be",
        (
            "test_a_delayed_will_is_not_published_if_the_client_is_back_in_time",
            "test_a_lost_publish_is_reported_and_never_sent_again",
            "test_old_acknowledgements_are_never_sent_on_a_new_connection",
            "test_an_expired_message_is_not_delivered",
            "test_a_sleeping_member_with_a_session_is_dealt_its_share",
        ),
    ),
    Difference(
        "ignores the Receive Maximum of a client",
        "a worker that cannot keep up is not spared: frames pile up in its own queue, of 8,192 messages",
        ("test_unacknowledged_messages_close_the_window_and_none_is_lost",),
    ),
    Difference(
        "delivers at the QoS of the subscription, also what was published at QoS 0",
        "each chunk and control message costs the uplink an acknowledgement of some 78 bytes",
        (
            "test_a_message_arrives_with_all_that_was_sent",
            "test_the_short_cut_reads_what_the_library_reads",
            "test_a_flood_at_qos_0_is_cut_off_counted_and_spares_qos_1",
        ),
    ),
    Difference(
        "never tells that nobody reads a topic (reason code 16)",
        "an edge learns of an empty pool from statuses and leases alone",
        (
            "test_no_subscriber_is_told_and_hidden_by_any_wildcard",
            "test_traffic_is_counted_by_kind_in_bytes_of_packets",
        ),
    ),
    Difference(
        "ignores the Maximum Packet Size of a client",
        "messages of strangers that are too large reach a process, which refuses them itself",
        ("test_a_broker_does_not_deliver_packets_above_the_limit",),
    ),
    Difference(
        "ignores No Local, Retain Handling and Retain As Published of a subscription",
        "a process reads its own messages, and recordings do not know which messages were published retained",
        (
            "test_retained_and_own_messages_can_be_left_out",
            "test_the_retain_flag_is_the_publishers_when_asked_for[True]",
        ),
    ),
)


def difference(test: str, parameters: str) -> Difference | None:
    """The difference that a test of the bus shows, by its name and its parameters without the event loop."""
    for known in DIFFERENCES:
        if test in known.tests or f"{test}[{parameters}]" in known.tests:
            return known
    return None


def chosen() -> bool:
    """Whether the tests run with the second broker."""
    return os.environ.get(CHOICE) == IOTCORE


class IotcoreBroker:
    """A private rumqttd in a child process, with the methods of :class:`broker_config.launcher.LocalBroker` that the
    tests of the bus use.

    Attributes:
        host: address to connect to.
        port: port to connect to.
    """

    host = _HOST

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            self.port: int = probe.getsockname()[1]
        self.directory = Path(tempfile.mkdtemp(prefix="latentbus-iotcore-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """The process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and wait until it takes connections.

        Raises:
            BrokerStartError: it is not installed, or did not come up.
        """
        config = self.directory / "rumqttd.toml"
        config.write_text(_CONFIG.format(host=_HOST, port=self.port), encoding="utf-8")
        log = (self.directory / "iotcore.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "iotcore", "--config", str(config), "--log-level", "WARNING"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        began_s = time.monotonic()
        while time.monotonic() < began_s + _START_LIMIT_S and self.running:
            with contextlib.suppress(OSError), socket.create_connection((_HOST, self.port), timeout=1):
                return
            threading.Event().wait(0.02)  # nothing tells when it listens
        self.kill()
        text = (self.directory / "iotcore.log").read_text(encoding="utf-8", errors="replace")
        raise BrokerStartError("iotcore did not come up", text[-2_000:])

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """End it, and start it on the same port."""
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
