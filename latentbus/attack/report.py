"""What a run of attacks found, as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from analysis import markdown
from latentbus.attack.ledger import Verdict
from latentbus.reports.output_files import write_json
from schemas.counting import counted

MIB: Final = 1024 * 1024
MEMORY_BOUND_BYTES: Final[dict[str, int]] = {"broker": 192 * MIB, "edge": 96 * MIB, "worker": 192 * MIB}
"""How much a process may have grown after an attack. Caches fill, allocators keep what they had (150 MiB for the first
prompts as long as the bundled model reads, and no more for later ones), and the broker may keep for one slow client
what its limits allow (:mod:`broker_config.limits`)."""


@dataclass(frozen=True, slots=True)
class AttackResult:
    """What one attack did.

    Attributes:
        name: of the attack.
        group: part of the threat list: identity, poison or bounds.
        taken: publishes, subscriptions and connections that the broker took.
        refused: those that it refused.
        broken: those that met a broken connection.
        verdicts: what the bystanders got meanwhile.
        before_bytes: resident memory before, by kind of process.
        after_bytes: resident memory after.
        seconds: how long it took, until the bystanders had all their answers.
        problems: what got through, in words; nothing when nothing did.
        notes: what else is worth a word.
    """

    name: str
    group: str
    taken: int
    refused: int
    broken: int
    verdicts: dict[str, int]
    before_bytes: dict[str, int]
    after_bytes: dict[str, int]
    seconds: float
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class AttackReport:
    """All results of a run.

    Attributes:
        results: one an attack.
        steady: questions that had one answer in the calm; only these tell right from wrong.
        seed: of the run.
        interrupted: stopped before its end.
    """

    steady: int
    seed: int
    results: list[AttackResult] = field(default_factory=list)
    interrupted: bool = False

    @property
    def exit_status(self) -> int:
        """1 when an attack got through."""
        return 1 if any(result.problems for result in self.results) else 0

    def write_json(self, path: Path) -> None:
        """Write every figure.

        Raises:
            ConfigError: the file cannot be written.
        """
        write_json(path, asdict(self))

    def as_markdown(self) -> str:
        """The table, what the columns are, and what got through."""
        rows = [
            (
                f"`{result.name}`",
                *(f"{count:,}" for count in (result.taken, result.refused)),
                *(f"{result.verdicts.get(verdict, 0):,}" for verdict in Verdict),
                *(memory_text(result, kind) for kind in MEMORY_BOUND_BYTES),
                f"{result.seconds:.0f}",
            )
            for result in self.results
        ]
        problems = [
            f"- `{result.name}` got through: {problem}" for result in self.results for problem in result.problems
        ]
        return "\n\n".join(
            (
                markdown.table(("attack", "taken", "refused", *Verdict, *MEMORY_BOUND_BYTES, "s"), rows),
                "Memory is resident, in MiB before and after: of the broker, the larger edge and the larger worker.",
                "\n".join(problems) or "Every attack was held.",
            )
        )

    def print(self, console: Console) -> None:
        """Print the table, and what got through."""
        table = Table(box=None, pad_edge=False)
        for column in ("attack", "of", "taken", "refused", *Verdict, "broker", "edge", "worker", "seconds", ""):
            table.add_column(column, justify="left" if column in {"attack", "of", ""} else "right")
        for result in self.results:
            table.add_row(
                result.name,
                result.group,
                str(result.taken),
                str(result.refused),
                *(str(result.verdicts.get(verdict, 0)) for verdict in Verdict),
                *(memory_text(result, kind) for kind in MEMORY_BOUND_BYTES),
                f"{result.seconds:.0f}",
                "GOT THROUGH" if result.problems else "held",
            )
        console.print(table)
        console.print("Memory is resident, in MiB before and after: of the broker, the larger edge, the larger worker.")
        for result in self.results:
            for problem in result.problems:
                console.print(f"{result.name}: {problem}")


def memory_text(result: AttackResult, kind: str) -> str:
    """Memory before and after, for people."""
    return f"{result.before_bytes[kind] / MIB:.0f}-{result.after_bytes[kind] / MIB:.0f}"


def problems_of(
    verdicts: dict[str, int], foreign: list[str], before_bytes: dict[str, int], after_bytes: dict[str, int]
) -> list[str]:
    """What of the outcome of an attack means that it got through.

    Args:
        verdicts: what bystanders got.
        foreign: foreign messages, in words.
        before_bytes: memory before, by kind of process.
        after_bytes: memory after.
    """
    found = []
    if wrong := verdicts.get(Verdict.WRONG, 0):
        found.append(f"wrong: {counted(wrong, 'answer')} of bystanders")
    if foreign:
        found.append(f"{counted(len(foreign), 'message')} reached somebody else: {foreign[0]}")
    if late := verdicts.get(Verdict.LATE, 0):
        found.append(f"not answered in time: {counted(late, 'question')} of bystanders")
    if not verdicts.get(Verdict.RIGHT, 0):
        found.append("no bystander was answered")
    for kind, bound_bytes in MEMORY_BOUND_BYTES.items():
        grown_bytes = after_bytes[kind] - before_bytes[kind]
        if grown_bytes > bound_bytes:
            found.append(f"the {kind} kept {grown_bytes / MIB:.0f} MiB more than before")
    return found
