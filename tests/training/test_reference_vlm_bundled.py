"""The bundled model answers held-out questions."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.reference_vlm.evaluate import evaluate_reference_vlm

MODEL_DIR = Path(__file__).parents[2] / "models" / "reference-vlm"
# Measured accuracies are higher; these leave room for 100 frames' worth of chance.
THRESHOLDS = {"existence": 0.93, "color": 0.9, "count": 0.75, "position": 0.75}


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return evaluate_reference_vlm(MODEL_DIR, frames=100, seed=3)


@pytest.mark.parametrize("source", ["rendered", "video"])
@pytest.mark.parametrize("kind", THRESHOLDS)
def test_held_out_questions_are_answered(report: dict[str, Any], source: str, kind: str) -> None:
    row = report[source][kind]
    assert row["questions"] >= 60
    assert row["accuracy"] >= THRESHOLDS[kind]


def test_the_answers_come_from_the_image(report: dict[str, Any]) -> None:
    assert report["blind"]["all"]["accuracy"] < 0.55
    assert report["blind"]["existence"]["accuracy"] < 0.7


def test_the_folder_is_what_its_card_says() -> None:
    training = json.loads((MODEL_DIR / "training.json").read_text(encoding="utf-8"))
    card = (MODEL_DIR / "README.md").read_text(encoding="utf-8")
    for kind in THRESHOLDS:
        assert f"{100 * training['accuracy']['rendered'][kind]['accuracy']:.1f} %" in card
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) < 13_000_000
