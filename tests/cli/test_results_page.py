"""Pages of figures: tables from a report, and where the figures come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import markdown
from latentbus.reports.output_files import RESULTS_MARK, markdown_target
from latentbus.reports.results_page import page, shown_command, write_page
from schemas.errors import ConfigError


def test_a_table_escapes_what_would_end_a_cell() -> None:
    assert markdown.table(("a", "b"), [("x|y", "two\nlines"), (1, None)]) == (
        "| a | b |\n| --- | --- |\n| x\\|y | two lines |\n| 1 | None |"
    )


def test_figures_are_tables_by_their_shape() -> None:
    report = {
        "events": 1_000_745,
        "rate": 0.25,
        "nothing": None,
        "held": True,
        "names": ["a", "b"],
        "standing": {"before": {"asked": 7, "late": 0}, "peak": {"asked": 28_542, "late": 1}},
        "faults": {"loss": 3},
        "runs": [{"seed": 1, "lost": 0}, {"seed": 2}],
        "empty": {},
    }

    assert markdown.figures(report) == (
        "| figure | value |\n| --- | --- |\n| events | 1,000,745 |\n| rate | 0.25 |\n| nothing |  |\n| held | yes |\n"
        "| names | a, b |\n\n"
        "## Standing\n\n|  | before | peak |\n| --- | --- | --- |\n| asked | 7 | 28,542 |\n| late | 0 | 1 |\n\n"
        "## Faults\n\n| figure | value |\n| --- | --- |\n| loss | 3 |\n\n"
        "## Runs\n\n| seed | lost |\n| --- | --- |\n| 1 | 0 |\n| 2 |  |"
    )


def test_records_with_groups_are_sections() -> None:
    report = {"points": [{"name": "small", "by_type": {"count": 1}}]}

    assert markdown.figures(report) == (
        "## Points\n\n| figure | value |\n| --- | --- |\n| name | small |\n\n"
        "### By type\n\n| figure | value |\n| --- | --- |\n| count | 1 |"
    )


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["latentbus", "simulate", "--seed", "7", "--markdown", "a.md"], "latentbus simulate --seed 7"),
        (["latentbus", "chaos", "--json=out.json", "--faults", "40"], "latentbus chaos --faults 40"),
        (
            ["latentbus", "codec", "eval", "--photos", "/data/photos/cifar.zip"],
            "latentbus codec eval --photos cifar.zip",
        ),
        (["latentbus", "codec", "eval", "--video=/data/my clip.avi"], "latentbus codec eval '--video=my clip.avi'"),
        (["python", "-m", "benchmarks.soak", "--duration", "60"], "python -m benchmarks.soak --duration 60"),
        (["latentbus", "ask", "gate", "is it open?"], "latentbus ask gate 'is it open?'"),
    ],
)
def test_a_command_is_shown_without_outputs_and_folders(arguments: list[str], shown: str) -> None:
    assert shown_command(arguments) == shown


def test_a_page_says_where_its_figures_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.md"
    write_page(path, "Faults", "| a |\n", ["latentbus", "chaos", "--markdown", str(path)])
    text = path.read_text()

    assert text.startswith(f"# Faults\n\n{RESULTS_MARK}\n\n- Command: `latentbus chaos`\n- Measured: 20")
    assert " cores (" in text
    assert text.endswith("\n\n| a |\n")
    assert str(tmp_path) not in text
    assert str(path) in capsys.readouterr().err


def test_a_page_of_figures_may_be_written_anew_and_no_other_page(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours.md", tmp_path / "other.md"
    ours.write_text(page("Faults", "| a |", "latentbus chaos"))
    other.write_text("# Mine\n")

    assert markdown_target(ours) == ours
    with pytest.raises(ConfigError, match="is no page of figures"):
        markdown_target(other)
