"""The byte costs of publishes: figures of the design, growth with the payload, edges of the encodings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.wire_cost import (
    TCP_IP_BYTES,
    TLS_RECORD_BYTES,
    puback_wire_bytes,
    publish_wire_bytes,
    refine_overhead_wire_bytes,
    transport_wire_bytes,
    variable_byte_integer_bytes,
)


def test_the_figures_of_the_design() -> None:
    # About 100 bytes around the payload of a publish with a topic of two names; 78 for a PUBACK.
    assert 95 <= publish_wire_bytes("lb/v1/chunk/w-1/gate", 160, 0) - 160 <= 110
    assert puback_wire_bytes() == 78
    assert puback_wire_bytes(tls=False) == 56
    assert 270 <= refine_overhead_wire_bytes("lb/v2/control/gate", 20, 14) <= 360


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
