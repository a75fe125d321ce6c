"""Keeps the whole latent of every frame in the edge's own log, for replays that ask for more than was sent."""

from __future__ import annotations

from edge_nodes.observer import OfferedFrame
from pipeline.node.node_log import NodeLog
from pipeline.protocol.effects import Decision
from pipeline.protocol.ports import Sent
from pipeline.recording.stored_latent import StoredLatent


class LatentStore:
    """An :class:`~edge_nodes.observer.EdgeObserver` that stores; the uplink carries none of it.

    Args:
        log: the edge's own log.
    """

    def __init__(self, log: NodeLog) -> None:
        self._log = log

    def frame_offered(self, offered: OfferedFrame) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        count = offered.latent.latent_count
        payload = offered.latent.payload(0, count)
        self._log.store_latent(
            StoredLatent(offered.captured.camera, offered.frame, offered.base_latents, count, payload)
        )

    def message_sent(self, sent: Sent) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""

    def query_ended(self, decision: Decision, delay_s: float | None) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""

    def source_changed(self, camera: str, up: bool) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
