"""One batch of looks: latents to tokens to answers. Synchronous; :mod:`cloud_workers.model_thread` runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from traceback import format_exception
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_workers.prefix_store import PrefixStore
from cloud_workers.vlm import VlmAdapter
from pipeline.logs import get_logger
from pipeline.protocol.effects import Look, LookAnswer
from schemas.errors import BitstreamError
from schemas.messages import RejectReason

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
    """

    def __init__(self, store: PrefixStore, vlm: VlmAdapter) -> None:
        self._store = store
        self._vlm = vlm
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
        tokens = self._store.tokens([item.symbols for item in ready], [item.look.stop for item in ready])
        frames = [row for row, item in enumerate(ready) for _ in item.look.queries]
        questions = [(query.text, query.answer_type) for item in ready for query in item.look.queries]
        answers = iter(self._vlm.answer(tokens, questions, frames=frames) if questions else [])
        results: dict[int, LookResult] = {}
        for item in ready:
            found = tuple(
                LookAnswer(query.query_id, answer.text, answer.probability)
                for query, answer in zip(item.look.queries, answers, strict=False)
            )
            results[item.place] = LookDone(item.look, found)
        return results
