"""Figures of recorded work: the same ones from a log and from a simulation, so that they stand side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from analysis.traffic import Traffic
from analysis.workload import Workload
from latentbus.what_if.recorded_content import RecordedModel
from pipeline.protocol.reducer import OutcomeReducer
from schemas import topics, wire
from schemas.messages import Answer, Chunk, FollowUp, KeyFrame, Message, Open, QueryOutcome, Refine, Revoke, Text
from schemas.topics import Family
from schemas.types import Outcome
from schemas.wire_cost import publish_wire_bytes

UNDECIDED = "undecided"
"""The log ends before the outcome; a simulation decides every query."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a fleet did with its queries.

    Attributes:
        queries: queries asked.
        not_asked: recorded queries of frames that were not taken, because the uplink had no room for them.
        outcomes: queries by outcome.
        uplink_bytes: bytes on the wire from all edges: opens, key frames, chunks, follow-ups, revokes, question texts
            and outcomes.
        latent_bytes: coded latents among them.
        opens: open messages, repeated ones counted.
        refines: requests for more latents.
        mean_latents: prefix that an answer was read from, mean over the answered queries; None without any.
        answer_ms_p50: median time from the capture of the frame to the terminal answer; None without any.
        answer_ms_p95: 95 % of the answers came within this time.
        answer_ms_p99: 99 %.
        texts_differ: answered queries whose text is not the recorded one.
        texts_unknown: answered queries whose text the log does not hold.
    """

    queries: int
    not_asked: int
    outcomes: dict[str, int]
    uplink_bytes: int
    latent_bytes: int
    opens: int
    refines: int
    mean_latents: float | None
    answer_ms_p50: float | None
    answer_ms_p95: float | None
    answer_ms_p99: float | None
    texts_differ: int
    texts_unknown: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def recorded_figures(workload: Workload, traffic: Traffic) -> Figures:
    """What the log says about the frames of a workload; frames that are not in it are left out."""
    outcomes: Counter[str] = Counter()
    delays_s, latents = [], []
    traces = [frame.trace for frame in workload.frames]
    cameras = {frame.camera for frame in workload.frames}
    for frame in workload.frames:
        for query in frame.queries:
            outcomes[query.outcome or UNDECIDED] += 1
            if query.outcome is Outcome.ANSWERED and query.decided_s is not None:
                delays_s.append(query.decided_s - frame.captured_s)
                read = traffic.queries[query.query_id].latents
                if read is not None:
                    latents.append(read)
    skipped = sum(trace.wire_bytes for trace in traffic.frames.values() if trace.camera in cameras) - sum(
        trace.wire_bytes for trace in traces
    )
    return _figures(
        outcomes,
        uplink_bytes=sum(traffic.uplink_bytes[camera] for camera in cameras) - skipped,
        latent_bytes=sum(trace.latent_bytes for trace in traces),
        opens=sum(len(trace.opens) for trace in traces),
        refines=sum(isinstance(control, Refine) for trace in traces for _, control in trace.controls),
        latents=latents,
        delays_s=delays_s,
    )


class FiguresOfRun:
    """Gathers the figures of a simulation from what passes its broker, as a recorder would.

    Args:
        model: knows which recorded query a simulated one stands for.
        now_s: time at which a message left.
    """

    def __init__(self, model: RecordedModel, now_s: Callable[[], float]) -> None:
        self._model = model
        self._now_s = now_s
        self._captured_s: dict[str, float] = {}
        self._reducer = OutcomeReducer(capacity=1 << 62)
        self._outcomes: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._delays_s: list[float] = []
        self._latents: list[int] = []

    def asked(self, query_id: str, captured_s: float) -> None:
        """A query was taken on."""
        self._captured_s[query_id] = captured_s
        self._outcomes[UNDECIDED] += 1

    def not_asked(self, queries: int) -> None:
        """A frame was not taken."""
        self._counts["not_asked"] += queries

    def published(self, topic: str, message: Message) -> None:
        """The broker accepts a publish."""
        match message:
            case Open():
                self._counts["opens"] += 1
                self._counts["latent_bytes"] += len(message.payload)
                self._sent(topic, message, 1)
            case KeyFrame():
                self._counts["latent_bytes"] += len(message.payload)
                self._sent(topic, message, 1)
            case Chunk():
                self._counts["latent_bytes"] += len(message.payload)
                self._sent(topic, message, 0)
            case FollowUp() | Revoke() | Text():
                self._sent(topic, message, 0)
            case Refine():
                self._counts["refines"] += 1
            case QueryOutcome():
                if topics.parse(topic).family is Family.OUTCOME:
                    self._sent(topic, message, 1)
                self._verdict(message)
            case Answer():
                self._verdict(message)

    def figures(self) -> Figures:
        """What came out."""
        return _figures(
            self._outcomes,
            uplink_bytes=self._counts["uplink_bytes"],
            latent_bytes=self._counts["latent_bytes"],
            opens=self._counts["opens"],
            refines=self._counts["refines"],
            latents=self._latents,
            delays_s=self._delays_s,
            texts_differ=self._counts["texts_differ"],
            texts_unknown=self._counts["texts_unknown"],
            not_asked=self._counts["not_asked"],
        )

    def _sent(self, topic: str, message: Message, qos: int) -> None:
        self._counts["uplink_bytes"] += publish_wire_bytes(topic, len(wire.encode(message)), qos)

    def _verdict(self, message: Answer | QueryOutcome) -> None:
        decided = self._reducer.observe(message, self._now_s())
        if decided is None:
            return
        self._outcomes[UNDECIDED] -= 1
        self._outcomes[decided.outcome] += 1
        if not isinstance(message, Answer) or decided.outcome is not Outcome.ANSWERED:
            return
        self._delays_s.append(self._now_s() - self._captured_s[message.query_id])
        self._latents.append(message.latents)
        recorded = self._model.recorded(message.query_id)
        if not any(inference_pass.prefix == message.latents for inference_pass in recorded.passes):
            self._counts["texts_unknown"] += 1
        elif recorded.outcome is Outcome.ANSWERED and message.text != recorded.answer_text:
            self._counts["texts_differ"] += 1


def _figures(
    outcomes: Counter[str],
    *,
    uplink_bytes: int,
    latent_bytes: int,
    opens: int,
    refines: int,
    latents: Sequence[int],
    delays_s: Sequence[float],
    texts_differ: int = 0,
    texts_unknown: int = 0,
    not_asked: int = 0,
) -> Figures:
    p50, p95, p99 = np.percentile(delays_s, [50, 95, 99]) * 1000 if delays_s else (None, None, None)
    return Figures(
        queries=outcomes.total(),
        not_asked=not_asked,
        outcomes={str(outcome): count for outcome, count in sorted(outcomes.items()) if count},
        uplink_bytes=uplink_bytes,
        latent_bytes=latent_bytes,
        opens=opens,
        refines=refines,
        mean_latents=round(float(np.mean(latents)), 2) if latents else None,
        answer_ms_p50=_rounded(p50),
        answer_ms_p95=_rounded(p95),
        answer_ms_p99=_rounded(p99),
        texts_differ=texts_differ,
        texts_unknown=texts_unknown,
    )


def _rounded(value_ms: float | None) -> float | None:
    return None if value_ms is None else round(float(value_ms), 1)
