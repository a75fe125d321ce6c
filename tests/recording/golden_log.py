"""The golden logs of each format version: every message of the wire, MQTT properties, a gap, attachments, metadata.

``python -m tests.recording.golden_log`` writes :data:`CURRENT` when it is missing and never changes it: what was
recorded once opens in every later version. A new version of the format or of the wire gets a new file beside the old
ones, and so do messages that the wire gains within one.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pipeline.recording.format import Compression, encode_properties
from pipeline.recording.message import Gap, LoggedMessage, MqttProperties
from pipeline.recording.stored_latent import StoredLatent, encode_stored_latent, latent_topic
from pipeline.recording.writer import LogWriter
from schemas.topics import ROUTES, carries_pixels, parse
from schemas.types import FrameId
from schemas.wire import encode

CURRENT: Final = "v1_wire2_config"
"""What this version writes: format version 1, wire version 2 with the configuration of sites."""
LOGS: Final = {1: ("v1", "v1_key_frames", "v1_wire2", CURRENT)}
"""Names of the logs by format version; the first two are of wire version 1."""
FLEET_LOGS: Final = ("v1_fleet", "v1_fleet_again")
"""Two runs of a small fleet of wire version 1, alike but for one answer."""
DIGESTS: Final = {
    "v1": "f57970742b6b963135ddc8152ab0ee6b23d1b00f9a3e1e34d3c89c46188e37ef",
    "v1_key_frames": "0900d348c598aceef0b13dec262c3313b1b4f20af8836485197d67c84d364caa",
    "v1_wire2": "a189e0cbbee96025346603bce63c73ca8f226091e872b1b8564a448190b2b04c",
    "v1_wire2_config": "1cdaedadb0a9bf3a6eb3a9b478e03509e45d49c5f41bc029a111122be0bd2729",
    "v1_fleet": "47af15c5cb3f270dfa8e333b600b5d65903dd112d87dc1f251a7a077e172b4f9",
    "v1_fleet_again": "32d8137b7219998d64a6f4071233a9d9ea2b0b952989a9eddda16dec6d7aab97",
}
"""What each log held when it was written, as :func:`digest` says it: the wire of then cannot be encoded any more."""
FOLDER = Path(__file__).parents[1] / "golden" / "recording"
START_NS = 1_750_000_000_123_456_789
STEP_NS = 12_345_678

PROPERTIES = MqttProperties(
    payload_format=1,
    expiry_s=30,
    content_type="application/json",
    response_topic="lb/v2/reply/phone-3/gate/ask-7f",
    correlation_data=bytes(range(256)),
    user=(("trace", "00-ab"), ("trace", "00-cd"), ("ünï", "☃")),
)
GAP = Gap(START_NS + 3 * STEP_NS, first_sequence=3, count=2, reason="the queue was full")
METADATA = {
    "latentbus": {"start": "2025-06-15T14:26:40.123+00:00", "start_ns": str(START_NS), "software_version": "golden"},
    "replay": {"source": "run.mcap", "rate": "10", "boots": '{"00000001": "00000009"}'},
    "fingerprints": {"worker/w-01": "c0ffee01"},
}
ATTACHMENTS = {
    "config.yaml": ("text/yaml", b"edge: {site: harbour}\n"),
    "codec.json": ("application/json", b'{"name": "meta_autoencoder"}'),
}


def golden_messages() -> list[LoggedMessage]:
    """What :data:`CURRENT` holds: its sequence numbers leave out the two messages of :data:`GAP`.

    No log keeps pixels, so the messages that carry them are missing.
    """
    from tests.schemas.golden import GOLDEN

    recorded = [case for case in GOLDEN if not carries_pixels(case.topic)]
    payloads = [*((case.topic, encode(case.message)) for case in recorded), *_beside_the_wire()]
    messages: list[LoggedMessage] = []
    for number, (topic, payload) in enumerate(payloads):
        ours = topic.startswith("lb/")
        route = ROUTES[parse(topic).family] if ours else None
        messages.append(
            LoggedMessage(
                time_ns=START_NS + number * STEP_NS,
                topic=topic,
                payload=payload,
                qos=route.qos if route else 0,
                retain=route.retain if route else False,
                properties=PROPERTIES if topic.startswith(("lb/v2/ask", "home/")) else None,
                sequence=number if number < GAP.first_sequence else number + GAP.count,
            )
        )
    return messages


def _beside_the_wire() -> list[tuple[str, bytes]]:
    """What a log holds beside messages of the wire."""
    stored = StoredLatent("gate", FrameId(7, 9), base=8, stop=64, payload=bytes(range(100)))
    return [
        (latent_topic("gate"), encode_stored_latent(stored)),
        ("lb/v2/question/harbour/q1", b""),
        ("home/kitchen/temperature", b"21.5"),
        ("lb/v2/open/main/gate", b"\xc1 no message"),
    ]


def digest(messages: Iterable[LoggedMessage]) -> str:
    """SHA-256 of all that a log says of its messages."""
    found = hashlib.sha256()
    for message in messages:
        properties = b"" if message.properties is None else encode_properties(message.properties)
        place = (message.time_ns, message.topic, message.qos, message.retain, message.sequence)
        found.update(repr((place, message.payload, properties)).encode())
    return found.hexdigest()


def path_of(name: str) -> Path:
    """A golden log."""
    return FOLDER / f"{name}.mcap"


def main() -> int:
    """Write :data:`CURRENT` if it is missing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not path_of(CURRENT).exists():
        write(path_of(CURRENT))
        sys.stdout.write(f"{CURRENT}: {digest(golden_messages())}\n")
    return 0


def write(path: Path, compression: Compression = Compression.LZ4) -> None:
    """Write the golden log of this version to a file."""
    with LogWriter(path, compression=compression, metadata=METADATA) as writer:
        for attachment, (media_type, data) in ATTACHMENTS.items():
            writer.attach(attachment, media_type, data)
        for number, message in enumerate(golden_messages()):
            if number == GAP.first_sequence:
                writer.write_gap(GAP)
            writer.write(message)
            if number % 10 == 9:
                writer.flush()


if __name__ == "__main__":
    sys.exit(main())
