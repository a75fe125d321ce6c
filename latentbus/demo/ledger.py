"""What happened to every query of a run, from two independent sources.

The edge's frame log says which queries there are and what the uplink carried; the broker's answer and outcome topics
say how they ended. A query that only one of the two knows is visible as such.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from pipeline.protocol.reducer import OutcomeReducer
from schemas.messages import Answer, QueryOutcome
from schemas.types import Outcome


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


@dataclass(slots=True)
class QueryRow:
    """A query.

    Attributes:
        query_id: its key.
        camera: its camera.
        frame: its frame, as text.
        question_id: what was asked.
        opened: the edge says that it exists.
        provisional: latest provisional answer.
        text: terminal answer, empty when there is none.
        outcome: how it ended; None while it has not.
        reason: why, where the outcome needs a reason.
        latents: length of the prefix that the latest answer was read from.
        first_latents: length of the prefix of its first answer.
        looks: how many prefixes its worker had read by then.
        worker: who answered.
        first_s: when the first answer came, provisional or not; this host's monotonic clock.
        final_s: when the terminal outcome came.
    """

    query_id: str
    camera: str = ""
    frame: str = ""
    question_id: str = ""
    opened: bool = False
    provisional: str = ""
    text: str = ""
    outcome: Outcome | None = None
    reason: str = ""
    latents: int = 0
    first_latents: int = 0
    looks: int = 0
    worker: str = ""
    first_s: float | None = None
    final_s: float | None = None


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


@dataclass(slots=True)
class Ledger:
    """Books of a run.

    Attributes:
        frames: every frame, by camera and frame id.
        queries: every query, by its key.
        wire_bytes: all bytes that the uplink was charged.
        payload_bytes: latents among them.
    """

    frames: dict[tuple[str, str], FrameRow] = field(default_factory=dict)
    queries: dict[str, QueryRow] = field(default_factory=dict)
    wire_bytes: int = 0
    payload_bytes: int = 0
    _reducer: OutcomeReducer = field(default_factory=OutcomeReducer)

    def frame_opened(
        self, camera: str, frame: str, *, index: int, captured_s: float, question_ids: dict[str, str]
    ) -> None:
        """The edge opened a frame.

        Args:
            camera: its camera.
            frame: its id.
            index: its number in the source.
            captured_s: when it was captured.
            question_ids: question id of each of its queries, by query id.
        """
        row = self._frame(camera, frame)
        row.index, row.captured_s = index, captured_s
        for query_id, question_id in question_ids.items():
            query = self._query(query_id)
            query.camera, query.frame, query.question_id, query.opened = camera, frame, question_id, True

    def sent(self, camera: str | None, frame: str | None, *, wire_bytes: int, payload_bytes: int) -> None:
        """The uplink carried a message; camera and frame are None where it belongs to none."""
        self.wire_bytes += wire_bytes
        self.payload_bytes += payload_bytes
        if camera is not None and frame is not None:
            row = self._frame(camera, frame)
            row.wire_bytes += wire_bytes
            row.payload_bytes += payload_bytes

    def received(self, message: Answer | QueryOutcome, now_s: float) -> QueryRow:
        """An answer or outcome came from the broker.

        Args:
            message: it.
            now_s: time of arrival, this host's monotonic clock.

        Returns:
            The query that it is about.
        """
        row = self._query(message.query_id)
        decided = self._reducer.observe(message)
        if not row.camera:
            row.camera, row.frame, row.question_id = message.camera, str(message.frame), message.question_id
        if row.outcome is not None:
            return row
        if isinstance(message, Answer) and (message.outcome is None or decided is not None):
            row.latents, row.looks, row.worker = message.latents, message.looks, message.worker
            row.first_latents = row.first_latents or message.latents
            if message.outcome is None:
                row.provisional = message.text
            if row.first_s is None and message.outcome is not Outcome.FAILED:
                row.first_s = now_s
        if decided is not None:
            row.outcome, row.text, row.final_s, row.reason = decided.outcome, decided.text, now_s, message.reason
        return row

    def opened_queries(self) -> list[QueryRow]:
        """Every query that the edge opened."""
        return [row for row in self.queries.values() if row.opened]

    def undecided(self) -> int:
        """Queries of the edge without a terminal outcome."""
        return sum(row.outcome is None for row in self.opened_queries())

    def figures(self) -> Figures:
        """Figures of the run so far."""
        rows = self.opened_queries()
        answered = [row for row in rows if row.outcome in (Outcome.ANSWERED, Outcome.DEGRADED)]
        first_ms = [1000 * (row.first_s - self._captured_s(row)) for row in rows if row.first_s is not None]
        final_ms = [1000 * (row.final_s - self._captured_s(row)) for row in answered if row.final_s is not None]
        frame_wire_bytes = sum(frame.wire_bytes for frame in self.frames.values())

        def per_question(total: int) -> float | None:
            return total / len(rows) if rows else None

        return Figures(
            questions=len(rows),
            undecided=self.undecided(),
            outcomes={
                **dict.fromkeys(map(str, Outcome), 0),
                **Counter(str(row.outcome) for row in rows if row.outcome is not None),
            },
            refined_share=sum(row.looks > 1 for row in answered) / len(answered) if answered else None,
            payload_bytes_per_question=per_question(self.payload_bytes),
            uplink_wire_bytes_per_question=per_question(self.wire_bytes),
            frame_wire_bytes_per_question=per_question(frame_wire_bytes),
            first_answer_ms_p50=percentile(first_ms, 50),
            final_answer_ms_p50=percentile(final_ms, 50),
            final_answer_ms_p95=percentile(final_ms, 95),
            repeated_terminals=self._reducer.repeats,
            conflicting_terminals=self._reducer.conflicts,
            answers_by_worker=dict(Counter(row.worker for row in answered if row.worker)),
        )

    def _captured_s(self, row: QueryRow) -> float:
        return self.frames[row.camera, row.frame].captured_s

    def _frame(self, camera: str, frame: str) -> FrameRow:
        return self.frames.setdefault((camera, frame), FrameRow(camera))

    def _query(self, query_id: str) -> QueryRow:
        return self.queries.setdefault(query_id, QueryRow(query_id))


def percentile(values: list[float], percent: float) -> float | None:
    """A percentile, None of nothing."""
    return float(np.percentile(values, percent)) if values else None
