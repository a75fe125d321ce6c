"""What each address of the API does: one table that the routes and the OpenAPI document are made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from latentbus.gateway.access import Role
from latentbus.gateway.models import (
    AlertList,
    AnswerList,
    AskRequest,
    AskResult,
    CameraList,
    CameraView,
    FleetList,
    HealthView,
    HistoryPage,
    SessionRequest,
    SessionView,
)
from schemas.types import Name, Outcome

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
MAX_PAGE: Final = 1_000
MAX_SEARCH_CHARS: Final = 200


class _Query(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class HistoryQuery(_Query):
    """What is looked for."""

    camera: Name | None = None
    """Name of a camera."""
    question: Name | None = None
    """Id of a standing question."""
    outcome: Outcome | None = None
    """How it ended."""
    text: Annotated[str, Field(min_length=1, max_length=MAX_SEARCH_CHARS)] | None = None
    """Part of the question or of the answer."""
    since: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Received at this time or later, in seconds since 1970."""
    until: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Received before this time, in seconds since 1970."""
    before: Annotated[int, Field(ge=1, le=2**62)] | None = None
    """`next_before` of the page before."""
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    """Outcomes of one page."""


class AlertsQuery(_Query):
    """Which alerts."""

    before: Annotated[int, Field(ge=1, le=2**62)] | None = None
    """Alerts with smaller numbers alone."""
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    """How many."""


class AnswersQuery(_Query):
    """Whose answers."""

    camera: Name | None = None
    """Name of a camera; all of them unless given."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address of the API.

    Attributes:
        method: HTTP method.
        path: with its parameters in braces.
        name: of the handler, and of the operation.
        summary: one line.
        text: more of it.
        role: who may; None for everybody, with or without a token.
        response: what comes back as JSON; None where that is something else.
        request: what the body holds.
        query: what the address may say after ``?``.
        statuses: refusals, beside those that every address may give.
        stream: events of the stream that it can be; empty where it is none.
        status: of a success.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    name: str
    summary: str
    role: Role | None
    response: type[BaseModel] | None
    text: str = ""
    request: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    statuses: tuple[int, ...] = ()
    stream: tuple[str, ...] = ()
    status: int = 200


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST", "/v1/ask", "ask", "Ask a camera a question", "asker", AskResult, request=AskRequest,
        text="As server-sent events: `answer` for each provisional answer that is better than the one before, then "
        "`final`, or `error`. With `Accept: application/json` it waits for the final answer. Asked again with the same "
        "`id` and camera, the same answer comes.",
        statuses=(404, 409, 422, 504), stream=("answer", "final", "error"),
    ),
    Endpoint(
        "GET", "/v1/events", "events", "Everything that happens", "viewer", None,
        text="Server-sent events: `snapshot` first, then `answer`, `fleet`, `cameras`, `alert`, and `end` with the "
        "reason. Who reads too slowly is dropped with the reason `too_slow`, and begins again with a snapshot.",
        stream=("snapshot", "answer", "fleet", "cameras", "alert", "end"),
    ),
    Endpoint("GET", "/v1/cameras", "cameras", "All cameras with their latest answers", "viewer", CameraList),
    Endpoint(
        "GET", "/v1/cameras/{camera}", "camera", "One camera with its latest answers", "viewer", CameraView,
        statuses=(404,),
    ),
    Endpoint("GET", "/v1/workers", "fleet", "Sites and workers", "viewer", FleetList),
    Endpoint(
        "GET", "/v1/answers", "answers", "The latest final answer to each question", "viewer", AnswerList,
        query=AnswersQuery,
    ),
    Endpoint(
        "GET", "/v1/history", "history", "Outcomes, the newest first", "viewer", HistoryPage, query=HistoryQuery,
    ),
    Endpoint("GET", "/v1/alerts", "alerts", "Alerts", "viewer", AlertList, query=AlertsQuery),
    Endpoint("GET", "/v1/session", "session", "Whose token this is", "viewer", SessionView),
    Endpoint(
        "POST", "/v1/session", "log_in", "Keep a token as a cookie", None, SessionView, request=SessionRequest,
        text="For browsers: the cookie is sent to this gateway alone, and no script can read it.",
    ),
    Endpoint("DELETE", "/v1/session", "log_out", "Forget the cookie", None, None, status=204),
    Endpoint("GET", "/healthz", "healthz", "Whether the process lives", None, HealthView),
    Endpoint("GET", "/readyz", "readyz", "Whether it does its work", None, HealthView, statuses=(503,)),
    Endpoint(
        "GET", "/metrics", "metrics", "Metrics, as Prometheus reads them", "operator", None,
    ),
    Endpoint("GET", "/openapi.json", "openapi", "This document", None, None),
)  # fmt: skip
"""Every address but the dashboard's own files."""
