"""A server with the part of vLLM's completions API that a worker uses, and vLLM's checks, around transformers."""

from __future__ import annotations

import asyncio
import base64
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from aiohttp import web
from aiohttp.test_utils import TestServer
from transformers import AutoModelForCausalLM, AutoTokenizer

from cloud_workers.inference.vllm.language_model import NAME_FILE

MAX_LOGPROBS = 20


class LocalVllm:
    """Answers as vLLM does, one request at a time; a fault can be put before its answers.

    Args:
        folder: of `export_language_model`.

    Attributes:
        name: of the model.
        requests: bodies of the completions asked for.
        fault: makes a response in place of the next completions, or None for a good one.
        healthy: what its health is.
    """

    def __init__(self, folder: Path) -> None:
        self.name = (folder / NAME_FILE).read_text().strip()
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.fault: Callable[[], web.StreamResponse | None] = lambda: None
        self.healthy = True
        self.under_way = self.most_under_way = 0
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._server: TestServer | None = None

    @property
    def url(self) -> str:
        """Its address."""
        assert self._server is not None
        return str(self._server.make_url("")).rstrip("/")

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._completions)
        self._server = TestServer(app)
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await self._server.close()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.authorizations.append(request.headers.get("Authorization"))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0)  # lets others come in
            return self.fault() or self._complete(body)
        finally:
            self.under_way -= 1

    def _complete(self, body: dict[str, Any]) -> web.Response:
        if body["model"] != self.name:
            return refused(404, f"The model `{body['model']}` does not exist.")
        if body["logprobs"] > MAX_LOGPROBS:
            return refused(400, f"Requested logprobs of {body['logprobs']}, greater than {MAX_LOGPROBS}")
        try:
            raw = base64.b64decode(body["prompt_embeds"], validate=True)
            prompt = torch.load(io.BytesIO(raw), weights_only=True)
        except (ValueError, RuntimeError, pickle.UnpicklingError) as error:
            return refused(400, str(error))
        width = self._model.config.hidden_size
        if not torch.is_tensor(prompt) or prompt.ndim != 2 or prompt.shape[1] != width:
            return refused(400, f"prompt_embeds must be [T, {width}], not {list(getattr(prompt, 'shape', []))}")
        if len(prompt) + body["max_tokens"] > self._model.config.max_position_embeddings:
            return refused(400, "the prompt is longer than the maximum model length")
        return web.json_response(self._answer(prompt.float(), body))

    @torch.inference_mode()
    def _answer(self, prompt: torch.Tensor, body: dict[str, Any]) -> dict[str, Any]:
        ends = set(body["stop_token_ids"])
        embeds, cache = prompt[None], None
        ids: list[int] = []
        chosen, top = [], []
        for _ in range(body["max_tokens"]):
            output = self._model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logprobs = output.logits[0, -1].float().log_softmax(dim=-1)
            values, tokens = logprobs.topk(body["logprobs"])
            ids.append(int(tokens[0]))
            chosen.append(float(values[0]))
            entries = zip(tokens.tolist(), values.tolist(), strict=True)
            # As vLLM writes what JSON lacks.
            top.append({f"token_id:{token}": max(value, -9999.0) for token, value in entries})
            if ids[-1] in ends:
                break
            embeds = self._model.get_input_embeddings()(torch.tensor([[ids[-1]]]))
        ended = ids[-1] in ends
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        assert all(map(math.isfinite, chosen))
        choice = {
            "index": 0,
            "text": text,
            "finish_reason": "stop" if ended else "length",
            "logprobs": {
                "tokens": [f"token_id:{token}" for token in ids],
                "token_logprobs": chosen,
                "top_logprobs": top,
                "text_offset": [0] * len(ids),
            },
        }
        return {"id": "cmpl-1", "object": "text_completion", "model": self.name, "choices": [choice]}


def refused(status: int, message: str) -> web.Response:
    """An error as vLLM writes it."""
    return web.json_response({"error": {"message": message, "type": "BadRequestError", "code": status}}, status=status)
