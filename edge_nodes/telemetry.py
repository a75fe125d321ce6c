"""Metrics of an edge process."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from typing import Final

from edge_nodes.camera_problems import CameraProblems
from edge_nodes.capture import CameraCapture
from edge_nodes.encoder import EncoderThread
from edge_nodes.observer import OfferedFrame
from edge_nodes.pool_problems import PoolProblems
from edge_nodes.sources import FrameSource, SourceState
from pipeline.node.answer_metrics import AnswerMetrics
from pipeline.node.metrics import Metrics
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import Decision
from pipeline.protocol.ports import Sent
from schemas.types import UplinkStage

SITE = "-"
"""Label value for what concerns no single camera: status, acknowledgements. No camera can have this name."""
_CLIENT_COUNTS: Final = {
    "wire_bytes": "Bytes on the uplink that a client caused: acknowledgements, refusals, replies",
    "asks_refused": "Ad-hoc questions of a client beyond its budget",
    "silent": "What a client was not told, because its budget was spent",
}


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
        self._wait_seconds = metrics.seconds(
            "uplink_wait_seconds", "Wait of a publish for the uplink", ["traffic_class"]
        )
        self._source_up = metrics.gauge("source_up", "1 while the source of a camera is open", ["camera"])
        self._encode_seconds = metrics.seconds("encode_seconds", "Encoding of one frame, waiting included")
        self._first_prefix = metrics.shares("first_prefix_share", "First message of a frame, in shares of its latents")
        self._answers = AnswerMetrics(metrics, "the capture of a frame")

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
        if sent.traffic_class is not None:
            self._wait_seconds.labels(sent.traffic_class.replace(" ", "_")).observe(sent.waited_s)

    def query_ended(self, decision: Decision, delay_s: float | None) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        asked = "history" if decision.history else "ad_hoc" if decision.ad_hoc else "standing"
        latents = None if decision.answer is None else decision.answer.latents
        self._answers.ended(decision.outcome, asked, decision.reason, elapsed_s=delay_s, latents=latents)

    def first_answer(self, asked: str, elapsed_s: float) -> None:
        """A question got its first answer."""
        self._answers.first(asked, elapsed_s)

    def source_changed(self, camera: str, up: bool) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        self._source_up.labels(camera).set(up)


def watch_site(metrics: Metrics, session: EdgeSession, pool_problems: PoolProblems) -> None:
    """Serve what a site counts by itself."""
    metrics.watch_counters("asks", "Ad-hoc questions by what they met", "kind", lambda: session.ad_hoc.counters)
    for kind, documentation in _CLIENT_COUNTS.items():
        metrics.watch_counters(
            f"client_{kind}", documentation, "client", functools.partial(session.budgets.counts, kind)
        )
    metrics.watch_counters("events", "Events and requests for them", "kind", lambda: session.event_counters)
    metrics.watch_counters(
        "frames_rejected", "Frames that a worker can never answer", "reason", lambda: pool_problems.rejected
    )
    metrics.watch_gauge("pool_fits", "0 while the pool has another codec", lambda: float(pool_problems.fits))
    metrics.watch_counters("uplink_problems", "Publishes that went wrong", "kind", lambda: session.uplink.counters)
    metrics.watch_counters(
        "standing_slots_left_out",
        "Slots without standing questions, because the pool is overloaded",
        "camera",
        lambda: session.load_shedding.skipped,
    )
    metrics.watch_counters(
        "load_shedding_events", "What load shedding reacts to", "kind", lambda: session.load_shedding.counters
    )
    metrics.watch_counters(
        "change_gate",
        "Standing questions of frames: why they were asked, or that their last answer holds on",
        "kind",
        lambda: {} if session.gate is None else session.gate.counters,
    )
    metrics.watch_gauge(
        "standing_share",
        "Share of the standing slots that is taken; under 1: overload",
        lambda: session.load_shedding.share,
    )
    metrics.watch_gauges(
        "uplink_budget_bytes",
        "What may be sent in a day or a month",
        ("period",),
        lambda: {(name,): float(state.limit_bytes) for name, state in session.budget.states().items()},
    )
    metrics.watch_gauges(
        "uplink_spent_bytes",
        "What was sent in the present day or month, as far as it is known",
        ("period",),
        lambda: {(name,): float(state.spent_bytes) for name, state in session.budget.states().items()},
    )
    metrics.watch_gauges(
        "uplink_stage",
        "1 for what is left out because of the uplink's budget, 0 for what is not",
        ("stage",),
        lambda: {(stage.value,): float(session.budget.stage is stage) for stage in UplinkStage},
    )
    metrics.watch_counters(
        "share_slots_left_out",
        "Slots without standing questions, because the camera has used its share of the uplink",
        "camera",
        lambda: session.shares.skipped,
    )
    metrics.watch_counters(
        "budget_slots_left_out",
        "Slots without standing questions, because of the uplink's budget",
        "camera",
        lambda: session.budget.skipped,
    )
    metrics.watch_counters(
        "frame_store_events",
        "What became of frames that were stored without a link",
        "kind",
        lambda: session.store.counters,
    )
    metrics.watch_gauge("stored_frames", "Frames that wait for the link", lambda: float(len(session.store.entries)))
    metrics.watch_gauge("stored_bytes", "Size of their latents", lambda: float(session.store.entries.size_bytes))
    metrics.watch_gauge("storing", "1 while there is no link and frames are stored", lambda: float(session.storing))
    metrics.watch_gauge("unfinished_queries", "Queries without an outcome", lambda: float(session.unfinished()))


def watch_encoder(metrics: Metrics, encoder: EncoderThread) -> None:
    """Serve which encoder makes the symbols: those of two of one codec are not all the same."""
    metrics.watch_gauges(
        "encoder", "1 for the arithmetic of the encoder", "precision", lambda: {encoder.precision: 1.0}
    )


def watch_cameras(
    metrics: Metrics,
    captures: Mapping[str, CameraCapture],
    sources: Mapping[str, FrameSource],
    problems: CameraProblems,
) -> None:
    """Serve what goes wrong at the cameras."""

    def counts() -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = dict(problems.counts)
        for camera, source in sources.items():
            found.update({(camera, kind): count for kind, count in source.counters.items()})
        return found

    metrics.watch_gauges(
        "source_state",
        "1 for what the source of a camera is doing, 0 for what it is not",
        ("camera", "state"),
        lambda: {
            (name, state.value): float(capture.machine.state is state)
            for name, capture in captures.items()
            for state in SourceState
        },
    )
    metrics.watch_counters("source_problems", "What went wrong at a camera, by kind", ("camera", "kind"), counts)
    metrics.watch_counters(
        "captures_missed",
        "Slots of a camera that passed without a frame",
        "camera",
        lambda: {name: float(capture.policy.missed) for name, capture in captures.items()},
    )
