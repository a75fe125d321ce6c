"""A vLLM server behind the inference seam, against a local server with the same API and the same checks."""

from __future__ import annotations

import asyncio
import math
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from aiohttp import web
from transformers import GenerationConfig

from cloud_workers.inference.backend import InferenceAnswer, InferenceItem, InferenceResult
from cloud_workers.inference.in_process import InProcessBackend
from cloud_workers.inference.registry import FAMILIES, load_model
from cloud_workers.inference.vllm import backend as vllm_backend
from cloud_workers.inference.vllm import client as vllm_client
from cloud_workers.inference.vllm.backend import VllmBackend, check_server, open_vllm
from cloud_workers.inference.vllm.completions import (
    MAX_REPLY_BYTES,
    entropy_nats,
    error_message,
    read_completion,
)
from cloud_workers.inference.vllm.language_model import export_language_model, served_model_name
from cloud_workers.inference.vllm.prompt_embeddings import PromptEmbeddings, load_prompt_embeddings
from cloud_workers.loading import load_worker_model
from pipeline.codec.spec import hash_vlm, load_codec_spec
from pipeline.config.serving_settings import VllmSettings
from pipeline.config.worker_settings import WorkerSettings
from schemas.errors import ArtifactError, ConfigError, EngineError, FeatureShapeError, ModelError
from schemas.types import AnswerType
from tests.cloud.engines import THREAD
from tests.cloud.tiny_codec import write_vlm
from tests.cloud.tiny_models import TOKEN_COUNT, TOKEN_DIM
from tests.cloud.vllm_server import LocalVllm, refused
from tests.tiny_models import write_tiny_model

PLAIN = sorted(name for name, family in FAMILIES.items() if family.plain_prompts)
OTHERS = sorted(set(FAMILIES) - set(PLAIN))
WORD = AnswerType.WORD
PROBABILITY_TOLERANCE = 1e-4
"""Both compute in float32; vLLM's kernels add up in another order."""


@pytest.fixture(scope="module")
def language_dir(tmp_path_factory: pytest.TempPathFactory, vlm_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("language")
    export_language_model(vlm_dir, folder)
    return folder


@pytest.fixture
async def server(language_dir: Path) -> AsyncIterator[LocalVllm]:
    async with LocalVllm(language_dir) as running:
        yield running


@pytest.fixture(scope="module")
def prompts(vlm_dir: Path) -> PromptEmbeddings:
    return load_prompt_embeddings(vlm_dir)


def features(seed: int) -> torch.Tensor:
    return torch.randn(TOKEN_COUNT, TOKEN_DIM, generator=torch.Generator().manual_seed(seed))


def items(count: int = 3) -> list[InferenceItem]:
    frame = features(1)
    return [InferenceItem(frame, f"What is it, number {index}?", WORD) for index in range(count)]


def backend_of(server: LocalVllm, prompts: PromptEmbeddings, **changes: object) -> VllmBackend:
    settings = VllmSettings.model_validate({"url": server.url, **changes})
    return VllmBackend(settings, prompts, THREAD, model=server.name, fingerprint="f")


async def submit(backend: VllmBackend, asked: Sequence[InferenceItem]) -> list[InferenceResult]:
    try:
        return await backend.submit(asked)
    finally:
        await backend.close()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_client, "BACKOFF_S", 0.0)


@pytest.mark.parametrize("family", PLAIN)
async def test_answers_and_scores_are_those_of_the_model_in_process(family: str, tmp_path: Path) -> None:
    vlm_dir, language = write_tiny_model(family, tmp_path / "vlm"), tmp_path / "language"
    export_language_model(vlm_dir, language)
    vlm = load_model(vlm_dir)
    generator = torch.Generator().manual_seed(5)
    frames = torch.randn(2, vlm.token_count, vlm.token_dim, generator=generator)
    asked = [
        InferenceItem(frame, text, kind)
        for frame in frames
        for text, kind in (("Is it red?", AnswerType.YES_NO), ("What is it?", WORD), ("Say more.", AnswerType.TEXT))
    ]
    expected = InProcessBackend(vlm, THREAD).answer(asked)
    async with LocalVllm(language) as server:
        backend = backend_of(server, load_prompt_embeddings(vlm_dir))
        assert (backend.capabilities.token_count, backend.capabilities.token_dim) == (vlm.token_count, vlm.token_dim)
        found = await submit(backend, asked)
    for one, other in zip(expected, found, strict=True):
        assert isinstance(one, InferenceAnswer)
        assert isinstance(other, InferenceAnswer)
        assert (other.text, other.token_count) == (one.text, one.token_count)
        assert other.probability == pytest.approx(one.probability, abs=PROBABILITY_TOLERANCE)
        assert other.margin == pytest.approx(one.margin, abs=PROBABILITY_TOLERANCE)
        # Random weights leave much to the tokens beyond the best 20, of which a bound is all that is known.
        assert other.entropy_nats == pytest.approx(one.entropy_nats, rel=0.25)


