"""One batch of passes: latents to visual features here, features to answers at the backend, answers to scores here.

What is computed here runs in the model's thread; the event loop waits for nothing but results.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_workers.inference.adapter import Question
from cloud_workers.inference.backend import InferenceAnswer, InferenceBackend, InferenceItem, InferenceResult
from cloud_workers.inference.isolation import Isolation, described
from cloud_workers.pass_scores import PassScores
from cloud_workers.prefix_store import PrefixStore
from pipeline.node.work_thread import WorkThread
from pipeline.protocol.effects import InferencePass, PassAnswer, PassQuery
from schemas.errors import BitstreamError, InferenceError, ModelError
from schemas.messages import RejectReason

_NOT_FINITE: Final = "the decoder made tokens that are not finite"


@dataclass(frozen=True, slots=True)
class PassDone:
    """The answers of a pass; those that failed say why."""

    inference_pass: InferencePass
    answers: tuple[PassAnswer, ...]


@dataclass(frozen=True, slots=True)
class PassFailed:
    """A pass whose latents made no features; the others of its batch are not touched."""

    inference_pass: InferencePass
    reason: RejectReason
    problem: str


PassResult = PassDone | PassFailed


class PassEngine(Protocol):
    """What the batcher needs."""

    @property
    def max_concurrent_batches(self) -> int:
        """Calls of :meth:`run` that may be under way at a time."""

    async def run(self, passes: Sequence[InferencePass]) -> list[PassResult]:
        """Results of the passes, in order; never raises for what one of them holds."""


class _Prefix(NamedTuple):
    symbols: NDArray[np.int32]
    stop: int


class _Reading(NamedTuple):
    """A pass with the features of its prefix."""

    inference_pass: InferencePass
    symbols: NDArray[np.int32]
    features: torch.Tensor


@dataclass(slots=True)
class _Batch:
    """What is submitted, and what the results are for: those of the passes, then frames read again, then blind ones.

    Attributes:
        passes: readings or failures, in the order of the passes.
        items: what the backend is asked.
        again: readings of shortest prefixes, with their question.
        blind: answers to an empty prefix that are known.
        missing: questions that are asked of an empty prefix.
    """

    passes: list[_Reading | PassFailed]
    items: list[InferenceItem] = field(default_factory=list)
    again: list[tuple[_Prefix, PassQuery]] = field(default_factory=list)
    blind: dict[Question, InferenceAnswer] = field(default_factory=dict)
    missing: list[Question] = field(default_factory=list)


class VlmPassEngine:
    """Decodes the prefixes of a batch together and asks the model all of their questions at once.

    Args:
        store: chunks to features; touched in the thread only.
        backend: features to answers.
        thread: where prefixes are decoded and answers scored.
        scores: how sure an answer is, touched in the thread only; None takes its probability.
    """

    def __init__(
        self, store: PrefixStore, backend: InferenceBackend, thread: WorkThread, scores: PassScores | None = None
    ) -> None:
        self._store = store
        self._backend = backend
        self._thread = thread
        self._scores = scores
        self._decoding = Isolation("the decoder failed on a prefix")

    @property
    def max_concurrent_batches(self) -> int:
        """As many as the backend takes."""
        return self._backend.capabilities.max_concurrent_batches

    async def run(self, passes: Sequence[InferencePass]) -> list[PassResult]:
        """Results of the passes, in order.

        Raises:
            ModelError: the backend gave another number of results than it was asked for.
        """
        batch = await self._thread.call(self._read, passes)
        results = await self._backend.submit(batch.items) if batch.items else []
        if len(results) != len(batch.items):
            problem = f"{len(results)} results for {len(batch.items)} questions"
            raise ModelError(self._backend.capabilities.backend, problem)
        if self._scores is None:
            return self._finish(batch, results)
        return await self._thread.call(self._finish, batch, results)

    # ---- before the backend -----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _read(self, passes: Sequence[InferencePass]) -> _Batch:
        """Decode the prefixes of all passes, and what their scores need, in one pass."""
        read: list[_Prefix | PassFailed] = []
        for inference_pass in passes:
            try:
                read.append(_Prefix(self._store.symbols(inference_pass), inference_pass.stop))
            except BitstreamError as error:
                read.append(PassFailed(inference_pass, RejectReason.BITSTREAM, str(error)))
        prefixes = [prefix for prefix in read if isinstance(prefix, _Prefix)]
        batch, scores = _Batch([]), self._scores
        if scores is not None:
            sound = [
                (inference_pass, prefix)
                for inference_pass, prefix in zip(passes, read, strict=True)
                if isinstance(prefix, _Prefix)
            ]
            batch.again = [
                (_Prefix(*scores.shortest(prefix.symbols)), inference_pass.queries[0])
                for inference_pass, prefix in sound
                if scores.reads_again(inference_pass)
            ]
            asked = [
                query
                for inference_pass, _ in sound
                if scores.reads_blind(inference_pass)
                for query in inference_pass.queries
            ]
            asked += [query for _, query in batch.again]
            batch.blind, batch.missing = scores.blind_answers([_question(query) for query in asked])
            prefixes += [prefix for prefix, _ in batch.again]
            prefixes += [_Prefix(scores.nothing, 0)] if batch.missing else []
        self._read_passes(batch, passes, read, iter(self._features(prefixes)))
        return batch

    def _read_passes(
        self,
        batch: _Batch,
        passes: Sequence[InferencePass],
        read: Sequence[_Prefix | PassFailed],
        features: Iterator[torch.Tensor | str],
    ) -> None:
        """Put the questions of everything that has features into a batch."""
        for inference_pass, prefix in zip(passes, read, strict=True):
            if isinstance(prefix, PassFailed):
                batch.passes.append(prefix)
                continue
            made = next(features)
            if isinstance(made, str):
                batch.passes.append(PassFailed(inference_pass, RejectReason.MODEL, made))
                continue
            batch.passes.append(_Reading(inference_pass, prefix.symbols, made))
            batch.items += [_item(made, query) for query in inference_pass.queries]
        again = [(prefix, query, next(features)) for prefix, query in batch.again]
        batch.again = [(prefix, query) for prefix, query, made in again if not isinstance(made, str)]
        batch.items += [_item(made, query) for _, query, made in again if not isinstance(made, str)]
        nothing = next(features, "")
        if isinstance(nothing, str):
            batch.missing = []
        else:
            batch.items += [InferenceItem(nothing, *question) for question in batch.missing]

    def _features(self, prefixes: Sequence[_Prefix]) -> list[torch.Tensor | str]:
        """Features ``[N, D]`` of each prefix, or why there are none."""

        def decode(some: Sequence[_Prefix]) -> list[torch.Tensor | str]:
            made = self._store.tokens([prefix.symbols for prefix in some], [prefix.stop for prefix in some])
            finite: list[bool] = torch.isfinite(made).flatten(1).all(dim=1).tolist()
            return [features if good else _NOT_FINITE for features, good in zip(made, finite, strict=True)]

        made = self._decoding.run(prefixes, decode)
        return [described(features) if isinstance(features, Exception) else features for features in made]

    # ---- after the backend ------------------------------------------------------------------------------------------

    def _finish(self, batch: _Batch, results: Sequence[InferenceResult]) -> list[PassResult]:
        left = iter(results)
        answered = [
            reading
            if isinstance(reading, PassFailed)
            else (reading, [next(left) for _ in reading.inference_pass.queries])
            for reading in batch.passes
        ]
        again = [(prefix, query, next(left)) for prefix, query in batch.again]
        scores = self._scores
        if scores is not None:
            for question, answer in zip(batch.missing, left, strict=True):
                if not isinstance(answer, InferenceError):
                    batch.blind[question] = answer
                    scores.learn_blind(question, answer)
        done: list[PassResult] = [
            entry if isinstance(entry, PassFailed) else self._done(*entry, batch.blind) for entry in answered
        ]
        if scores is not None:
            for prefix, query, answer in again:
                if not isinstance(answer, InferenceError):
                    scores.note_again(prefix.symbols, _question(query), answer, batch.blind)
        return done

    def _done(
        self, reading: _Reading, results: Sequence[InferenceResult], blind: dict[Question, InferenceAnswer]
    ) -> PassDone:
        queries = reading.inference_pass.queries
        # What is no answer stays out of the scores: some are judged by the mean of a pass.
        usable = {
            index: result
            for index, result in enumerate(results)
            if not isinstance(result, InferenceError) and result.finite
        }
        answers = list(usable.values())
        if self._scores is None:
            values = [answer.probability for answer in answers]
        else:
            asked = [_question(queries[index]) for index in usable]
            values = self._scores.of_pass(reading.inference_pass, reading.symbols, asked, answers, blind)
        score_of = dict(zip(usable, values, strict=True))
        return PassDone(
            reading.inference_pass,
            tuple(
                _answer(query.query_id, result, score_of.get(index))
                for index, (query, result) in enumerate(zip(queries, results, strict=True))
            ),
        )


def _question(query: PassQuery) -> Question:
    return query.text, query.answer_type


def _item(features: torch.Tensor, query: PassQuery) -> InferenceItem:
    return InferenceItem(features, query.text, query.answer_type, query.question.options)


def _answer(query_id: str, result: InferenceResult, score: float | None) -> PassAnswer:
    if isinstance(result, InferenceError):
        return PassAnswer(query_id, "", 0.0, result.problem, failed=result.failed)
    if score is None:
        return PassAnswer(query_id, "", 0.0, "its logits are not finite")
    if not math.isfinite(score):
        return PassAnswer(query_id, "", 0.0, "the score of its answer is not finite")
    return PassAnswer(query_id, result.text, score)
