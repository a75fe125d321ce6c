"""Ledger of a demo, from two independent sources.

The edge's frame log says which queries there are and what the uplink carried; the broker's answer and outcome topics
say how they ended. A query that only one of the two knows is visible as such.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from latentbus.fleet.frame_log import FrameLogReader
from latentbus.fleet.ledger import Entry, OutcomeLedger, percentile
from schemas.identity import standing_query_id
from schemas.types import FrameId, Outcome


@dataclass(slots=True)
class FrameRow:
    """A frame that the edge opened.

    Attributes:
        camera: its camera.
        index: number of the frame in its source.
        captured_s: when it was captured, on this host's monotonic clock.
        wire_bytes: bytes that it put on the uplink so far.
        payload_bytes: latents among them.
    """

    camera: str
    index: int = -1
    captured_s: float = 0.0
    wire_bytes: int = 0
    payload_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a run.

    Attributes:
        questions: queries that the edge opened.
        undecided: those without a terminal outcome.
        outcomes: number of queries by terminal outcome.
        refined_share: share of answered and degraded queries that were read from more than the first prefix.
        payload_bytes_per_question: latents on the uplink for each query.
        uplink_wire_bytes_per_question: all bytes on the uplink for each query, status and acknowledgements included.
        frame_wire_bytes_per_question: those of frames alone (open messages and chunks).
        first_answer_ms_p50: median time from capture to first answer.
        final_answer_ms_p50: median time from capture to terminal answer.
        final_answer_ms_p95: 95th percentile of that.
        repeated_terminals: terminals that came again, and were counted once.
        conflicting_terminals: terminals that came again and said something else; the first one stands.
        answers_by_worker: terminal answers of each worker.
    """

    questions: int
    undecided: int
    outcomes: dict[str, int]
    refined_share: float | None
    payload_bytes_per_question: float | None
    uplink_wire_bytes_per_question: float | None
    frame_wire_bytes_per_question: float | None
    first_answer_ms_p50: float | None
    final_answer_ms_p50: float | None
    final_answer_ms_p95: float | None
    repeated_terminals: int
    conflicting_terminals: int
    answers_by_worker: dict[str, int]


class DemoLedger(OutcomeLedger):
    """Queries, frames and bytes of a run.

    Attributes:
        frames: every frame, by camera and frame id.
        wire_bytes: all bytes that the uplink was charged.
        payload_bytes: latents among them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frames: dict[tuple[str, FrameId], FrameRow] = {}
        self.wire_bytes = 0
        self.payload_bytes = 0

    @property
    def opened(self) -> list[Entry]:
        """Every query that the edge opened."""
        return [entry for entry in self.entries.values() if entry.asked_s is not None]

    @property
    def unfinished(self) -> list[Entry]:
        """Queries of the edge without a terminal outcome."""
        return [entry for entry in self.undecided.values() if entry.asked_s is not None]

    def frame_of(self, entry: Entry) -> FrameRow:
        """The frame of a query.

        Raises:
            AssertionError: the query has none yet.
        """
        if entry.frame is None:
            raise AssertionError(f"no frame was opened for {entry.query_id}")
        return self.frames[entry.camera, entry.frame]

    def read(self, log: FrameLogReader) -> None:
        """Take in what the edge wrote to its frame log since the last call."""
        for record in log.new_records():
            match record:
                case {"kind": "frame", "camera": camera, "frame": frame, "query_ids": query_ids}:
                    index, captured_s = record["index"], record["captured_s"]
                    self.frame_opened(camera, frame, index=index, captured_s=captured_s, query_ids=query_ids)
                case {"kind": "sent", "wire_bytes": wire_bytes, "latent_bytes": payload_bytes}:
                    self.sent(record["camera"], record["frame"], wire_bytes=wire_bytes, payload_bytes=payload_bytes)

    def frame_opened(self, camera: str, frame: FrameId, *, index: int, captured_s: float, query_ids: list[str]) -> None:
        """The edge opened a frame.

        Args:
            camera: its camera.
            frame: its id.
            index: its number in the source.
            captured_s: when it was captured.
            query_ids: its queries.
        """
        row = self._frame(camera, frame)
        row.index, row.captured_s = index, captured_s
        for query_id in query_ids:
            # The key of a standing query ends in its question; an ad-hoc one is its own question.
            question_id = query_id.rsplit("/", 1)[-1]
            ad_hoc = query_id != standing_query_id(camera, frame, question_id)
            self.asked(query_id, camera, question_id, ad_hoc=ad_hoc, asked_s=captured_s).frame = frame

    def sent(self, camera: str | None, frame: FrameId | None, *, wire_bytes: int, payload_bytes: int) -> None:
        """The uplink carried a message; camera and frame are None where it belongs to none."""
        self.wire_bytes += wire_bytes
        self.payload_bytes += payload_bytes
        if camera is not None and frame is not None:
            row = self._frame(camera, frame)
            row.wire_bytes += wire_bytes
            row.payload_bytes += payload_bytes

    def figures(self) -> Figures:
        """Figures of the run so far."""
        entries = self.opened
        answered = [entry for entry in entries if entry.outcome in (Outcome.ANSWERED, Outcome.DEGRADED)]
        first_ms = _delays_ms((entry.asked_s, entry.first_s) for entry in entries)
        final_ms = _delays_ms((entry.asked_s, entry.decided_s) for entry in answered)
        workers = Counter(entry.answer.worker for entry in answered if entry.answer is not None)
        outcomes = Counter(entry.outcome for entry in entries)

        def per_question(total: int) -> float | None:
            return total / len(entries) if entries else None

        return Figures(
            questions=len(entries),
            undecided=len(self.unfinished),
            outcomes={str(outcome): outcomes[outcome] for outcome in Outcome},
            refined_share=sum(entry.refined for entry in answered) / len(answered) if answered else None,
            payload_bytes_per_question=per_question(self.payload_bytes),
            uplink_wire_bytes_per_question=per_question(self.wire_bytes),
            frame_wire_bytes_per_question=per_question(sum(frame.wire_bytes for frame in self.frames.values())),
            first_answer_ms_p50=percentile(first_ms, 50),
            final_answer_ms_p50=percentile(final_ms, 50),
            final_answer_ms_p95=percentile(final_ms, 95),
            repeated_terminals=self.reducer.repeats,
            conflicting_terminals=self.reducer.conflicts,
            answers_by_worker=dict(workers),
        )

    def _frame(self, camera: str, frame: FrameId) -> FrameRow:
        return self.frames.setdefault((camera, frame), FrameRow(camera))


def _delays_ms(spans_s: Iterable[tuple[float | None, float | None]]) -> list[float]:
    """Length of each span that has begun and ended."""
    return [1000 * (end_s - begin_s) for begin_s, end_s in spans_s if begin_s is not None and end_s is not None]