@pytest.mark.parametrize("family", OTHERS)
def test_models_whose_prompts_are_more_than_embeddings_are_refused(family: str, tmp_path: Path) -> None:
    vlm_dir = write_tiny_model(family, tmp_path / "vlm")
    with pytest.raises(ConfigError, match=r"worker\.vllm: .* reads more than embeddings"):
        load_prompt_embeddings(vlm_dir)
    with pytest.raises(ConfigError, match=r"worker\.vllm"):
        export_language_model(vlm_dir, tmp_path / "language")


def test_the_exported_folder_names_its_model_and_ends_greedily(vlm_dir: Path, language_dir: Path) -> None:
    name = (language_dir / "served-model-name").read_text().strip()
    assert name == served_model_name(hash_vlm(vlm_dir)) == f"latentbus-{hash_vlm(vlm_dir)[:16]}"
    generation = GenerationConfig.from_pretrained(language_dir)
    assert generation.eos_token_id is not None
    assert not generation.do_sample


async def test_a_prompt_that_is_refused_fails_alone(server: LocalVllm, prompts: PromptEmbeddings) -> None:
    narrow = replace(prompts, table=prompts.table[:, :8], prefix=prompts.prefix[:, :8])
    backend = backend_of(server, prompts)
    backend._prompts = replace(prompts, context_tokens=None)
    asked = [*items(1), InferenceItem(features(2), "x" * 2_000, WORD), *items(1)]
    good, long, also_good = await submit(backend, asked)
    assert isinstance(good, InferenceAnswer)
    assert isinstance(also_good, InferenceAnswer)
    assert isinstance(long, ModelError)
    assert "HTTP 400: the prompt is longer" in long.problem
    assert len(server.requests) == 3, "what is refused is not asked again"
    other = backend_of(server, narrow)
    (result,) = await submit(other, [InferenceItem(features(1)[:, :8], "a", WORD)])
    assert isinstance(result, ModelError)
    assert f"must be [T, {TOKEN_DIM}]" in result.problem


async def test_a_question_that_is_too_long_is_not_sent(server: LocalVllm, prompts: PromptEmbeddings) -> None:
    long = InferenceItem(features(2), "x" * 2_000, WORD)
    (result,) = await submit(backend_of(server, prompts), [long])
    assert isinstance(result, ModelError)
    assert "ask a shorter question" in result.problem
    assert server.requests == []


async def test_features_of_another_shape_fail_their_item(server: LocalVllm, prompts: PromptEmbeddings) -> None:
    wrong, right = await submit(
        backend_of(server, prompts), [InferenceItem(torch.zeros(3, TOKEN_DIM), "a", WORD), *items(1)]
    )
    assert isinstance(wrong, FeatureShapeError)
    assert isinstance(right, InferenceAnswer)


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_server_that_fails_for_a_moment_is_asked_again(
    server: LocalVllm, prompts: PromptEmbeddings, status: int
) -> None:
    faults = [status, status]
    server.fault = lambda: refused(faults.pop(), "overloaded") if faults else None
    (result,) = await submit(backend_of(server, prompts), items(1))
    assert isinstance(result, InferenceAnswer)
    assert len(server.requests) == 3


async def test_a_server_that_keeps_failing_fails_the_engine_and_is_asked_for_its_health_first(
    server: LocalVllm, prompts: PromptEmbeddings
) -> None:
    server.fault = lambda: refused(500, "CUDA error")
    server.healthy = False
    backend = backend_of(server, prompts, tries=2)
    first = await backend.submit(items(2))
    assert all(isinstance(result, EngineError) and result.failed == "engine" for result in first)
    assert "HTTP 500: CUDA error" in str(first[0])
    assert len(server.requests) == 4
    second = await backend.submit(items(2))
    assert all(isinstance(result, EngineError) for result in second)
    assert len(server.requests) == 4, "it says that it does not work, so that nothing is sent"
    server.healthy, server.fault = True, lambda: None
    third = await submit(backend, items(2))
    assert all(isinstance(result, InferenceAnswer) for result in third)


