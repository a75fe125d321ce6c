"""What ``latentbus bench uplink`` makes of its counts, and what it counts with."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentbus.bench.uplink import UplinkReport, UplinkRow
from latentbus.bench.uplink_options import UplinkBenchOptions
from latentbus.bench.uplink_sites import BEFORE, VARIANTS, SiteCount
from latentbus.bench.wire_counter import WireCount, _Records
from schemas.wire_cost import TCP_IP_BYTES


def row(number: int, *, tls: bool, stream_bytes: int, segments: int, questions: int) -> UplinkRow:
    up = WireCount(stream_bytes, segments if tls else 0, segments, 3)
    return UplinkRow(VARIANTS[number], tls, SiteCount(up, WireCount(), Counter(answered=questions), 5, 5, 1_000))


def test_savings_are_shares_of_the_bytes_a_question_before() -> None:
    report = UplinkReport(
        [
            row(0, tls=True, stream_bytes=10_000 - 40 * TCP_IP_BYTES, segments=40, questions=100),
            row(3, tls=True, stream_bytes=3_500 - 10 * TCP_IP_BYTES, segments=10, questions=50),
            row(0, tls=False, stream_bytes=8_000 - 40 * TCP_IP_BYTES, segments=40, questions=100),
            row(3, tls=False, stream_bytes=8_000 - 20 * TCP_IP_BYTES, segments=20, questions=200),
        ]
    )
    assert report.row(BEFORE, tls=True).question_bytes == 100.0
    assert report.saving(tls=True) == pytest.approx(0.3)
    assert report.saving(tls=False) == pytest.approx(0.5)
    figures = report.to_json(UplinkBenchOptions())
    assert (figures["cameras"], figures["saving_tls"], figures["saving_plain"]) == (4, 0.3, 0.5)
    first, *_ = figures["sites"]
    assert (first["tls_records"], first["tcp_segments"], first["wire_bytes"]) == (40, 40, 10_000)
    assert first["bare_acknowledgements"] == 3


@given(bodies=st.lists(st.integers(0, 400), min_size=1, max_size=20), cuts=st.lists(st.integers(1, 300), max_size=60))
def test_records_are_counted_wherever_the_stream_is_cut(bodies: list[int], cuts: list[int]) -> None:
    stream = b"".join(
        bytes([23 if number % 2 else 22, 3, 3]) + size.to_bytes(2, "big") + b"\x17" * size
        for number, size in enumerate(bodies)
    )
    records, at = _Records(), 0
    for cut in [*cuts, len(stream)]:
        if piece := stream[at : at + cut]:
            records.feed(piece)
        at += cut
    assert records.count == len(bodies) // 2
    assert records.stream_bytes == len(stream)


def test_a_stream_without_tls_has_no_records() -> None:
    records = _Records()
    records.feed(b"\x10\x2c\x00\x04MQTT" + b"\x17" * 100)
    assert (records.count, records.stream_bytes) == (0, 108)
