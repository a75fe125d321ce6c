"""What the command's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.scenes.motion import standing_questions
from pipeline.scenes.video import write_clip
from tests.integration.conftest import models_dir

__all__ = ["clip", "models_dir"]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of video with its truth."""
    path = tmp_path_factory.mktemp("clips") / "street.mp4"
    questions = {f"q{n}": spec for n, spec in enumerate(standing_questions(3, ("existence", "count")))}
    write_clip(path, seed=3, duration_s=10, fps=5, questions=questions, size=64)
    return path
