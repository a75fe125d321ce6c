"""The model in this process: transformers, in the worker's model thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from huggingface_hub import snapshot_download
from transformers.utils.logging import disable_progress_bar

from cloud_workers.inference.adapter import AnswerModel
from cloud_workers.inference.backend import Capabilities, InferenceAnswer, InferenceItem, InferenceResult
from cloud_workers.inference.isolation import Isolation, described
from cloud_workers.inference.registry import hub_id_and_revision, load_model
from pipeline.codec.bundled import bundled_vlm_dir
from pipeline.codec.device_torch import check_device
from pipeline.codec.spec import CodecSpec
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.work_thread import WorkThread
from schemas.errors import EngineError, InferenceError, ModelError

CONCURRENT_BATCHES: Final = 1
"""One thread computes. A second batch would wait for it, where more urgent frames could no longer go first."""


class InProcessBackend:
    """Runs a model in a thread of this process.

    Args:
        model: touched in the thread only.
        thread: that thread; whoever made it ends it.
        fingerprint: `pipeline.codec.spec.hash_vlm` of it.
    """

    def __init__(self, model: AnswerModel, thread: WorkThread, *, fingerprint: str = "") -> None:
        self.capabilities = Capabilities(
            backend="model in process",
            family=model.family,
            fingerprint=fingerprint,
            token_count=model.token_count,
            token_dim=model.token_dim,
            max_concurrent_batches=CONCURRENT_BATCHES,
        )
        self._model = model
        self._thread = thread
        self._isolation = Isolation("the model failed on a question")
        self._closed = False

    async def submit(self, items: Sequence[InferenceItem]) -> list[InferenceResult]:
        """Answer a batch; see :meth:`InferenceBackend.submit`."""
        if self._closed:
            return [EngineError(self.capabilities.backend, "it was closed") for _ in items]
        return await self._thread.call(self.answer, items) if items else []

    async def close(self) -> None:
        """Take nothing more."""
        self._closed = True

    @torch.inference_mode()
    def answer(self, items: Sequence[InferenceItem]) -> list[InferenceResult]:
        """Answer a batch in the thread that this is called in."""
        results: list[InferenceResult | None] = [self.capabilities.shape_problem(item) for item in items]
        asked = [index for index, problem in enumerate(results) if problem is None]
        answers = self._isolation.run([items[index] for index in asked], self._answer_together)
        for index, answer in zip(asked, answers, strict=True):
            results[index] = self._result(answer)
        return [result for result in results if result is not None]

    def _answer_together(self, items: Sequence[InferenceItem]) -> list[InferenceAnswer]:
        frames = {id(item.features): item.features for item in items}
        row = {identity: index for index, identity in enumerate(frames)}
        return self._model.answer(
            torch.stack(list(frames.values())),
            [(item.prompt, item.answer_type) for item in items],
            frames=[row[id(item.features)] for item in items],
        )

    def _result(self, answer: InferenceAnswer | Exception) -> InferenceResult:
        if isinstance(answer, InferenceError):
            return answer
        if isinstance(answer, Exception):
            return ModelError(self.capabilities.backend, described(answer))
        return ModelError(self.capabilities.backend, answer.problem) if answer.problem else answer


def open_in_process(settings: WorkerSettings, spec: CodecSpec, thread: WorkThread) -> InProcessBackend:
    """Load the model that the settings name. Takes seconds to minutes; runs in the thread.

    Args:
        settings: of the worker.
        spec: of the codec, whose model it has to be.
        thread: where it will run.

    Raises:
        ArtifactError: it is missing or damaged, of an unknown family, or another model than the codec's.
        ConfigError: there is no such device.
    """
    check_device(settings.device, "worker.device")
    source = str(bundled_vlm_dir()) if settings.vlm is None else settings.vlm
    local = Path(source)
    if local.is_dir():
        spec.check_vlm(local)  # before the weights are loaded
    # Progress bars have no place in the log of a service.
    disable_progress_bar()
    model = load_model(
        source,
        device=settings.device,
        precision=settings.precision,
        tiles_per_edge=spec.tiles_per_edge,
        frame_size_px=spec.tile_px,
    )
    if not local.is_dir():
        hub_id, revision = hub_id_and_revision(source)
        spec.check_vlm(Path(snapshot_download(hub_id, revision=revision, local_files_only=True)))
    return InProcessBackend(model, thread, fingerprint=spec.vlm_sha256)
