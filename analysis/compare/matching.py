"""Which query of one log is which of another: by its id, by the maps of a replay, or by its place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from analysis.traces import QueryTrace
from analysis.traffic import Traffic
from schemas.identity import standing_query_id
from schemas.types import FrameId

REPLAY_METADATA = "replay"
"""Metadata record that a replay writes into its own log: source, rate, and new names by recorded ones."""


@dataclass(frozen=True, slots=True)
class ReplayOrigin:
    """What a log that a replay wrote says about the log that was replayed.

    Attributes:
        source: the file that was replayed, empty where it is not said.
        rate: log seconds in a second; None is as fast as possible.
        boots: recorded boot ids of edges by those of the replay.
        query_ids: recorded keys of ad-hoc queries by those of the replay.
        cameras: recorded cameras by their names in the replay.
    """

    source: str = ""
    rate: float | None = 1.0
    boots: Mapping[int, int] = field(default_factory=dict)
    query_ids: Mapping[str, str] = field(default_factory=dict)
    cameras: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, metadata: Mapping[str, Mapping[str, str]]) -> Self | None:
        """What the metadata of a log says; None for a log that no replay wrote.

        Raises:
            ValueError: the record is damaged.
        """
        record = metadata.get(REPLAY_METADATA)
        if record is None:
            return None
        rate = record.get("rate", "1")
        return cls(
            source=record.get("source", ""),
            rate=None if rate == "fast" else float(rate),
            boots={int(new, 16): int(old, 16) for new, old in _inverse(record, "boots").items()},
            query_ids=_inverse(record, "query_ids"),
            cameras=_inverse(record, "cameras"),
        )

    def recorded_id(self, query: QueryTrace) -> str:
        """Id that a query of the replay has in the log that was replayed."""
        if query.ad_hoc:
            return self.query_ids.get(query.query_id, query.query_id)
        frame = FrameId(self.boots.get(query.frame.boot, query.frame.boot), query.frame.sequence)
        return standing_query_id(self.cameras.get(query.camera, query.camera), frame, query.question_id)


def _inverse(record: Mapping[str, str], key: str) -> dict[str, str]:
    names: Any = json.loads(record.get(key, "{}"))
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{key} is no JSON object of names")
    return {new: old for old, new in names.items()}


class MatchedBy(StrEnum):
    """How the queries of two logs were brought together."""

    QUERY_ID = "query id"
    """The same ids: two logs of one run."""
    REPLAY = "names of the replay"
    """Ids in the log that was replayed; one of the two logs is the replay, or both are replays of a third."""
    PLACE = "place"
    """Camera, number of the frame within it, and question: two runs that know nothing of each other."""


@dataclass(frozen=True, slots=True)
class Matched:
    """Queries of two logs side by side.

    Attributes:
        by: how they were brought together.
        pairs: queries that are in both.
        only_a: queries that only the first log has.
        only_b: queries that only the second log has.
    """

    by: MatchedBy
    pairs: list[tuple[QueryTrace, QueryTrace]]
    only_a: list[QueryTrace]
    only_b: list[QueryTrace]


Keys = Callable[[Traffic], dict[object, QueryTrace]]


def match_queries(a: Traffic, b: Traffic, origin_a: ReplayOrigin | None, origin_b: ReplayOrigin | None) -> Matched:
    """Bring the queries of two logs together.

    Ids go before places: of all ways to read the ids the one with the most pairs counts, and only where no id is in
    both logs the places do.

    Args:
        a: the first log.
        b: the second one.
        origin_a: what the first one says about the log that it replays.
        origin_b: the same of the second one.
    """
    ways: list[tuple[MatchedBy, Keys, Keys]] = [(MatchedBy.QUERY_ID, _by_id, _by_id)]
    if origin_b is not None:
        ways.append((MatchedBy.REPLAY, _by_id, _by_origin(origin_b)))
    if origin_a is not None:
        ways.append((MatchedBy.REPLAY, _by_origin(origin_a), _by_id))
    if origin_a is not None and origin_b is not None:
        ways.append((MatchedBy.REPLAY, _by_origin(origin_a), _by_origin(origin_b)))
    best = max((_join(by, keys_a(a), keys_b(b)) for by, keys_a, keys_b in ways), key=lambda matched: len(matched.pairs))
    return best if best.pairs else _join(MatchedBy.PLACE, _by_place(a), _by_place(b))


def _join(by: MatchedBy, a: Mapping[object, QueryTrace], b: Mapping[object, QueryTrace]) -> Matched:
    return Matched(
        by,
        pairs=[(query, b[key]) for key, query in a.items() if key in b],
        only_a=[query for key, query in a.items() if key not in b],
        only_b=[query for key, query in b.items() if key not in a],
    )


def _by_id(traffic: Traffic) -> dict[object, QueryTrace]:
    return {query.query_id: query for query in traffic.queries.values()}


def _by_origin(origin: ReplayOrigin) -> Keys:
    return lambda traffic: {origin.recorded_id(query): query for query in traffic.queries.values()}


def _by_place(traffic: Traffic) -> dict[object, QueryTrace]:
    """Queries by camera, number of the frame within it, and question; ad-hoc ones by camera, text and number."""
    numbers: dict[tuple[str, FrameId], int] = {}
    frames: Counter[str] = Counter()
    asked: Counter[tuple[str, str | None]] = Counter()
    found: dict[object, QueryTrace] = {}
    for query in sorted(traffic.queries.values(), key=lambda query: query.asked_ns):
        if query.ad_hoc:
            same = (query.camera, query.text)
            asked[same] += 1
            found["ad hoc", *same, asked[same]] = query
            continue
        frame = (query.camera, query.frame)
        if frame not in numbers:
            frames[query.camera] += 1
            numbers[frame] = frames[query.camera]
        found[query.camera, numbers[frame], query.question_id] = query
    return found
