"""What an edge process says about its own queries, from its frame log, see :mod:`edge_nodes.frame_log`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from schemas.identity import standing_query_id
from schemas.types import FrameId


@dataclass(frozen=True, slots=True)
class LoggedQuery:
    """A query as its edge logged it.

    Attributes:
        query_id: its key.
        camera: its camera.
        frame: its frame.
        ad_hoc: brought by a client.
        asked_s: when its frame was captured, on this host's monotonic clock.
    """

    query_id: str
    camera: str
    frame: FrameId
    ad_hoc: bool
    asked_s: float


@dataclass(frozen=True, slots=True)
class EdgeLog:
    """Frame log of one edge process.

    Attributes:
        asked: its queries by id.
        ended_s: when it knew the outcome of each query.
    """

    asked: dict[str, LoggedQuery] = field(default_factory=dict)
    ended_s: dict[str, float] = field(default_factory=dict)


def read_edge_log(path: Path) -> EdgeLog:
    """Read a frame log; one that was never begun is empty, and the half line of a killed process is left out."""
    log = EdgeLog()
    if not path.is_file():
        return log
    written = path.read_bytes()
    for line in written[: written.rfind(b"\n") + 1].splitlines():
        record = json.loads(line)
        if record["kind"] == "frame":
            boot, _, sequence = record["frame"].partition("-")
            frame = FrameId(int(boot, 16), int(sequence))
            for query_id in record["query_ids"]:
                question_id = query_id.rsplit("/", 1)[-1]
                ad_hoc = query_id != standing_query_id(record["camera"], frame, question_id)
                log.asked[query_id] = LoggedQuery(query_id, record["camera"], frame, ad_hoc, record["captured_s"])
        elif record["kind"] == "ended":
            log.ended_s[record["query_id"]] = record["at_s"]
    return log
