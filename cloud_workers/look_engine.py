"""One batch of looks: latents to tokens to answers. Synchronous; :mod:`cloud_workers.model_thread` runs it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from traceback import format_exception
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_workers.look_scores import LookScores
from cloud_workers.prefix_store import PrefixStore
from cloud_workers.vlm import VlmAdapter, VlmAnswer
from pipeline.config.logs import get_logger
from pipeline.protocol.effects import Look, LookAnswer
from schemas.errors import BitstreamError
from schemas.messages import RejectReason
from schemas.types import AnswerType

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LookDone:
    """The answers of a look."""

    look: Look
    answers: tuple[LookAnswer, ...]


@dataclass(frozen=True, slots=True)
class LookFailed:
    """A look that raised; the others of its batch are not touched."""

    look: Look
    reason: RejectReason
    problem: str


LookResult = LookDone | LookFailed


class LookEngine(Protocol):
    """What the batcher needs."""

    def run(self, looks: Sequence[Look]) -> list[LookResult]:
        """Results of the looks, in order; never raises for what one of them holds."""


class _Ready(NamedTuple):
    place: int
    look: Look
    symbols: NDArray[np.int32]


class VlmLookEngine:
    """Decodes the prefixes of a batch together and asks the model all of their questions at once.

    Args:
        store: chunks to tokens.
        vlm: tokens to answers.
        scores: how sure an answer is; None takes its probability.
    """

    def __init__(self, store: PrefixStore, vlm: VlmAdapter, scores: LookScores | None = None) -> None:
        self._store = store
        self._vlm = vlm
        self._scores = scores
        self._logged: set[type[Exception]] = set()

    @torch.inference_mode()
    def run(self, looks: Sequence[Look]) -> list[LookResult]:
        """Results of the looks, in order."""
        results: dict[int, LookResult] = {}
        ready: list[_Ready] = []
        for index, look in enumerate(looks):
            try:
                ready.append(_Ready(index, look, self._store.symbols(look)))
            except BitstreamError as error:
                results[index] = LookFailed(look, RejectReason.BITSTREAM, str(error))
        results.update(self._answer(ready))
        return [results[index] for index in range(len(looks))]

    def _answer(self, ready: list[_Ready]) -> dict[int, LookResult]:
        if not ready:
            return {}
        try:
            return self._answer_together(ready)
        except Exception as error:  # noqa: BLE001 - whatever a model raises on one frame must not take the rest along
            if len(ready) == 1:
                problem = f"{type(error).__name__}: {error}"
                self._log_once(error, problem)
                return {ready[0].place: LookFailed(ready[0].look, RejectReason.MODEL, problem)}
            # Halving finds the frame that fails, and fits a batch that was too large for the device's memory.
            middle = len(ready) // 2
            return {**self._answer(ready[:middle]), **self._answer(ready[middle:])}

    def _log_once(self, error: Exception, problem: str) -> None:
        """The trace of the first error of a type; every one reaches the edge and the counters anyway."""
        if type(error) not in self._logged:
            self._logged.add(type(error))
            # As text: a renderer that shows local variables would print tensors and questions.
            _log.error("the model failed on a frame", problem=problem, trace="".join(format_exception(error)))

    def _answer_together(self, ready: list[_Ready]) -> dict[int, LookResult]:
        scores = self._scores
        again = [item for item in ready if scores is not None and scores.reads_again(item.look)]
        prefixes = [(item.symbols, item.look.stop) for item in ready]
        prefixes += [scores.shortest(item.symbols) for item in again if scores is not None]
        tokens = self._store.tokens([symbols for symbols, _ in prefixes], [stop for _, stop in prefixes])
        finite: list[bool] = torch.isfinite(tokens).flatten(1).all(dim=1).tolist()
        results: dict[int, LookResult] = {
            item.place: LookFailed(item.look, RejectReason.MODEL, "the decoder made tokens that are not finite")
            for item, good in zip(ready, finite, strict=False)
            if not good
        }
        if results:
            return {**results, **self._answer([item for item in ready if item.place not in results])}
        read_again = [(row, item) for row, item in enumerate(again, len(ready)) if finite[row]]
        frames = [row for row, item in enumerate(ready) for _ in item.look.queries]
        questions = [(query.text, query.answer_type) for item in ready for query in item.look.queries]
        frames += [row for row, _ in read_again]
        questions += [(item.look.queries[0].text, item.look.queries[0].answer_type) for _, item in read_again]
        answers = self._vlm.answer(tokens, questions, frames=frames) if questions else []
        at = 0
        for item in ready:
            until = at + len(item.look.queries)
            results[item.place] = self._done(item, questions[at:until], answers[at:until])
            at = until
        if scores is not None:
            for (row, _), question, answer in zip(read_again, questions[at:], answers[at:], strict=True):
                scores.note_again(prefixes[row][0], question, answer)
        return results

    def _done(
        self, item: _Ready, questions: Sequence[tuple[str, AnswerType]], answers: Sequence[VlmAnswer]
    ) -> LookDone:
        # Those that are none stay out of the scores: some are judged by the mean of a look.
        usable = [index for index, answer in enumerate(answers) if answer.finite]
        if self._scores is None:
            values = [answers[index].probability for index in usable]
        else:
            values = self._scores.of_look(
                item.look, item.symbols, [questions[index] for index in usable], [answers[index] for index in usable]
            )
        score_of = dict(zip(usable, values, strict=True))
        return LookDone(
            item.look,
            tuple(
                _answer(query.query_id, answer, score_of.get(index))
                for index, (query, answer) in enumerate(zip(item.look.queries, answers, strict=True))
            ),
        )


def _answer(query_id: str, answer: VlmAnswer, score: float | None) -> LookAnswer:
    if score is None:
        return LookAnswer(query_id, "", 0.0, answer.problem or "its logits are not finite")
    if not math.isfinite(score):
        return LookAnswer(query_id, "", 0.0, "the score of its answer is not finite")
    return LookAnswer(query_id, answer.text, score)
