"""Scores of answers by the codec's calibrated model, and the watch over shifts from its calibration."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud_workers.prefix_store import PrefixStore
from cloud_workers.vlm import VlmAdapter, VlmAnswer
from pipeline.codec.stop_file import StopFile
from pipeline.codec.stop_score import StopScore
from pipeline.codec.stop_shift import READ_AGAIN_EVERY, ShiftDetector
from pipeline.codec.tables import FrequencyTables
from pipeline.config.logs import get_logger
from pipeline.protocol.effects import Look
from schemas.types import AnswerType

_log = get_logger(__name__)

MAX_BLIND_ANSWERS: Final = 4_096
"""Questions whose answer from an empty prefix is remembered; one that was dropped costs one more answer."""

Question = tuple[str, AnswerType]


class LookScores:
    """Scores the answers of looks.

    Args:
        stop: the codec's stop rule with its score.
        tables: frequency tables of the codec.
        store: decodes prefixes.
        vlm: answers.

    Attributes:
        shift: what is compared with the calibration; None when the stop rule holds no distribution.
    """

    def __init__(self, stop: StopFile, tables: FrequencyTables, store: PrefixStore, vlm: VlmAdapter) -> None:
        self._score = stop.score
        self._base = stop.rule.ladder[0]
        self._whole = stop.rule.ladder[-1]
        self._tables = tables
        self._store = store
        self._vlm = vlm
        self._blind: OrderedDict[Question, VlmAnswer] = OrderedDict()
        self._first_looks = 0
        self.shift = None if stop.shift is None else ShiftDetector(stop.shift)

    def reads_again(self, look: Look) -> bool:
        """Whether this first look is one of those whose frame is read once more from the shortest prefix."""
        if self.shift is None or look.number != 1 or look.stop < self._base or not look.queries:
            return False
        self._first_looks += 1
        return self._first_looks % READ_AGAIN_EVERY == 0

    def shortest(self, symbols: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
        """Symbols of the shortest prefix of a frame, and its length."""
        short = symbols.copy()
        short[self._base :] = 0
        return short, self._base

    def of_look(
        self, look: Look, symbols: NDArray[np.int32], questions: Sequence[Question], answers: Sequence[VlmAnswer]
    ) -> list[float]:
        """Scores of the answers of a look; of a whole latent the probability of the answer, since agreement is certain.

        After a shift no first look before the whole latent is safe, so that every answer comes from a longer prefix
        than the rule would have been content with.
        """
        if look.stop >= self._whole:
            return [answer.probability for answer in answers]
        if self.shift is not None and self.shift.shifted and look.number == 1:
            return [0.0] * len(answers)
        scores = self._scores(symbols, look.stop, questions, answers)
        return scores if self._score is None else self._score.of_look(scores, [kind for _, kind in questions])

    def note_again(self, symbols: NDArray[np.int32], question: Question, answer: VlmAnswer) -> None:
        """A frame was read once more from its shortest prefix."""
        if self.shift is None or not answer.finite:
            return
        (score,) = self._scores(symbols, self._base, [question], [answer])
        if self.shift.note(question[1], score):
            if self.shift.shifted:
                _log.warning(
                    "answers are unlike those of the stop rule's calibration; short prefixes are not trusted",
                    distance=round(self.shift.distance, 3),
                    expected_below=round(self.shift.calibration.threshold, 3),
                    fix="latentbus codec calibrate-stop --frames DIR --questions FILE, with frames like these",
                )
            else:
                _log.info("answers are like those of the stop rule's calibration again")

    def _scores(
        self, symbols: NDArray[np.int32], length: int, questions: Sequence[Question], answers: Sequence[VlmAnswer]
    ) -> list[float]:
        if self._score is None or not answers:
            return [answer.probability for answer in answers]
        blind = self._blind_answers(questions)
        bits = float(self._tables.symbol_bits(symbols[None, :length], 0, length).sum())
        features = self._score.features(
            length,
            probability=[answer.probability for answer in answers],
            margin=[answer.margin for answer in answers],
            entropy_nats=[answer.entropy_nats for answer in answers],
            agrees_with_blind=[
                answer.text.strip().lower() == other.text.strip().lower()
                for answer, other in zip(answers, blind, strict=True)
            ],
            blind_probability=[other.probability for other in blind],
            code_bits=bits,
        )
        # What the model says blindly may be no answer at all; without it nothing is safe before the whole latent.
        return [
            _one(self._score, row, kind) if other.finite else 0.0
            for row, (_, kind), other in zip(features, questions, blind, strict=True)
        ]

    def _blind_answers(self, questions: Sequence[Question]) -> list[VlmAnswer]:
        """What the model says to an empty prefix; each question is asked once."""
        missing = list(dict.fromkeys(question for question in questions if question not in self._blind))
        found = {question: self._blind[question] for question in questions if question in self._blind}
        if missing:
            nothing = np.zeros((self._tables.latent_count, self._tables.latent_dim), dtype=np.int32)
            tokens = self._store.tokens([nothing], [0])
            found.update(zip(missing, self._vlm.answer(tokens, missing, frames=[0] * len(missing)), strict=True))
        for question in questions:
            self._blind[question] = found[question]
            self._blind.move_to_end(question)
        while len(self._blind) > MAX_BLIND_ANSWERS:
            self._blind.popitem(last=False)
        return [found[question] for question in questions]


def _one(score: StopScore, features: NDArray[np.float64], answer_type: AnswerType) -> float:
    return float(score.score(features[None], answer_type)[0])
