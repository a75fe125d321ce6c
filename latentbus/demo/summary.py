"""The end of a demo: figures for a person and for a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from latentbus.demo.ledger import Figures
from latentbus.reports.output_files import write_json
from schemas.counting import counted
from schemas.types import Outcome


@dataclass(frozen=True, slots=True)
class Row:
    """One way of asking the same questions about the same frames.

    Attributes:
        name: what it is.
        accuracy: share of true answers where the truth is known.
        agreement: share of answers that equal those from uncompressed tokens.
        payload_bytes_per_frame: latents or image file.
        wire_bytes_per_frame: everything that the frame put on the uplink.
        wire_bytes_per_question: the same for each question.
    """

    name: str
    accuracy: float | None
    agreement: float | None
    payload_bytes_per_frame: float
    wire_bytes_per_frame: float
    wire_bytes_per_question: float


@dataclass(frozen=True, slots=True)
class Rows:
    """The ways side by side.

    Attributes:
        rows: one for each way, the run itself first.
        accuracy_uncompressed: of the same questions, tokens not compressed.
        compared_frames: number of distinct frames behind the rows.
        image_note: why there is no row for image files, empty when there is.
    """

    rows: tuple[Row, ...] = ()
    accuracy_uncompressed: float | None = None
    compared_frames: int = 0
    image_note: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that a run found out.

    Attributes:
        figures: of the run itself.
        accuracy: of the run's answers, where the truth is known.
        scored: number of those answers.
        comparison: the ways side by side, from the same frames.
        duration_s: time that frames were taken.
        uplink_kbps: limit of the uplink.
    """

    figures: Figures
    accuracy: float | None
    scored: int
    comparison: Rows
    duration_s: float
    uplink_kbps: float

    @property
    def exit_status(self) -> int:
        """0 only when there were questions, each reached its one terminal outcome, and none failed or expired."""
        bad = self.figures.outcomes[Outcome.FAILED] + self.figures.outcomes[Outcome.EXPIRED]
        return 0 if self.figures.questions and not self.figures.undecided and not bad else 1

    def to_json(self) -> dict[str, Any]:
        """Every figure; the keys are documented in docs/operations.md."""
        figures = self.figures
        return {
            "questions": figures.questions,
            "answered": figures.outcomes[Outcome.ANSWERED],
            "degraded": figures.outcomes[Outcome.DEGRADED],
            "failed": figures.outcomes[Outcome.FAILED],
            "expired": figures.outcomes[Outcome.EXPIRED],
            "superseded": figures.outcomes[Outcome.SUPERSEDED],
            "undecided": figures.undecided,
            "accuracy": self.accuracy,
            "accuracy_uncompressed": self.comparison.accuracy_uncompressed,
            "scored": self.scored,
            "payload_bytes_per_question": figures.payload_bytes_per_question,
            "uplink_wire_bytes_per_question": figures.uplink_wire_bytes_per_question,
            "frame_wire_bytes_per_question": figures.frame_wire_bytes_per_question,
            "refined_share": figures.refined_share,
            "first_answer_ms_p50": figures.first_answer_ms_p50,
            "final_answer_ms_p50": figures.final_answer_ms_p50,
            "final_answer_ms_p95": figures.final_answer_ms_p95,
            "repeated_terminals": figures.repeated_terminals,
            "conflicting_terminals": figures.conflicting_terminals,
            "answers_by_worker": figures.answers_by_worker,
            "duration_s": self.duration_s,
            "uplink_kbps": self.uplink_kbps,
            "rows": [asdict(row) for row in self.comparison.rows],
            "compared_frames": self.comparison.compared_frames,
            "image_note": self.comparison.image_note,
        }

    def write_json(self, path: Path) -> None:
        """Write :meth:`to_json` to a file, numbers as measured.

        Raises:
            ConfigError: it cannot be written.
        """
        write_json(path, self.to_json())

    def print(self, console: Console) -> None:
        """Show the figures to a person."""
        figures, outcomes = self.figures, self.figures.outcomes
        shown = ", ".join(f"{count} {name}" for name, count in outcomes.items() if count)
        undecided = f", {figures.undecided} WITHOUT OUTCOME" if figures.undecided else ""
        workers = ", ".join(f"{name} {count}" for name, count in sorted(figures.answers_by_worker.items()))
        console.print(
            f"\n[bold]{counted(figures.questions, 'question')} in {self.duration_s:.0f} s[/]: {shown}{undecided}"
        )
        console.print(
            f"accuracy {_percent(self.accuracy)} of {counted(self.scored, 'answer')} with known truth, "
            f"uncompressed tokens {_percent(self.comparison.accuracy_uncompressed)}; "
            f"refined {_percent(figures.refined_share)}"
        )
        console.print(
            f"first answer {_number(figures.first_answer_ms_p50)} ms (median), "
            f"final answer {_number(figures.final_answer_ms_p50)} ms (median), "
            f"{_number(figures.final_answer_ms_p95)} ms (95 %)"
        )
        console.print(
            f"uplink {_number(figures.uplink_wire_bytes_per_question)} bytes on the wire a question, "
            f"{_number(figures.payload_bytes_per_question)} of them latents; limit {self.uplink_kbps:g} kbps"
        )
        console.print(f"answers by worker: {workers or 'none'}")
        comparison = self.comparison
        if not comparison.rows:
            return
        title = f"The same questions about the same {comparison.compared_frames} frames"
        table = Table(title=title, title_justify="left")
        table.add_column("", no_wrap=True)
        for column in ("accuracy", "as uncompr.", "payload B/frame", "wire B/frame", "wire B/question", "uplink ms"):
            table.add_column(column, justify="right")
        for row in comparison.rows:
            table.add_row(
                row.name,
                _percent(row.accuracy),
                _percent(row.agreement),
                _number(row.payload_bytes_per_frame),
                _number(row.wire_bytes_per_frame),
                _number(row.wire_bytes_per_question),
                # A byte takes eight bits, and a kilobit a second is a bit a millisecond.
                _number(row.wire_bytes_per_frame * 8 / self.uplink_kbps),
            )
        console.print(table)
        if comparison.image_note:
            console.print(comparison.image_note)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
