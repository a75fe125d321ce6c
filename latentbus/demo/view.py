"""What a person sees of a running demo: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latentbus.demo.cameras import DemoCamera, question_texts
from latentbus.demo.headline import Headline
from latentbus.demo.ledger import DemoLedger
from latentbus.demo.scoring import same_answer
from latentbus.fleet.ledger import Entry
from schemas.types import Outcome

_OUTCOME_STYLE = {
    Outcome.ANSWERED: "green",
    Outcome.DEGRADED: "yellow",
    Outcome.SUPERSEDED: "dim",
    Outcome.UNCHANGED: "dim",
    Outcome.EXPIRED: "red",
    Outcome.FAILED: "bold red",
}


@dataclass(frozen=True, slots=True)
class Heading:
    """The line above the table.

    Attributes:
        broker: host and port of the private broker.
        elapsed_s: time since the first frame could be taken.
        uplink_kbps: limit of the uplink.
        workers: workers that are up, of how many.
    """

    broker: str
    elapsed_s: float
    uplink_kbps: float
    workers: str

    def text(self, ledger: DemoLedger) -> str:
        """The heading with the state of the ledger."""
        rows = ledger.opened
        decided = sum(row.outcome is not None for row in rows)
        used_kbps = ledger.wire_bytes * 8 / 1000 / self.elapsed_s if self.elapsed_s > 0 else 0.0
        return (
            f"{self.elapsed_s:5.0f} s  {len(rows)} questions, {decided} decided  "
            f"uplink {used_kbps:.1f} of {self.uplink_kbps:g} kbps  workers {self.workers}  broker {self.broker}"
        )


def live_table(
    cameras: Iterable[DemoCamera], ledger: DemoLedger, heading: Heading, refinement: str = ""
) -> RenderableType:
    """One row for each camera and question, its latest query; below them the last answer that was refined."""
    latest: dict[tuple[str, str], Entry] = {}
    for row in ledger.opened:
        key = (row.camera, row.question_id)
        # A query with an answer says more than a newer one that has just begun.
        if key not in latest or row.first_s is not None or row.outcome is not None:
            latest[key] = row
    table = Table(expand=True, pad_edge=False)
    for title in ("camera", "question", "provisional", "answer", "truth"):
        table.add_column(title, no_wrap=True)
    for title in ("latents", "wire B", "first ms", "final ms"):
        table.add_column(title, justify="right", no_wrap=True)
    for camera in cameras:
        for number, (question_id, question) in enumerate(camera.questions.items()):
            shown = latest.get((camera.name, question_id))
            cells = [Text(""), Text(""), Text("")] if shown is None else _answers(camera, ledger, shown)
            numbers = ["", "", "", ""] if shown is None else _numbers(ledger, shown)
            table.add_row(camera.name if number == 0 else "", Text(question.text), *cells, *numbers)
    parts: list[RenderableType] = [Text(heading.text(ledger), style="bold"), table]
    return Group(*parts, Text(refinement, style="yellow")) if refinement else Group(*parts)


def final_table(cameras: Sequence[DemoCamera], ledger: DemoLedger, last: Heading) -> RenderableType:
    """The table when the run is over, with the last answer that was refined.

    Args:
        cameras: of the run.
        ledger: of the run.
        last: heading when the last frame could be taken.
    """
    headline = Headline(ledger, question_texts(cameras))
    headline.lines()
    return live_table(cameras, ledger, last, headline.latest_refinement)


def progress_line(ledger: DemoLedger, heading: Heading) -> str:
    """The run in one line, where there is no terminal for a table."""
    outcomes = Counter(str(row.outcome) for row in ledger.opened if row.outcome is not None)
    return heading.text(ledger) + "".join(f"  {name} {count}" for name, count in sorted(outcomes.items()))


def _answers(camera: DemoCamera, ledger: DemoLedger, row: Entry) -> list[Text]:
    frame = ledger.frame_of(row)
    truth = camera.truth_at(frame.index, row.question_id)
    if row.outcome is None:
        answer = Text("...", style="dim")
    elif row.text:
        wrong = truth is not None and not same_answer(row.text, truth)
        answer = Text(row.text, style="red" if wrong else _OUTCOME_STYLE[row.outcome])
    else:
        answer = Text(str(row.outcome), style=_OUTCOME_STYLE[row.outcome])
    return [Text(row.provisional_text, style="yellow"), answer, Text(truth or "-", style="dim")]


def _numbers(ledger: DemoLedger, row: Entry) -> list[str]:
    frame = ledger.frame_of(row)
    times = ["" if at_s is None else f"{1000 * (at_s - frame.captured_s):.0f}" for at_s in (row.first_s, row.decided_s)]
    return [str(row.latents or ""), str(frame.wire_bytes), *times]
