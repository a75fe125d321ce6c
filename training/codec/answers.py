"""What a VLM answers from visual tokens, with how sure it is of each answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cloud_workers.inference.adapter import ModelAdapter
from training.codec.chunks import frames_at_once
from training.codec.data import Asked

_BATCH: Final = 128


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to Q questions, each asked on its own.

    Attributes:
        texts: In lower case, str [Q].
        probabilities: Of the whole answers [Q].
        margins: Of their first tokens [Q], see `InferenceAnswer`.
        entropies_nats: Of their first tokens [Q].
    """

    texts: NDArray[np.str_]
    probabilities: NDArray[np.float64]
    margins: NDArray[np.float64]
    entropies_nats: NDArray[np.float64]

    def of(self, questions: NDArray[np.bool_] | NDArray[np.int64]) -> Self:
        """The same for some of the questions."""
        return type(self)(
            self.texts[questions],
            self.probabilities[questions],
            self.margins[questions],
            self.entropies_nats[questions],
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Answers of several parts of a set, one after the other."""
        return cls(
            np.concatenate([part.texts for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.margins for part in parts]),
            np.concatenate([part.entropies_nats for part in parts]),
        )


def answers_of(vlm: ModelAdapter, tokens: Tensor, asked: Sequence[Asked]) -> Answers:
    """Answers to all questions.

    Args:
        vlm: The frozen model.
        tokens: Visual tokens of all frames [F, N, D].
        asked: Questions about them.
    """
    texts: list[str] = []
    values: list[tuple[float, float, float]] = []
    for start in range(0, len(asked), _BATCH):
        part = asked[start : start + _BATCH]
        used = sorted({item.frame for item in part})
        row = {frame: index for index, frame in enumerate(used)}
        found = vlm.answer(
            tokens[used].float(),
            [(item.text, item.answer_type) for item in part],
            frames=[row[item.frame] for item in part],
        )
        texts += [answer.text.strip().lower() for answer in found]
        values += [(answer.probability, answer.margin, answer.entropy_nats) for answer in found]
    numbers = np.array(values, dtype=np.float64).reshape(-1, 3)
    return Answers(np.array(texts, dtype=np.str_), numbers[:, 0], numbers[:, 1], numbers[:, 2])


def answers_in_parts(vlm: ModelAdapter, tokens: Tensor, asked: Sequence[Asked]) -> Answers:
    """What `answers_of` gives, for tokens that are too large to be read at once.

    Args:
        vlm: The frozen model.
        tokens: Visual tokens [F, N, D], at least one frame; may be mapped from a file.
        asked: Questions about them, sorted by frame.
    """
    together = frames_at_once(tokens[0].numel())
    parts = []
    for start in range(0, len(tokens), together):
        mine = [replace(item, frame=item.frame - start) for item in asked if start <= item.frame < start + together]
        parts.append(answers_of(vlm, tokens[start : start + together], mine))
    return Answers.joined(parts)


def blind_answers(vlm: ModelAdapter, nothing: Tensor, asked: Sequence[Asked]) -> Answers:
    """What the model says before it sees anything: from an empty prefix, so that only the question counts.

    Args:
        vlm: The frozen model.
        nothing: Visual tokens that the codec makes of an empty prefix [1, N, D].
        asked: Questions.
    """
    place: dict[tuple[str, str], int] = {}
    for item in asked:
        place.setdefault((item.text, item.answer_type), len(place))
    first = {place[item.text, item.answer_type]: item for item in reversed(asked)}
    distinct = [
        Asked(0, item.text, item.answer_type, item.kind, None) for _, item in sorted(first.items(), key=lambda e: e[0])
    ]
    found = answers_of(vlm, nothing, distinct)
    return found.of(np.array([place[item.text, item.answer_type] for item in asked], dtype=np.int64))
