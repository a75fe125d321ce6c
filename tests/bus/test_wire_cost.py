"""The byte costs against what a relay counts between the bus and a real Mosquitto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_config.launcher import LocalBroker
from pipeline.bus.base import Qos
from pipeline.bus.wire_cost import (
    PUBACK_BYTES,
    TCP_IP_BYTES,
    TCP_SEGMENT_PAYLOAD_BYTES,
    TLS_RECORD_BYTES,
    puback_wire_bytes,
    publish_packet_bytes,
    publish_property_bytes,
    publish_wire_bytes,
    refine_overhead_wire_bytes,
    transport_wire_bytes,
    variable_byte_integer_bytes,
)
from pipeline.settings import TlsSettings
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


def test_the_figures_of_the_design() -> None:
    # About 100 bytes around the payload of a publish with a topic of two names; 78 for a PUBACK.
    assert 95 <= publish_wire_bytes("lb/v1/chunk/w-1/gate", 160, 0) - 160 <= 110
    assert puback_wire_bytes() == 78
    assert puback_wire_bytes(tls=False) == 56
    assert 270 <= refine_overhead_wire_bytes("lb/v1/control/gate", 20, "lb/v1/chunk/w-1/gate", 14) <= 360


@given(st.integers(0, 100_000), st.integers(0, 40), st.booleans())
def test_costs_grow_with_the_payload_and_never_undercut_it(payload: int, more: int, tls: bool) -> None:
    small, large = (publish_wire_bytes("lb/v1/x", size, 1, tls=tls) for size in (payload, payload + more))
    assert payload + more <= large
    assert more <= large - small <= more + 2 + TCP_IP_BYTES + TLS_RECORD_BYTES


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (2_097_151, 3), (2_097_152, 4)]
)
def test_variable_byte_integers_have_the_sizes_of_the_standard(value: int, expected: int) -> None:
    assert variable_byte_integer_bytes(value) == expected


@pytest.mark.parametrize("value", [-1, 268_435_456])
def test_what_has_no_encoding_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="variable byte integer"):
        variable_byte_integer_bytes(value)


def test_large_packets_take_several_segments_and_records() -> None:
    assert transport_wire_bytes(1_448, tls=False) == 1_448 + 52
    assert transport_wire_bytes(1_449, tls=False) == 1_449 + 2 * 52
    assert transport_wire_bytes(16_385, tls=True) == 16_385 + 2 * 22 + 12 * 52
