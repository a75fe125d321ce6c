"""What a run of attacks is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAMES: Final = (
    "capture", "same-ids", "foreign-replies", "forbidden-topics", "camera-claim", "deletion", "expiry", "malformed",
    "version-1", "busy-storm", "text-flood", "flood", "burst", "long-questions", "correlation", "properties",
    "retained", "connections",
)  # fmt: skip
"""Names of the attacks, here since --help, which is to be quick, shows them."""


@dataclass(frozen=True, slots=True)
class AttackOptions:
    """Options of ``latentbus attack``.

    Attributes:
        short: fewer messages of each kind, for a test run.
        only: names of the attacks to run; empty runs all.
        seed: of everything that is drawn.
        deadline_s: of the questions that bystanders ask.
        json_file: where the report is written.
        work_dir: the fleet's folder, settings, logs.
    """

    short: bool = False
    only: tuple[str, ...] = ()
    seed: int = 0
    deadline_s: float = 15.0
    json_file: Path | None = None
    work_dir: Path = Path(".attack")

    def count(self, full: int, short: int) -> int:
        """How many messages an attack sends."""
        return short if self.short else full
