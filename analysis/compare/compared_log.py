"""One of two logs that are compared: what it is, and what it cost. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from analysis.compare.matching import ReplayOrigin
from analysis.traces import FrameTrace, QueryTrace
from analysis.traffic import Traffic
from schemas.errors import RecordingError
from schemas.types import Outcome

WITH_ANSWER: Final = frozenset({Outcome.ANSWERED, Outcome.DEGRADED})
UNDECIDED: Final = "undecided"
"""Stands for the outcome of a query that has none in the log."""


@dataclass(frozen=True, slots=True)
class ComparedLog:
    """One of the two logs.

    Attributes:
        name: file or folder, for people.
        traffic: what its messages amount to.
        metadata: its metadata records.
        complete: it was closed well.
        missing_messages: messages that its recorder had to drop.
        clocks: how the clocks of its recorders differ, in words.
    """

    name: str
    traffic: Traffic
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    complete: bool = True
    missing_messages: int = 0
    clocks: tuple[str, ...] = ()

    def origin(self) -> ReplayOrigin | None:
        """The log that it replays, None where it replays none.

        Raises:
            RecordingError: its record of that is damaged.
        """
        try:
            return ReplayOrigin.of(self.metadata)
        except ValueError as error:
            raise RecordingError(self.name, f"its metadata record 'replay' is damaged: {error}") from None


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Times of a set of queries in milliseconds, None of an empty set."""

    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, values_ms: Sequence[float]) -> Percentiles:
        """Percentiles of some times."""
        if not values_ms:
            return cls(None, None, None)
        return cls(*(float(value) for value in np.percentile(values_ms, [50, 95, 99])))


@dataclass(frozen=True, slots=True)
class SideFigures:
    """What one of the logs cost, over the queries and frames that both have.

    Attributes:
        name: file or folder.
        queries: queries of the whole log.
        messages: messages of the whole log that were understood.
        undecodable: messages of the whole log that were not.
        frames: frames of the compared queries.
        uplink_bytes: bytes on the wire that these frames put on the uplink.
        latent_bytes: coded latents among them.
        refined: queries that were read from more than the prefix that opened their frame.
        latents: mean length of the prefix behind the answers, None without answers.
        first_ms: time from the question to the first answer, provisional or not.
        final_ms: time from the question to the terminal answer.
        outcomes: compared queries by outcome.
        fingerprints: codecs that were named anywhere in the log.
        rate: rate of the replay that wrote the log, None for as fast as possible; 1 for a log of live traffic.
    """

    name: str
    queries: int
    messages: int
    undecodable: int
    frames: int
    uplink_bytes: int
    latent_bytes: int
    refined: int
    latents: float | None
    first_ms: Percentiles
    final_ms: Percentiles
    outcomes: dict[str, int]
    fingerprints: tuple[str, ...]
    rate: float | None


def side_figures(log: ComparedLog, queries: Sequence[QueryTrace], rate: float | None) -> SideFigures:
    """Figures of one of the logs.

    Args:
        log: the log.
        queries: its queries that are compared.
        rate: see :attr:`SideFigures.rate`.
    """
    traffic = log.traffic
    frames = {key: traffic.frames[key] for query in queries if (key := (query.camera, query.frame)) in traffic.frames}
    answered = [query for query in queries if has_answer(query)]
    return SideFigures(
        name=log.name,
        queries=len(traffic.queries),
        messages=traffic.messages.total(),
        undecodable=traffic.undecodable.total(),
        frames=len(frames),
        uplink_bytes=sum(frame.wire_bytes for frame in frames.values()),
        latent_bytes=sum(frame.latent_bytes for frame in frames.values()),
        refined=sum((query.latents or 0) > _base(frames.get((query.camera, query.frame))) for query in answered),
        latents=float(np.mean([query.latents for query in answered])) if answered else None,
        first_ms=Percentiles.of([value for query in queries if (value := _first_ms(query)) is not None]),
        final_ms=Percentiles.of([query.latency_ms for query in answered if query.latency_ms is not None]),
        outcomes=dict(sorted(Counter(outcome_name(query.outcome) for query in queries).items())),
        fingerprints=tuple(sorted(traffic.fingerprints)),
        rate=rate,
    )


def _base(frame: FrameTrace | None) -> int:
    """Latents of the first open message; without one nothing counts as refined."""
    return frame.opens[0][1].stop if frame is not None and frame.opens else 2**32


def _first_ms(query: QueryTrace) -> float | None:
    texts = (ns for ns, answer in query.answers if answer.outcome is None or answer.outcome in WITH_ANSWER)
    first_ns = min(texts, default=None)
    return None if first_ns is None else (first_ns - query.asked_ns) / 1e6


def has_answer(query: QueryTrace) -> bool:
    """Whether it ended with an answer."""
    return query.outcome in WITH_ANSWER


def outcome_name(outcome: Outcome | None) -> str:
    """Name of an outcome, also of none."""
    return UNDECIDED if outcome is None else outcome.value
