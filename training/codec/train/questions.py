"""What the language model is asked about pictures that a codec learns from: no truth is needed, so any text will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from training.codec.calibrate.questions import DEFAULT_QUESTIONS, PictureQuestions

GENERAL: Final = (
    *(text for text, _ in DEFAULT_QUESTIONS),
    "Describe the picture.",
    "What is in the foreground?",
    "What is in the background?",
    "What is in the middle of the picture?",
    "What is on the left side?",
    "What is on the right side?",
    "What colour is the main object?",
    "Which colours are most frequent?",
    "How many objects are there?",
    "How many vehicles are in the picture?",
    "Is there an animal in the picture?",
    "Which animal is in the picture?",
    "Is there any text in the picture?",
    "What does the text say?",
    "Is it day or night?",
    "Was the picture taken indoors or outdoors?",
    "What is the weather like?",
    "What kind of place is this?",
    "What are the people doing?",
    "Is anything moving?",
    "Is there a chair in the picture?",
    "Is there a bottle in the picture?",
    "Is there a building in the picture?",
    "Is there a tree in the picture?",
)
"""Asked where there is no file of questions."""


def learning_questions(questions: PictureQuestions, count: int, a_picture: int, seed: int) -> list[list[str]]:
    """Texts that are asked about each picture, drawn from all of the file's, or from `GENERAL`.

    Args:
        questions: Of the command.
        count: Pictures.
        a_picture: Questions about each.
        seed: Of the draw.
    """
    texts: Sequence[str] = GENERAL if questions.file is None else questions.texts
    rng = np.random.default_rng([seed, 11])
    each = min(a_picture, len(texts))
    return [[texts[index] for index in rng.choice(len(texts), each, replace=False)] for _ in range(count)]
