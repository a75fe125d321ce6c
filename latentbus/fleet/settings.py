"""Settings of the nodes of a fleet on one machine, and the cameras that fleets are tried with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.codec.spec import STOP_FILE, load_codec_spec
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import ChangeGateSettings, ClientBudgetSettings, EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings, LogSettings
from pipeline.config.worker_settings import WorkerSettings
from schemas.types import AnswerType

QUESTIONS: Final[tuple[tuple[str, AnswerType], ...]] = (
    ("Is there a car?", AnswerType.YES_NO),
    ("How many cars are there?", AnswerType.COUNT),
    ("What color is the bus?", AnswerType.WORD),
    ("Is there a person?", AnswerType.YES_NO),
    ("How many trees are there?", AnswerType.COUNT),
    ("Is there a house?", AnswerType.YES_NO),
)
"""What rendered cameras are asked, as standing questions and ad hoc."""
WIDE_BUDGET: Final = ClientBudgetSettings(asks_per_s=1_000, burst_asks=2_000, open_asks=256, kbps=1_000)
"""Of the one client of a run: it asks for many, as a gateway does."""
EVERY_FRAME: Final = ChangeGateSettings(enabled=False)
"""Of runs that count what becomes of every frame."""
_NEVER_SAFE: Final = 2.0
"""A threshold above every score."""


def edge_node(broker: BrokerSettings, edge: EdgeSettings) -> LatentbusSettings:
    """Settings file of an edge, which logs lines of JSON."""
    return LatentbusSettings(broker=broker, edge=edge, log=LogSettings(json_lines=True))


def worker_node(broker: BrokerSettings, worker: WorkerSettings) -> LatentbusSettings:
    """Settings file of a worker, which logs lines of JSON."""
    return LatentbusSettings(broker=broker, worker=worker, log=LogSettings(json_lines=True))


def camera_names(site: str, count: int) -> list[str]:
    """Cameras of a site."""
    return [f"{site}-c{number + 1}" for number in range(count)]


def standing_questions(count: int, deadline_s: float) -> dict[str, QuestionSettings]:
    """The first of :data:`QUESTIONS`, by id.

    Args:
        count: how many.
        deadline_s: of each.
    """
    return {
        f"q{number + 1}": QuestionSettings(text=text, answer_type=answer_type, deadline_ms=round(1000 * deadline_s))
        for number, (text, answer_type) in enumerate(QUESTIONS[:count])
    }


def rendered_cameras(
    names: Sequence[str], questions: Sequence[str], interval_s: float, *, seed: int = 0
) -> dict[str, CameraSettings]:
    """Cameras that render a scene each.

    Args:
        names: theirs.
        questions: ids of what each is asked.
        interval_s: time between two frames of one.
        seed: of the first one's scene.
    """
    return {
        name: CameraSettings(source=f"test:{seed + number}", interval_s=interval_s, questions=tuple(questions))
        for number, name in enumerate(names)
    }


def write_patient_codec(source: Path, folder: Path) -> Path:
    """A codec folder whose stop rule is content with nothing less than the whole latent.

    Every question then takes every rung of the ladder: the longest conversation between edge and worker, and the most
    occasions to break it. Weights, tables and fingerprint stay as they are.
    """
    shutil.copytree(source, folder)
    spec = load_codec_spec(folder)
    spec.model_copy(update={"base_latents": spec.ladder[0]}).save(folder)
    rule = json.loads((folder / STOP_FILE).read_text(encoding="utf-8"))
    rule |= {"thresholds": {}, "default": [*(_NEVER_SAFE for _ in rule["ladder"][1:]), 0.0]}
    (folder / STOP_FILE).write_text(json.dumps(rule, indent=1) + "\n", encoding="utf-8")
    return folder
