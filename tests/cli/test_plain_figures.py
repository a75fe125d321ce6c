"""Figures of ``latentbus simulate`` for people: no brackets, no quotes."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from latentbus.cli import app
from latentbus.reports import simulate_overload

runner = CliRunner()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--events", "2000", "--seed", "3"),
        ("--episode", "3000000"),
        ("--cameras", "4", "--workers", "1", "--duration", "5"),
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_nothing_is_printed_as_a_program_has_it(arguments: tuple[str, ...]) -> None:
    result = runner.invoke(app, ["simulate", *arguments], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    # A trace quotes texts; what comes before it are figures.
    figures = result.stdout.splitlines()[: 1 if "--episode" in arguments else None]
    assert figures
    for line in figures:
        assert not set(line) & set("{}[]'\""), line
    assert "answered " in result.stdout


def test_a_late_phase_is_named_with_its_share(capsys: pytest.CaptureFixture[str]) -> None:
    from typer import Exit

    tally = {"asked": 4, "answered_of_asked": 0.5}
    with pytest.raises(Exit):
        simulate_overload.check_promises({"with_rule": {"ad_hoc": {"peak": tally}, "recovery_s": 1.0}})
    assert "answered in time 50.0% in the peak phase; at least 99% is promised" in capsys.readouterr().out
