"""The completions API of a vLLM server: what is asked of it, and what its replies say. Pure."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from cloud_workers.inference.backend import InferenceAnswer
from cloud_workers.inference.generation import one_line

TOP_TOKENS: Final = 20
"""Log-probabilities of each step: what vLLM gives unless it is told to give more."""
MAX_REPLY_BYTES: Final = 1_048_576
"""64 steps of 21 tokens with their names are some 60 KB."""


def request_body(model: str, prompt: torch.Tensor, max_tokens: int, end_tokens: Sequence[int]) -> bytes:
    """A greedy completion with log-probabilities, as JSON.

    Args:
        model: name that the server knows the model by.
        prompt: embeddings ``[T, D]``.
        max_tokens: that the answer may have.
        end_tokens: ids that end it.
    """
    buffer = io.BytesIO()
    torch.save(prompt.contiguous().clone(), buffer)
    body = {
        "model": model,
        "prompt_embeds": base64.b64encode(buffer.getvalue()).decode(),
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": list(end_tokens),
        "logprobs": TOP_TOKENS,
        # Several tokens may be spelt alike, and would be one entry.
        "return_tokens_as_token_ids": True,
    }
    return json.dumps(body).encode()


def read_completion(reply: bytes, vocabulary: int) -> InferenceAnswer:
    """The answer in a reply.

    Margin and entropy are those of the first token's distribution. Of the tokens beyond the best 20 only their sum is
    known: their entropy is taken in the middle between its bounds.

    Args:
        reply: as JSON.
        vocabulary: tokens that the model has.

    Raises:
        ValueError: it is no completion.
    """
    try:
        choice = json.loads(reply)["choices"][0]
        text, logprobs = choice["text"], choice["logprobs"]
        steps = [float(value) for value in logprobs["token_logprobs"]]
        first = sorted((float(value) for value in logprobs["top_logprobs"][0].values()), reverse=True)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"no completion with log-probabilities ({type(error).__name__}: {error})") from error
    if not isinstance(text, str) or not steps or len(first) < 2:
        raise ValueError("a completion without text or log-probabilities")
    total = math.fsum(steps)
    probability = math.exp(min(total, 0.0)) if math.isfinite(total) else math.nan
    best = [math.exp(value) for value in first[:TOP_TOKENS]]
    return InferenceAnswer(
        one_line(text), probability, len(steps), best[0] - best[1], entropy_nats(first[:TOP_TOKENS], vocabulary)
    )


def entropy_nats(top: Sequence[float], vocabulary: int) -> float:
    """Entropy of a distribution of which the best tokens are known.

    Args:
        top: log-probabilities, the best first.
        vocabulary: tokens in all.

    Returns:
        The middle between the bounds. What is left lies on few tokens as likely as the least of the known ones, or
        evenly on all others; with nothing left it is exact.
    """
    known = -math.fsum(math.exp(value) * value for value in top if value > -math.inf)
    left = 1.0 - math.fsum(math.exp(value) for value in top)
    others = vocabulary - len(top)
    if not left > 0 or others <= 0:
        return known if math.isfinite(left) else math.nan
    fewest = -left * top[-1]
    evenly = -left * math.log(left / others)
    return known + (fewest + max(fewest, evenly)) / 2


def error_message(reply: bytes) -> str:
    """What the server says is wrong, as one line of at most 300 characters."""
    try:
        found: Any = json.loads(reply)
        for key in ("error", "message", "detail"):
            if isinstance(found, Mapping) and key in found:
                found = found[key]
        text = str(found)
    except ValueError:
        text = reply.decode(errors="replace")
    return " ".join(text.split())[:300] or "it says nothing"
