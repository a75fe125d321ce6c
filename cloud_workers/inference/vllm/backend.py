"""A vLLM server behind the inference seam: each question is a request, several of them are under way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from huggingface_hub import snapshot_download
from transformers.utils.logging import disable_progress_bar

from cloud_workers.inference.backend import (
    Capabilities,
    InferenceAnswer,
    InferenceItem,
    InferenceResult,
)
from cloud_workers.inference.generation import too_long
from cloud_workers.inference.isolation import described
from cloud_workers.inference.precision import weights_dtype
from cloud_workers.inference.registry import hub_id_and_revision
from cloud_workers.inference.vllm.client import Reply, VllmClient
from cloud_workers.inference.vllm.completions import read_completion, request_body
from cloud_workers.inference.vllm.language_model import served_model_name
from cloud_workers.inference.vllm.prompt_embeddings import PromptEmbeddings, load_prompt_embeddings
from pipeline.codec.bundled import bundled_vlm_dir
from pipeline.codec.spec import CodecSpec
from pipeline.config.logs import get_logger
from pipeline.config.serving_settings import VllmSettings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.work_thread import WorkThread
from pipeline.protocol.worker_work import ANSWER_TOKENS
from schemas.errors import ArtifactError, ConfigError, EngineError, ModelError
from schemas.types import AnswerType

START_TRIES: Final = 60
"""Looks for a server that starts, one a second: vLLM takes that long to load a model."""
_PROBE: Final = "What is this?"
_FILES: Final = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors"]

_log = get_logger(__name__)


class VllmBackend:
    """Asks a vLLM server.

    A server that is out of reach fails the questions that were sent to it. Until it says that it works again, further
    ones fail at once, so that their edges hear of it in time.

    Args:
        settings: of the server.
        prompts: makes its prompts; touched in the thread only.
        thread: where prompts are made.
        model: name that the server knows the model by.
        fingerprint: `pipeline.codec.spec.hash_vlm` of it.
    """

    def __init__(
        self,
        settings: VllmSettings,
        prompts: PromptEmbeddings,
        thread: WorkThread,
        *,
        model: str,
        fingerprint: str = "",
    ) -> None:
        self.capabilities = Capabilities(
            backend=f"vLLM server at {settings.url}",
            family=prompts.family.model_type,
            fingerprint=fingerprint,
            token_count=prompts.prompts.placeholder_count,
            token_dim=int(prompts.table.shape[1]),
            max_concurrent_batches=settings.max_batches,
        )
        self._settings = settings
        self._prompts = prompts
        self._thread = thread
        self._model = model
        self._client: VllmClient | None = None
        # A request holds its whole prompt: those that wait for their turn have none yet.
        self._turns = asyncio.Semaphore(settings.max_requests)
        self._down = False
        self._closed = False

    async def submit(self, items: Sequence[InferenceItem]) -> list[InferenceResult]:
        """Answer a batch; see :meth:`InferenceBackend.submit`."""
        if self._closed:
            return [self._engine_error("it was closed") for _ in items]
        if self._client is None:
            # It belongs to the event loop that it is made in.
            self._client = VllmClient(self._settings)
        client = self._client
        if self._down and items:
            if not await client.healthy():
                return [self._engine_error("still out of reach") for _ in items]
            self._down = False
            _log.info("the vLLM server works again", url=self._settings.url)
        return list(await asyncio.gather(*(self._answer(client, item) for item in items)))

    async def close(self) -> None:
        """Take nothing more, and end all connections."""
        self._closed = True
        if self._client is not None:
            await self._client.close()

    async def _answer(self, client: VllmClient, item: InferenceItem) -> InferenceResult:
        if (problem := self.capabilities.shape_problem(item)) is not None:
            return problem
        try:
            async with self._turns:
                body = await self._thread.call(self._body, item)
                return self._result(await client.complete(body))
        except ModelError as error:
            return error
        except Exception as error:  # noqa: BLE001 - one question must not take the others along
            return self._engine_error(described(error))

    def _body(self, item: InferenceItem) -> bytes:
        limit = ANSWER_TOKENS[item.answer_type]
        needed = self._prompts.length(item.prompt) + limit
        if problem := too_long(needed, self._prompts.context_tokens):
            raise ModelError(self.capabilities.backend, problem)
        prompt = self._prompts.of(item.features, item.prompt)
        return request_body(self._model, prompt, limit, sorted(self._prompts.end_tokens))

    def _result(self, reply: Reply) -> InferenceResult:
        if reply.problem:
            if reply.of_the_question:
                return ModelError(self.capabilities.backend, reply.problem)
            if reply.passing and not self._down:
                self._down = True
                _log.error("the vLLM server is out of reach", url=self._settings.url, problem=reply.problem)
            return self._engine_error(reply.problem)
        try:
            return read_completion(reply.body or b"", len(self._prompts.table))
        except ValueError as error:
            return self._engine_error(str(error))

    def _engine_error(self, problem: str) -> EngineError:
        return EngineError(self.capabilities.backend, problem)


def open_vllm(settings: WorkerSettings, vllm: VllmSettings, spec: CodecSpec, thread: WorkThread) -> VllmBackend:
    """Read what prompts are made of, and see that the server runs the codec's model. Takes seconds; runs in the thread.

    Args:
        settings: of the worker.
        vllm: of the server.
        spec: of the codec, whose model it has to be.
        thread: where prompts will be made.

    Raises:
        ArtifactError: the model is missing or damaged, another one than the codec's, or not what the server runs.
        ConfigError: the server is out of reach, or settings do not go together.
    """
    if settings.precision == "int8":
        raise ConfigError("worker.precision", "int8 is for a model in this process: a vLLM server has its own")
    source = str(bundled_vlm_dir()) if settings.vlm is None else settings.vlm
    folder = Path(source)
    if not folder.is_dir():
        disable_progress_bar()
        hub_id, revision = hub_id_and_revision(source)
        try:
            folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=_FILES))
        except (OSError, ValueError) as error:
            raise ArtifactError(source, f"no such folder, nor a model of the hub that can be had ({error})") from error
    spec.check_vlm(folder)
    dtype = weights_dtype(settings.precision, "cpu")
    prompts = load_prompt_embeddings(
        folder,
        dtype=torch.float32 if dtype == "auto" else dtype,
        tiles_per_edge=spec.tiles_per_edge,
        frame_size_px=spec.tile_px,
    )
    model = served_model_name(spec.vlm_sha256)
    backend = VllmBackend(vllm, prompts, thread, model=model, fingerprint=spec.vlm_sha256)
    asyncio.run(check_server(vllm, prompts, model))
    return backend


async def check_server(settings: VllmSettings, prompts: PromptEmbeddings, model: str) -> None:
    """Wait for a server, and see that it runs a model, takes embeddings, and tells one frame from another.

    Args:
        settings: of the server.
        prompts: of the model.
        model: name that the server has to know it by.

    Raises:
        ConfigError: it is out of reach.
        ArtifactError: it runs something else, or cannot read such prompts.
    """
    async with VllmClient(settings) as client:
        reply = await client.get("/v1/models")
        for attempt in range(1, START_TRIES):
            if not reply.passing:
                break
            if attempt == 1:
                _log.info("waiting for the vLLM server", url=settings.url, problem=reply.problem)
            await asyncio.sleep(1.0)
            reply = await client.get("/v1/models")
        if reply.problem:
            raise ConfigError("worker.vllm.url", f"no vLLM server at {settings.url} ({reply.problem})")
        served = _served_names(reply.body or b"")
        if model not in served:
            raise ArtifactError(
                settings.url,
                f"it serves {', '.join(served) or 'no model'}, the codec was made for the model that is called {model} "
                "there: serve the folder of `latentbus codec export-language-model` under the name in its file "
                "served-model-name",
            )
        first, second = [await _probe(client, prompts, model, seed) for seed in (0, 1)]
        if first[1:] == second[1:]:
            raise ArtifactError(settings.url, "it answers two frames alike: it does not read prompt_embeds")


async def _probe(client: VllmClient, prompts: PromptEmbeddings, model: str, seed: int) -> InferenceAnswer:
    """The answer about random features.

    Raises:
        ArtifactError: there is none.
    """
    shape = (prompts.prompts.placeholder_count, prompts.table.shape[1])
    features = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    body = request_body(
        model, prompts.of(features, _PROBE), ANSWER_TOKENS[AnswerType.YES_NO], sorted(prompts.end_tokens)
    )
    reply = await client.complete(body)
    problem = reply.problem
    if not problem:
        try:
            return read_completion(reply.body or b"", len(prompts.table))
        except ValueError as error:
            problem = str(error)
    raise ArtifactError(
        client.url, f"it cannot read a prompt of embeddings ({problem}): start vLLM with --enable-prompt-embeds"
    )


def _served_names(body: bytes) -> list[str]:
    try:
        return [str(entry["id"]) for entry in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return []
