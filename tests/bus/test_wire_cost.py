"""The byte costs against what a relay counts between the bus and a real Mosquitto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker_config.launcher import LocalBroker
from pipeline.bus.base import Qos
from pipeline.config.broker_settings import TlsSettings
from schemas.wire_cost import (
    PUBACK_BYTES,
    TCP_IP_BYTES,
    TCP_SEGMENT_PAYLOAD_BYTES,
    TLS_RECORD_BYTES,
    puback_wire_bytes,
    publish_packet_bytes,
    publish_property_bytes,
    publish_wire_bytes,
)
from tests.bus.broker_files import certificates
from tests.bus.support import PUBACK, PUBLISH, Relay, connected


@pytest.mark.broker
@pytest.mark.parametrize("qos", [0, 1])
async def test_packet_sizes_are_exact(broker: LocalBroker, qos: Qos) -> None:
    sizes = [0, 1, 100, 110, 111, 112, 113, 114, 127, 128, 1_000, 16_360, 16_370, 16_384, 60_000]
    properties: dict[str, Any] = {
        "response_topic": "lb/é",
        "correlation_data": b"12345",
        "expiry_s": 7,
        "content_type": "a/b",
    }
    expected: list[int] = []
    async with Relay(broker) as relay, connected(relay.settings, "a") as bus:
        for size_bytes in sizes:
            await bus.publish("lb/v1/é", b"x" * size_bytes, qos=qos)
            expected.append(publish_packet_bytes("lb/v1/é", size_bytes, qos))
            await bus.publish("lb/v1/é", b"x" * size_bytes, qos=qos, **properties)
            expected.append(
                publish_packet_bytes("lb/v1/é", size_bytes, qos, property_bytes=publish_property_bytes(**properties))
            )
        await bus.publish("mark", b"", qos=1)
        assert [packet.size_bytes for packet in relay.seen("up", PUBLISH)[:-1]] == expected
        assert {packet.size_bytes for packet in relay.seen("down", PUBACK)} <= {PUBACK_BYTES, PUBACK_BYTES + 1}


@pytest.mark.broker
async def test_a_tls_record_costs_what_is_charged(tmp_path: Path) -> None:
    certificates(tmp_path, "server")
    lines = [f"cafile {tmp_path}/ca.crt", f"certfile {tmp_path}/server.crt", f"keyfile {tmp_path}/server.key"]
    async with LocalBroker(listener_lines=lines) as broker, Relay(broker, parse=False) as relay:
        settings = relay.settings.model_copy(update={"tls": TlsSettings(ca_file=tmp_path / "ca.crt")})
        async with connected(settings, "a", "t") as bus:
            await bus.publish("t", b"warm", qos=1)
            for size_bytes in (0, 100, 1_000):
                before = dict(relay.stream_bytes)
                await bus.publish("u", b"x" * size_bytes, qos=1)
                up = relay.stream_bytes["up"] - before["up"]
                assert up == publish_packet_bytes("u", size_bytes, 1) + TLS_RECORD_BYTES
                segments = -(-up // TCP_SEGMENT_PAYLOAD_BYTES)
                assert publish_wire_bytes("u", size_bytes, 1) == up + segments * TCP_IP_BYTES
                down = relay.stream_bytes["down"] - before["down"]
                reason_code_bytes = 1  # 16, no subscribers: the only case in which Mosquitto writes it out
                assert puback_wire_bytes() + reason_code_bytes == down + TCP_IP_BYTES
