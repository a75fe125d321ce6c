"""HTTP to a vLLM server: requests under way are bounded, each has a time limit, and some are tried again."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

import aiohttp

from cloud_workers.inference.vllm.completions import MAX_REPLY_BYTES, error_message
from pipeline.config.serving_settings import VllmSettings

BACKOFF_S: Final = 0.2
"""Wait before a second try; doubled for each further one."""
_OF_THE_QUESTION: Final = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
)
_JSON: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request.

    Attributes:
        body: of the reply; None without one.
        problem: why there is no good reply; empty where there is.
        of_the_question: the server has read the request and refuses it: another one may be good.
        passing: the server is out of reach, overloaded or failing: the same request may be good later.
    """

    body: bytes | None = None
    problem: str = ""
    of_the_question: bool = False
    passing: bool = False


class VllmClient:
    """Requests to one server; an async context manager.

    Args:
        settings: address and limits.
    """

    def __init__(self, settings: VllmSettings) -> None:
        self._settings = settings
        headers = {} if settings.api_key is None else {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=settings.max_requests),
            timeout=aiohttp.ClientTimeout(total=settings.timeout_s),
            headers=headers,
            # Its own address is all that it may be asked at: a redirect would carry the key elsewhere.
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    @property
    def url(self) -> str:
        """Address of the server."""
        return self._settings.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        await self._session.close()

    async def healthy(self) -> bool:
        """Whether the server says that it works."""
        reply = await self._once("GET", "/health", None)
        return not reply.problem

    async def get(self, path: str) -> Reply:
        """A reply to a question without a body, tried once."""
        return await self._once("GET", path, None)

    async def complete(self, body: bytes) -> Reply:
        """A completion; tried again where the server was out of reach, overloaded or failed.

        Args:
            body: as JSON.
        """
        reply = await self._once("POST", "/v1/completions", body)
        for attempt in range(1, self._settings.tries):
            if not reply.passing:
                break
            await asyncio.sleep(BACKOFF_S * 2.0 ** (attempt - 1))
            reply = await self._once("POST", "/v1/completions", body)
        return reply

    async def _once(self, method: str, path: str, body: bytes | None) -> Reply:
        url = self._settings.url.rstrip("/") + path
        data = None if body is None else io.BytesIO(body)
        try:
            async with self._session.request(method, url, data=data, headers=_JSON, allow_redirects=False) as response:
                found = await _bounded(response)
                status = response.status
        except TimeoutError:
            return Reply(problem=f"no reply within {self._settings.timeout_s:g} s", passing=True)
        except (aiohttp.ClientError, OSError) as error:
            return Reply(problem=f"{type(error).__name__}: {error}", passing=True)
        if found is None:
            return Reply(problem=f"its reply has more than {MAX_REPLY_BYTES} bytes")
        if status == HTTPStatus.OK:
            return Reply(found)
        problem = f"HTTP {status}: {error_message(found)}"
        passing = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS
        return Reply(found, problem, status in _OF_THE_QUESTION, passing)


async def _bounded(response: aiohttp.ClientResponse) -> bytes | None:
    """The body; None where it is longer than any reply."""
    parts = bytearray()
    async for part in response.content.iter_chunked(65_536):
        parts += part
        if len(parts) > MAX_REPLY_BYTES:
            return None
    return bytes(parts)
