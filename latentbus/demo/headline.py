"""What a run shows while it goes on, in lines that stay: answers with their bytes, and each answer that was refined."""

from __future__ import annotations

from typing import Final

from latentbus.demo.ledger import DemoLedger
from latentbus.fleet.ledger import Entry
from schemas.counting import counted
from schemas.types import Outcome

FIRST_ANSWERS: Final = 4
"""Answers that are shown as soon as they come."""
MAX_REFINEMENTS: Final = 8
"""Refined answers that are shown; a long run has thousands."""


class Headline:
    """Picks what is worth a line, each once.

    Args:
        ledger: of the run.
        texts: questions by id.

    Attributes:
        latest_refinement: the last refined answer, as a line; empty until there is one.
    """

    def __init__(self, ledger: DemoLedger, texts: dict[str, str]) -> None:
        self.latest_refinement = ""
        self._ledger = ledger
        self._texts = texts
        self._seen: set[str] = set()
        self._answers = 0
        self._refinements = 0

    def lines(self, *, always: bool = False) -> list[str]:
        """Lines that are new.

        Args:
            always: one plain answer more than the first few, if there is a new one.
        """
        found: list[str] = []
        for row in self._ledger.opened:
            if row.outcome not in (Outcome.ANSWERED, Outcome.DEGRADED) or row.query_id in self._seen:
                continue
            self._seen.add(row.query_id)
            if row.refined:
                self.latest_refinement = self._refined(row)
                self._refinements += 1
                if self._refinements <= MAX_REFINEMENTS:
                    found.append(self.latest_refinement)
            elif self._answers < FIRST_ANSWERS or always:
                self._answers += 1
                always = False
                found.append(self._answered(row))
        return found

    def _answered(self, row: Entry) -> str:
        return (
            f"answer   {self._about(row)} -> {row.text or '-'}  ({counted(row.latents, 'latent')}, {self._costs(row)})"
        )

    def _refined(self, row: Entry) -> str:
        first_latents = 0 if row.first is None else row.first.latents
        first = f"{row.provisional_text or '-'} ({counted(first_latents, 'latent')})"
        return (
            f"refined  {self._about(row)} -> {first} -> {row.text or '-'}  "
            f"({counted(row.latents, 'latent')}, {self._costs(row)})"
        )

    def _about(self, row: Entry) -> str:
        return f"{row.camera}: {self._texts.get(row.question_id, row.question_id)}"

    def _costs(self, row: Entry) -> str:
        frame = self._ledger.frame_of(row)
        took_ms = 0.0 if row.decided_s is None else 1000 * (row.decided_s - frame.captured_s)
        return f"{counted(frame.wire_bytes, 'byte')} for the frame, {took_ms:.0f} ms"
