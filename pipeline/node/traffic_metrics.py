"""What passes between a process and its broker: the same metrics of every process."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.bus.base import Traffic
from pipeline.node.metrics import Metrics


def watch_traffic(metrics: Metrics, traffic: Callable[[], Traffic]) -> None:
    """Serve what a bus has counted, read at each scrape.

    Args:
        metrics: of the process.
        traffic: of its bus.
    """
    metrics.watch_counters("sent_bytes", "Bytes of MQTT publishes that left", "kind", lambda: traffic().sent_bytes)
    metrics.watch_counters("sent_messages", "MQTT publishes that left", "kind", lambda: traffic().sent_messages)
    metrics.watch_counters(
        "received_bytes", "Bytes of MQTT publishes that came", "kind", lambda: traffic().received_bytes
    )
    metrics.watch_counters("received_messages", "MQTT publishes that came", "kind", lambda: traffic().received_messages)
    metrics.watch_counters(
        "mqtt_reason_codes",
        "MQTT reason codes of the broker other than success",
        ("packet", "code"),
        lambda: traffic().reason_codes,
    )
