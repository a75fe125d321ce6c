"""How a worker's model is run: arithmetic in this process, or a vLLM server."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, SecretStr

from pipeline.config.section import Section
from schemas.hosts import check_http_url

ModelPrecision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16", "int8"]
"""Arithmetic of a model in this process."""


class VllmSettings(Section):
    """A vLLM server that runs the language model; see docs/serving.md."""

    url: Annotated[str, AfterValidator(check_http_url)]
    """Address of the server, without ``/v1``."""
    api_key: SecretStr | None = None
    """Sent as a bearer token."""
    timeout_s: Annotated[float, Field(ge=0.1, le=600)] = 30.0
    """Longest time of one request."""
    tries: Annotated[int, Field(ge=1, le=10)] = 3
    """Requests for one question, where the server is out of reach, overloaded or failing."""
    max_requests: Annotated[int, Field(ge=1, le=1_024)] = 64
    """Requests under way at a time."""
    max_batches: Annotated[int, Field(ge=1, le=64)] = 4
    """Batches of frames under way at a time."""