@pytest.mark.parametrize(("status", "said"), [(404, "no such model"), (401, "Unauthorized")])
async def test_what_is_wrong_with_the_engine_is_not_tried_again(
    server: LocalVllm, prompts: PromptEmbeddings, status: int, said: str
) -> None:
    server.fault = lambda: refused(status, said)
    (result,) = await submit(backend_of(server, prompts), items(1))
    assert isinstance(result, EngineError)
    assert f"HTTP {status}: {said}" in result.problem
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (web.Response(text="<html>"), "no completion"),
        (web.Response(text='{"choices": []}'), "no completion"),
        (web.Response(text='{"choices": [{"text": "a", "logprobs": null}]}'), "no completion"),
        (web.Response(body=b"x" * (MAX_REPLY_BYTES + 1)), "more than"),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}), "HTTP 302"),
    ],
    ids=["text", "no choice", "no logprobs", "endless", "redirect"],
)
async def test_a_reply_that_is_none_fails_the_engine(
    server: LocalVllm, prompts: PromptEmbeddings, reply: web.Response, problem: str
) -> None:
    server.fault = lambda: reply
    (result,) = await submit(backend_of(server, prompts), items(1))
    assert isinstance(result, EngineError)
    assert problem in result.problem


async def test_a_server_that_hangs_costs_the_time_limit(server: LocalVllm, prompts: PromptEmbeddings) -> None:
    go_on = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await go_on.wait()
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/completions", hang)
    from aiohttp.test_utils import TestServer

    slow = TestServer(app)
    await slow.start_server()
    try:
        settings = VllmSettings(url=str(slow.make_url("")), timeout_s=0.1, tries=2)
        backend = VllmBackend(settings, prompts, THREAD, model="any")
        (result,) = await submit(backend, items(1))
    finally:
        go_on.set()
        await slow.close()
    assert isinstance(result, EngineError)
    assert "no reply within 0.1 s" in result.problem


async def test_a_server_that_is_gone_fails_all_and_raises_nothing(
    language_dir: Path, prompts: PromptEmbeddings
) -> None:
    async with LocalVllm(language_dir) as server:
        backend = backend_of(server, prompts)
    results = await submit(backend, items(3))
    assert len(results) == 3
    assert all(isinstance(result, EngineError) for result in results)


async def test_requests_under_way_are_bounded(server: LocalVllm, prompts: PromptEmbeddings) -> None:
    results = await submit(backend_of(server, prompts, max_requests=2), items(8))
    assert all(isinstance(result, InferenceAnswer) for result in results)
    assert 1 <= server.most_under_way <= 2


async def test_the_key_is_sent_and_shown_nowhere(server: LocalVllm, prompts: PromptEmbeddings) -> None:
    backend = backend_of(server, prompts, api_key="hush-hush")
    await submit(backend, items(1))
    assert server.authorizations == ["Bearer hush-hush"]
    assert "hush-hush" not in repr(backend._settings)


async def test_a_closed_backend_takes_nothing(server: LocalVllm, prompts: PromptEmbeddings) -> None:
    backend = backend_of(server, prompts)
    await backend.close()
    (result,) = await backend.submit(items(1))
    assert isinstance(result, EngineError)
    assert server.requests == []


# ---- the start ------------------------------------------------------------------------------------------------------


async def opened(settings: WorkerSettings, codec_dir: Path) -> VllmBackend:
    """Opened in the model's thread, as a worker does; the server is in this loop."""
    assert settings.vllm is not None
    return await THREAD.call(open_vllm, settings, settings.vllm, load_codec_spec(codec_dir), THREAD)


async def test_a_worker_loads_its_codec_for_a_server(server: LocalVllm, vlm_dir: Path, codec_dir: Path) -> None:
    settings = WorkerSettings(vlm=str(vlm_dir), codec=codec_dir, threads=1, vllm=VllmSettings(url=server.url))
    model = await THREAD.call(load_worker_model, settings, THREAD)
    assert model.engine.max_concurrent_batches == 4
    assert model.backend.capabilities.backend == f"vLLM server at {server.url}"
    assert len(server.requests) == 2, "it has to tell two frames apart"
    await model.backend.close()


async def test_a_server_that_runs_another_model_is_refused(server: LocalVllm, vlm_dir: Path, codec_dir: Path) -> None:
    server.name = "someone/else"
    settings = WorkerSettings(vlm=str(vlm_dir), codec=codec_dir, vllm=VllmSettings(url=server.url))
    with pytest.raises(ArtifactError, match=r"it serves someone/else, .*`latentbus codec export-language-model`"):
        await opened(settings, codec_dir)


