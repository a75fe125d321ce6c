"""Baselines that send nothing: the answer to an empty prefix, and always the same answer.

A model that nearly always says no agrees with itself at no bytes at all. So agreement is also taken balanced: every
answer that the model gives to a kind of question counts as much as every other one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

MARGIN: Final = 0.10
"""No ratio is claimed where a baseline that sends nothing comes this near to what the ratio is taken at."""
_LEAST_OF_AN_ANSWER: Final = 5
"""Answers of a kind that were given less often count together, as one."""


def constant_answers(reference: NDArray[np.str_], groups: NDArray[np.str_]) -> NDArray[np.str_]:
    """For each group of questions always the answer that is given most often, known in hindsight.

    Args:
        reference: Answers from uncompressed tokens, str [Q].
        groups: Kinds of question, or each question of each camera, str [Q].
    """
    answers = reference.copy()
    for group in np.unique(groups):
        mine = groups == group
        values, counts = np.unique(reference[mine], return_counts=True)
        answers[mine] = values[counts.argmax()]
    return answers


def first_answers(reference: NDArray[np.str_], groups: NDArray[np.str_]) -> NDArray[np.str_]:
    """For each camera and question always what was answered when it was first asked: what one frame would do.

    Args:
        reference: Answers from uncompressed tokens, in the order in which they were asked, str [Q].
        groups: Camera and question, str [Q].
    """
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    answers: NDArray[np.str_] = reference[first][place]
    return answers


def balanced_weights(reference: NDArray[np.str_], kinds: NDArray[np.str_]) -> NDArray[np.float64]:
    """How much each question counts: all kinds alike, and in each kind all answers alike.

    Args:
        reference: Answers from uncompressed tokens, str [Q].
        kinds: Of the questions, str [Q].

    Returns:
        [Q], of sum 1 where there are questions.
    """
    weights = np.zeros(len(reference), dtype=np.float64)
    names = np.unique(kinds)
    for kind in names:
        mine = np.flatnonzero(kinds == kind)
        values, place, counts = np.unique(reference[mine], return_inverse=True, return_counts=True)
        rare = counts < _LEAST_OF_AN_ANSWER
        group = np.where(rare, len(values), np.arange(len(values)))[place]
        sizes = np.bincount(group, minlength=len(values) + 1)
        weights[mine] = 1 / (len(names) * np.count_nonzero(sizes) * sizes[group])
    return weights
