"""Whether everything that edges asked in a soak has an end, and whether they came to rest."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from prometheus_client.parser import text_string_to_metric_families

from schemas.messages import Answer, QueryOutcome

_TIMEOUT_S: Final = 5.0


class EndsRead:
    """Keeps every query that a reader saw end in a file, so that its own memory stays as it is.

    Args:
        path: the file, one query a line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO = path.open("w", encoding="utf-8")

    def note(self, message: Answer | QueryOutcome) -> None:
        """A message was read."""
        if message.outcome is not None:
            self._file.write(f"{message.query_id}\n")

    def read(self) -> set[str]:
        """All of them; nothing more is noted."""
        self._file.close()
        return set(self._path.read_text(encoding="utf-8").split())


@dataclass(slots=True)
class Ends:
    """What edges asked, by their frame logs, and what became of it.

    Attributes:
        asked: queries of live frames.
        history: queries of frames that were stored without a link.
        unfinished: queries of live frames that their edge never ended.
        ended_twice: queries that it ended more than once.
        unread: queries that it ended and that the reader saw no end of.
    """

    asked: int = 0
    history: int = 0
    unfinished: int = 0
    ended_twice: int = 0
    unread: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, frame_logs: Iterable[Path], read: set[str]) -> Ends:
        """Compare frame logs with what a reader saw.

        Args:
            frame_logs: of all edges, which have ended.
            read: queries that the reader saw end.
        """
        ends = cls()
        for path in frame_logs:
            asked: set[str] = set()
            ended: Counter[str] = Counter()
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    entry = json.loads(line)
                    if entry["kind"] == "frame":
                        asked.update(entry["query_ids"])
                    elif entry["kind"] == "ended":
                        ended[entry["query_id"]] += 1
            ends.asked += len(asked)
            ends.history += len(ended.keys() - asked)
            ends.unfinished += len(asked - ended.keys())
            ends.ended_twice += sum(count > 1 for count in ended.values())
            ends.unread += sorted(ended.keys() - read)
        return ends


@dataclass(frozen=True, slots=True)
class AtRest:
    """What an edge says of itself when all faults are over.

    Attributes:
        connected: it has its link.
        cameras: of its site.
        sources_running: cameras that show frames.
        stored_frames: frames that still wait for a link.
        store: what became of stored frames, by kind.
        source_problems: what went wrong at cameras, by kind.
    """

    connected: bool
    cameras: int
    sources_running: int
    stored_frames: int
    store: dict[str, int]
    source_problems: dict[str, int]

    @property
    def stuck(self) -> bool:
        """Something did not come back."""
        return not self.connected or self.sources_running < self.cameras or self.stored_frames > 0

    @classmethod
    def of(cls, port: int) -> AtRest:
        """Read the metrics of an edge; blocking.

        Args:
            port: where it serves them.
        """
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_TIMEOUT_S) as reply:
            text = reply.read().decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        states = [sample for sample in samples if sample.name == "latentbus_source_state"]
        problems: Counter[str] = Counter()
        for sample in samples:
            if sample.name == "latentbus_source_problems_total":
                problems[sample.labels["kind"]] += round(sample.value)
        value = {sample.name: sample.value for sample in samples if not sample.labels}
        return cls(
            connected=bool(value["latentbus_connected"]),
            cameras=len({sample.labels["camera"] for sample in states}),
            sources_running=sum(sample.value == 1 and sample.labels["state"] == "running" for sample in states),
            stored_frames=round(value["latentbus_stored_frames"]),
            store={
                sample.labels["kind"]: round(sample.value)
                for sample in samples
                if sample.name == "latentbus_frame_store_events_total"
            },
            source_problems=dict(problems),
        )
