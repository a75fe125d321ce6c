"""Scores of answers by the codec's calibrated model, and the watch over shifts from its calibration."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud_workers.inference.adapter import Question
from cloud_workers.inference.backend import InferenceAnswer
from pipeline.codec.stop_file import StopFile
from pipeline.codec.stop_score import StopScore
from pipeline.codec.stop_shift import READ_AGAIN_EVERY, ShiftDetector
from pipeline.codec.tables import FrequencyTables
from pipeline.config.logs import get_logger
from pipeline.protocol.effects import InferencePass
from schemas.types import AnswerType

_log = get_logger(__name__)

MAX_BLIND_ANSWERS: Final = 4_096
"""Questions whose answer from an empty prefix is remembered; one that was dropped costs one more answer."""


class PassScores:
    """Scores the answers of passes.

    Args:
        stop: the codec's stop rule with its score.
        tables: frequency tables of the codec.

    Attributes:
        shift: what is compared with the calibration; None when the stop rule holds no distribution.
        nothing: symbols of an empty prefix, int32 ``[K, d]``.
    """

    def __init__(self, stop: StopFile, tables: FrequencyTables) -> None:
        self._score = stop.score
        self._base = stop.rule.ladder[0]
        self._whole = stop.rule.ladder[-1]
        self._tables = tables
        self._blind: OrderedDict[Question, InferenceAnswer] = OrderedDict()
        self._first_passes = 0
        self.shift = None if stop.shift is None else ShiftDetector(stop.shift)
        self.nothing = np.zeros((tables.latent_count, tables.latent_dim), dtype=np.int32)

    def reads_again(self, inference_pass: InferencePass) -> bool:
        """Whether this first pass is one of those whose frame is read once more from the shortest prefix."""
        if (
            self.shift is None
            or inference_pass.number != 1
            or inference_pass.stop < self._base
            or not inference_pass.queries
        ):
            return False
        self._first_passes += 1
        return self._first_passes % READ_AGAIN_EVERY == 0

    def shortest(self, symbols: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
        """Symbols of the shortest prefix of a frame, and its length."""
        short = symbols.copy()
        short[self._base :] = 0
        return short, self._base

    def reads_blind(self, inference_pass: InferencePass) -> bool:
        """Whether the scores of a pass need what the model says to its questions without seeing anything."""
        return self._score is not None and inference_pass.stop < self._whole and not self._distrusts(inference_pass)

    def blind_answers(self, questions: Sequence[Question]) -> tuple[dict[Question, InferenceAnswer], list[Question]]:
        """Answers to an empty prefix that are known, and the questions that have to be asked of it."""
        if self._score is None:
            return {}, []
        known: dict[Question, InferenceAnswer] = {}
        missing: dict[Question, None] = {}
        for question in questions:
            answer = self._blind.get(question)
            if answer is None:
                missing[question] = None
            else:
                known[question] = answer
                self._blind.move_to_end(question)
        self._forget_oldest()
        return known, list(missing)

    def learn_blind(self, question: Question, answer: InferenceAnswer) -> None:
        """Keep what the model says to an empty prefix."""
        self._blind[question] = answer
        self._blind.move_to_end(question)
        self._forget_oldest()

    def of_pass(
        self,
        inference_pass: InferencePass,
        symbols: NDArray[np.int32],
        questions: Sequence[Question],
        answers: Sequence[InferenceAnswer],
        blind: Mapping[Question, InferenceAnswer],
    ) -> list[float]:
        """Scores of the answers of a pass; of a whole latent the probability of the answer, since agreement is certain.

        After a shift no first pass before the whole latent is safe, so that every answer comes from a longer prefix
        than the rule would have been content with.

        Args:
            inference_pass: the pass.
            symbols: of its prefix.
            questions: that were answered.
            answers: to them.
            blind: answers to an empty prefix; without its own no answer is safe before the whole latent.
        """
        if inference_pass.stop >= self._whole:
            return [answer.probability for answer in answers]
        if self._distrusts(inference_pass):
            return [0.0] * len(answers)
        scores = self._scores(symbols, inference_pass.stop, questions, answers, blind)
        return scores if self._score is None else self._score.of_pass(scores, [kind for _, kind in questions])

    def note_again(
        self,
        symbols: NDArray[np.int32],
        question: Question,
        answer: InferenceAnswer,
        blind: Mapping[Question, InferenceAnswer],
    ) -> None:
        """A frame was read once more from its shortest prefix."""
        if self.shift is None or not answer.finite:
            return
        (score,) = self._scores(symbols, self._base, [question], [answer], blind)
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

    def _forget_oldest(self) -> None:
        while len(self._blind) > MAX_BLIND_ANSWERS:
            self._blind.popitem(last=False)

    def _distrusts(self, inference_pass: InferencePass) -> bool:
        return self.shift is not None and self.shift.shifted and inference_pass.number == 1

    def _scores(
        self,
        symbols: NDArray[np.int32],
        length: int,
        questions: Sequence[Question],
        answers: Sequence[InferenceAnswer],
        blind: Mapping[Question, InferenceAnswer],
    ) -> list[float]:
        if self._score is None or not answers:
            return [answer.probability for answer in answers]
        bits = float(self._tables.symbol_bits(symbols[None, :length], 0, length).sum())
        # What the model says blindly may be no answer at all, or there is none.
        known = [
            (index, question, answer, other)
            for index, (question, answer) in enumerate(zip(questions, answers, strict=True))
            if (other := blind.get(question)) is not None and other.finite
        ]
        features = self._score.features(
            length,
            probability=[answer.probability for _, _, answer, _ in known],
            margin=[answer.margin for _, _, answer, _ in known],
            entropy_nats=[answer.entropy_nats for _, _, answer, _ in known],
            agrees_with_blind=[
                answer.text.strip().lower() == other.text.strip().lower() for _, _, answer, other in known
            ],
            blind_probability=[other.probability for _, _, _, other in known],
            code_bits=bits,
        )
        scores = [0.0] * len(answers)
        for row, (index, (_, kind), _, _) in zip(features, known, strict=True):
            scores[index] = _one(self._score, row, kind)
        return scores


def _one(score: StopScore, features: NDArray[np.float64], answer_type: AnswerType) -> float:
    return float(score.score(features[None], answer_type)[0])
