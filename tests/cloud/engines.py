"""An engine around a model in this process, for tests without a loop of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cloud_workers.inference.adapter import AnswerModel
from cloud_workers.inference.in_process import InProcessBackend
from cloud_workers.model_thread import model_thread
from cloud_workers.pass_engine import PassResult, VlmPassEngine
from cloud_workers.pass_scores import PassScores
from cloud_workers.prefix_store import PrefixStore
from pipeline.protocol.effects import InferencePass

THREAD = model_thread(1)


class BlockingEngine:
    """The engine of a worker, waited for."""

    def __init__(self, store: PrefixStore, model: AnswerModel, scores: PassScores | None = None) -> None:
        self._engine = VlmPassEngine(store, InProcessBackend(model, THREAD), THREAD, scores)

    def run(self, passes: Sequence[InferencePass]) -> list[PassResult]:
        """Results of the passes."""
        return asyncio.run(self._engine.run(passes))
