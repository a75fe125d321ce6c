"""Messages for logs whose meaning does not matter."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hypothesis import strategies as st

from pipeline.recording.format import Compression
from pipeline.recording.message import LoggedMessage, MqttProperties
from pipeline.recording.writer import LogWriter

EPOCH_NS = 1_700_000_000_000_000_000

texts = st.text(max_size=12)
properties = st.builds(
    MqttProperties,
    payload_format=st.none() | st.integers(0, 1),
    expiry_s=st.none() | st.integers(0, 2**32 - 1),
    content_type=st.none() | texts,
    response_topic=st.none() | texts,
    correlation_data=st.none() | st.binary(max_size=20),
    user=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
)
topics = st.sampled_from(["lb/v2/answer/gate", "lb/v2/open/main/yard", "foreign/1", "$local/latent/gate"]) | texts


@st.composite
def message_lists(draw: st.DrawFn, max_size: int = 12) -> list[LoggedMessage]:
    """Messages in the order of their times, some of them dropped between."""
    time_ns, sequence = EPOCH_NS, 0
    found: list[LoggedMessage] = []
    for _ in range(draw(st.integers(0, max_size))):
        time_ns += draw(st.integers(0, 10**9))
        sequence += draw(st.integers(1, 3))
        found.append(
            LoggedMessage(
                time_ns,
                draw(topics),
                draw(st.binary(max_size=40)),
                draw(st.integers(0, 2)),
                draw(st.booleans()),
                draw(st.none() | properties),
                sequence,
            )
        )
    return found


def numbered(count: int, *, size_bytes: int = 40, topics: int = 3, start: int = 0) -> list[LoggedMessage]:
    """Messages a millisecond apart; every fifth has properties."""
    return [
        LoggedMessage(
            EPOCH_NS + number * 1_000_000,
            f"lb/v2/answer/cam{number % topics}",
            number.to_bytes(4, "big") * (size_bytes // 4),
            number % 2,
            False,
            MqttProperties(user=(("n", str(number)),)) if number % 5 == 0 else None,
            number,
        )
        for number in range(start, start + count)
    ]


def write_log(
    path: Path,
    messages: Iterable[LoggedMessage],
    *,
    flush_every: int = 10**9,
    compression: Compression = Compression.LZ4,
) -> Path:
    """A log that was closed well."""
    with LogWriter(path, compression=compression) as writer:
        for number, message in enumerate(messages, 1):
            writer.write(message)
            if number % flush_every == 0:
                writer.flush()
    return path
