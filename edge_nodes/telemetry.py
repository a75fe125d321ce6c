"""Metrics of an edge process."""

from __future__ import annotations

from collections import Counter

from edge_nodes.observer import OfferedFrame
from edge_nodes.uplink import Sent
from pipeline.node.metrics import Metrics
from pipeline.protocol.effects import Terminal

SITE = "-"
"""Label value for what concerns no single camera: status, acknowledgements. No camera can have this name."""


class EdgeTelemetry:
    """An :class:`~edge_nodes.observer.EdgeObserver` that counts.

    Attributes:
        wire_bytes: bytes on the uplink by camera and :data:`SITE`, all headers counted.
        latent_bytes: coded latents among them.
        messages: publishes by kind.
        captured: frames asked about, by camera.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.wire_bytes: Counter[str] = Counter()
        self.latent_bytes: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self.captured: Counter[str] = Counter()
        metrics.watch_counters(
            "uplink_wire_bytes", "Bytes on the uplink, all headers counted", "camera", lambda: self.wire_bytes
        )
        metrics.watch_counters("uplink_latent_bytes", "Coded latents sent", "camera", lambda: self.latent_bytes)
        metrics.watch_counters("uplink_messages", "Publishes that left", "message", lambda: self.messages)
        metrics.watch_counters("frames_captured", "Frames that were asked about", "camera", lambda: self.captured)
        self._wait_seconds = metrics.seconds("uplink_wait_seconds", "Wait of a publish for the uplink", ["lane"])
        self._source_up = metrics.gauge("source_up", "1 while the source of a camera is open", ["camera"])
        self._encode_seconds = metrics.seconds("encode_seconds", "Encoding of one frame, waiting included")
        self._first_prefix = metrics.shares("first_prefix_share", "First message of a frame, in shares of its latents")
        self._delay_seconds = metrics.seconds(
            "query_delay_seconds", "From the capture of a frame to the terminal outcome of a query", ["outcome"]
        )

        self._outcomes = metrics.counter(
            "query_outcomes", "Queries by terminal outcome and by who asked", ["outcome", "asked"]
        )

    def frame_offered(self, offered: OfferedFrame) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        self.captured[offered.captured.camera] += 1
        self._encode_seconds.observe(offered.encode_s)
        self._first_prefix.observe(offered.base_latents / offered.latent.latent_count)

    def message_sent(self, sent: Sent) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        self.wire_bytes[sent.camera or SITE] += sent.wire_bytes
        self.latent_bytes[sent.camera or SITE] += sent.latent_bytes
        self.messages[sent.label] += 1
        if sent.lane is not None:
            self._wait_seconds.labels(sent.lane.value.replace(" ", "_")).observe(sent.waited_s)

    def query_ended(self, terminal: Terminal, delay_s: float) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        self._delay_seconds.labels(terminal.outcome.value).observe(delay_s)
        self._outcomes.labels(terminal.outcome.value, "ad_hoc" if terminal.ad_hoc else "standing").inc()

    def source_changed(self, camera: str, up: bool) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        self._source_up.labels(camera).set(up)
