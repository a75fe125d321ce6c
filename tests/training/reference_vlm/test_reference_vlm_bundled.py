"""The bundled model answers held-out questions about as well as its card says."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.reference_vlm.evaluate import evaluate_reference_vlm

MODEL_DIR = Path(__file__).parents[3] / "models" / "reference-vlm"
FRAMES = 50
KINDS = ("existence", "color", "count", "position")
_CHANCE = 0.18
"""Two and a half standard errors of a share near 0.7 among 40 questions."""


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return evaluate_reference_vlm(MODEL_DIR, frames=FRAMES, seed=3)


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MODEL_DIR / "evaluation.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("source", ["rendered", "video", "detail"])
@pytest.mark.parametrize("kind", KINDS)
def test_held_out_questions_are_answered_as_measured(
    report: dict[str, Any], measured: dict[str, Any], source: str, kind: str
) -> None:
    row = report[source][kind]
    assert row["questions"] >= 30
    assert row["accuracy"] == pytest.approx(measured[source][kind]["accuracy"], abs=_CHANCE)


def test_the_answers_come_from_the_image(report: dict[str, Any]) -> None:
    assert report["blind"]["all"]["accuracy"] + 0.2 < report["rendered"]["all"]["accuracy"]
    assert report["blind"]["existence"]["accuracy"] < 0.7


def test_the_card_says_what_was_measured(measured: dict[str, Any]) -> None:
    card = (MODEL_DIR / "README.md").read_text(encoding="utf-8")
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    for table in measured.values():
        figures = [table[kind]["accuracy"] for kind in (*KINDS, "relation", "activity", "all")]
        shown = " | ".join(f"{100 * figure:.1f}" for figure in (*figures, table["calibration_error"]))
        assert any(shown in row for row in rows), shown


def test_the_folder_stays_small() -> None:
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) < 13_000_000