async def test_a_server_that_ignores_embeddings_is_refused(server: LocalVllm, prompts: PromptEmbeddings) -> None:
    same = server._model.get_input_embeddings()(torch.zeros(1, 40, dtype=torch.long))[0].detach()
    answer = server._answer

    server._answer = lambda prompt, body: answer(same, body)  # type: ignore[method-assign]
    with pytest.raises(ArtifactError, match="answers two frames alike"):
        await check_server(VllmSettings(url=server.url), prompts, server.name)


async def test_a_server_without_prompt_embeds_is_refused_with_the_fix(
    server: LocalVllm, prompts: PromptEmbeddings
) -> None:
    server.fault = lambda: refused(400, "You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
    with pytest.raises(ArtifactError, match="start vLLM with --enable-prompt-embeds"):
        await check_server(VllmSettings(url=server.url), prompts, server.name)


async def test_a_server_that_never_comes_is_named(
    language_dir: Path, prompts: PromptEmbeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_backend, "START_TRIES", 1)
    async with LocalVllm(language_dir) as server:
        url = server.url
    with pytest.raises(ConfigError, match=r"worker\.vllm\.url: no vLLM server at http://127"):
        await check_server(VllmSettings(url=url), prompts, "any")


def test_8_bits_are_refused_for_a_server(vlm_dir: Path, codec_dir: Path) -> None:
    vllm = VllmSettings(url="http://127.0.0.1:9")
    settings = WorkerSettings(vlm=str(vlm_dir), codec=codec_dir, precision="int8", vllm=vllm)
    with pytest.raises(ConfigError, match=r"worker\.precision"):
        open_vllm(settings, vllm, load_codec_spec(codec_dir), THREAD)


def test_another_model_than_the_codecs_is_refused(tmp_path: Path, codec_dir: Path) -> None:
    vllm = VllmSettings(url="http://127.0.0.1:9")
    settings = WorkerSettings(vlm=str(write_vlm(tmp_path / "other", seed=9)), codec=codec_dir, vllm=vllm)
    with pytest.raises(ArtifactError, match="was made for tiny"):
        open_vllm(settings, vllm, load_codec_spec(codec_dir), THREAD)


# ---- replies --------------------------------------------------------------------------------------------------------


def test_entropy_is_exact_where_all_tokens_are_known() -> None:
    probabilities = np.array([0.5, 0.25, 0.25])
    exact = -float((probabilities * np.log(probabilities)).sum())
    assert entropy_nats(np.log(probabilities).tolist(), 3) == pytest.approx(exact)


@pytest.mark.parametrize("seed", range(4))
def test_entropy_of_a_sure_answer_is_within_its_tolerance(seed: int) -> None:
    """A trained model leaves little to the tokens beyond the best 20."""
    logits = np.random.default_rng(seed).normal(0, 4.0, 49_280)
    logits[:3] += (22.0, 21.0, 19.0)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    exact = -float((probabilities * np.log(probabilities)).sum())
    top = np.sort(np.log(probabilities))[::-1][:20].tolist()
    assert 1 - np.exp(top).sum() < 0.02
    assert entropy_nats(top, 49_280) == pytest.approx(exact, abs=0.05)


def test_numbers_that_are_none_are_no_answer() -> None:
    body = (
        b'{"choices": [{"text": "a", "logprobs": {"token_logprobs": [NaN], '
        b'"top_logprobs": [{"token_id:1": NaN, "token_id:2": -1.0}]}}]}'
    )
    answer = read_completion(body, 100)
    assert math.isnan(answer.probability)
    assert not answer.finite
    with pytest.raises(ValueError, match="no completion"):
        read_completion(b"[]", 100)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b'{"error": {"message": "no\\nway", "code": 400}}', "no way"),
        (b'{"detail": "not found"}', "not found"),
        (b"plain text", "plain text"),
        (b"", "it says nothing"),
        (b"\xff" * 2_000, "\ufffd" * 300),
    ],
)
def test_what_the_server_says_is_one_line(reply: bytes, said: str) -> None:
    assert error_message(reply) == said


def test_the_script_that_starts_vllm_is_sound(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "scripts" / "vllm.sh"
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    done = subprocess.run(["sh", str(script), "start", str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "vllm.sh install FOLDER" in done.stderr
