"""The handlers of the API, and the application that serves them with the dashboard."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from importlib.resources import files
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from latentbus.gateway.access import Access
from latentbus.gateway.endpoints import ENDPOINTS, AlertsQuery, AnswersQuery, Endpoint, HistoryQuery
from latentbus.gateway.errors import BadRequestError, ForbiddenError, NotFoundError, RequestError, UnauthenticatedError
from latentbus.gateway.guard import CLIENT, COOKIE, Guard, principal_of
from latentbus.gateway.history import History, search_of
from latentbus.gateway.hub import encoded, json_line
from latentbus.gateway.models import (
    AlertList,
    AnswerList,
    AnswerView,
    AskRequest,
    AskResult,
    CameraList,
    FleetList,
    HealthView,
    HistoryPage,
    ProblemView,
    SessionRequest,
)
from latentbus.gateway.openapi import document
from latentbus.gateway.rates import Rates
from latentbus.gateway.responses import JSON, as_request_error, json_response, problem_response
from latentbus.gateway.service import Gateway
from latentbus.gateway.telemetry import GatewayMetrics
from pipeline.config.gateway_settings import GatewaySettings
from pipeline.config.logs import get_logger
from pipeline.node.containment import Containment
from schemas.errors import LatentbusError
from schemas.problems import problem_text

STATIC: Final = Path(str(files("latentbus.gateway") / "static"))
PING_S: Final = 15.0
SEND_TIMEOUT_S: Final = 20.0
"""A client that takes nothing for so long is gone."""
FIRST_STATUS_S: Final = 2.0
"""So long a question may end with a status of its own; a stream that has begun can only say so as an event."""
COOKIE_S: Final = 30 * 86_400
_Model = TypeVar("_Model", bound=BaseModel)

_log = get_logger(__name__)


class Api:
    """Answers requests.

    Args:
        gateway: what they are about.
        access: the tokens.
        rates: what each client may cost.
        metrics: where they are counted.
        secure: whether cookies are for HTTPS alone.
        now_s: monotonic time.
    """

    def __init__(
        self,
        gateway: Gateway,
        access: Access,
        rates: Rates,
        metrics: GatewayMetrics,
        *,
        secure: bool,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gateway = gateway
        self._access = access
        self._rates = rates
        self._metrics = metrics
        self._secure = secure
        self._now_s = now_s
        self._document = json.dumps(document())

    # ---- asking -----------------------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Response:
        """A question to a camera."""
        principal = principal_of(request.scope)
        question = await body_of(request, AskRequest)
        principal.check_camera(question.camera)
        self._rates.ask(request.scope[CLIENT], self._now_s())
        answers = self._gateway.ask(question)
        if wants_json(request):
            return await self._asked(request, answers)
        client = request.scope[CLIENT]
        self._rates.open_stream(client)
        try:
            first = await self._first_of(answers)
        except BaseException:
            self._rates.close_stream(client)
            raise

        def leave() -> None:
            first.cancel()
            self._rates.close_stream(client)

        return _EventStream(self._events_of(first, answers), leave, self._gateway.hub.note_stuck)

    async def _first_of(self, answers: AsyncGenerator[AnswerView, None]) -> asyncio.Task[AnswerView]:
        """The first answer, which may not be there yet: a question that ends before it has a status of its own.

        Raises:
            LatentbusError: why it has ended.
        """
        first = asyncio.create_task(_next(answers), name="first answer")
        try:
            await asyncio.wait({first}, timeout=FIRST_STATUS_S)
        except BaseException:
            first.cancel()
            await answers.aclose()
            raise
        if first.done() and (error := first.exception()) is not None:
            await answers.aclose()
            raise error
        return first

    async def _asked(self, request: Request, answers: AsyncGenerator[AnswerView, None]) -> Response:
        """All answers at once; whoever hangs up does not wait for them any more."""
        collected: list[AnswerView] = []

        async def collect() -> None:
            async with aclosing(answers):
                collected.extend([answer async for answer in answers])

        work = asyncio.create_task(collect(), name="ask")
        gone = asyncio.create_task(_hung_up(request), name="hung up")
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnect
            work.result()
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        *provisional, final = collected
        return json_response(AskResult(final=final, provisional=tuple(provisional)))

    async def _events_of(
        self, first: asyncio.Task[AnswerView], answers: AsyncGenerator[AnswerView, None]
    ) -> AsyncIterator[bytes]:
        try:
            async with aclosing(answers):
                yield _event_of(await first)
                async for answer in answers:
                    yield _event_of(answer)
        except LatentbusError as error:
            refused = as_request_error(error)
            problem = ProblemView(code=refused.code, problem=refused.problem)
            yield encoded("error", json_line(problem.model_dump(mode="json")))

    # ---- reading ----------------------------------------------------------------------------------------------------

    async def events(self, request: Request) -> Response:
        """Everything that happens."""
        principal, client = principal_of(request.scope), request.scope[CLIENT]
        self._rates.open_stream(client)
        subscriber = self._gateway.subscribe(principal)

        def leave() -> None:
            self._gateway.hub.leave(subscriber)
            self._rates.close_stream(client)

        return _EventStream(subscriber.chunks(), leave, self._gateway.hub.note_stuck)

    async def cameras(self, request: Request) -> Response:
        """All cameras."""
        seen = principal_of(request.scope).cameras
        return json_response(CameraList(cameras=self._gateway.state.cameras(seen or None)))

    async def camera(self, request: Request) -> Response:
        """One camera."""
        name = request.path_params["camera"]
        principal_of(request.scope).check_camera(name)
        if not self._gateway.state.knows(name):
            raise NotFoundError(f"no edge that is online serves camera {name[:64]}")
        return json_response(self._gateway.state.camera(name))

    async def fleet(self, request: Request) -> Response:
        """Sites and workers."""
        seen = principal_of(request.scope).cameras
        state = self._gateway.state
        return json_response(FleetList(sites=state.sites(self._now_s(), seen), workers=state.workers(seen)))

    async def answers(self, request: Request) -> Response:
        """The latest answers."""
        query = query_of(request, AnswersQuery)
        seen = principal_of(request.scope).cameras
        wanted = None if query.camera is None else {query.camera}
        names = seen or wanted if wanted is None or not seen else seen & wanted
        found = [
            question.answer
            for camera in self._gateway.state.cameras(names)
            for question in camera.questions
            if question.answer is not None
        ]
        return json_response(AnswerList(answers=tuple(found)))

    async def history(self, request: Request) -> Response:
        """Outcomes."""
        query = query_of(request, HistoryQuery)
        seen = principal_of(request.scope).cameras
        search = search_of({**query.model_dump(), "cameras": seen})
        found, gaps = await self._gateway.store.request(History.search, search)
        return json_response(
            HistoryPage(
                outcomes=tuple(outcome for _, outcome in found),
                next_before=found[-1][0] if len(found) == query.limit else None,
                gaps=tuple(gaps),
            )
        )

    async def alerts(self, request: Request) -> Response:
        """Alerts."""
        query = query_of(request, AlertsQuery)
        principal = principal_of(request.scope)
        found = await self._gateway.store.request(History.alerts, query.limit, before=query.before)
        return json_response(AlertList(alerts=tuple(alert for alert in found if principal.sees(alert.camera))))

    # ---- who is asking ----------------------------------------------------------------------------------------------

    async def session(self, request: Request) -> Response:
        """Whose token this is."""
        return json_response(principal_of(request.scope).view())

    async def log_in(self, request: Request) -> Response:
        """Keep a token as a cookie."""
        body = await body_of(request, SessionRequest)
        principal = self._access.principal(body.token)
        if principal is None:
            raise UnauthenticatedError("this token is not known")
        response = json_response(principal.view())
        response.set_cookie(
            COOKIE, body.token, max_age=COOKIE_S, httponly=True, samesite="strict", secure=self._secure, path="/"
        )
        return response

    async def log_out(self, request: Request) -> Response:
        """Forget the cookie."""
        del request
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=self._secure, path="/")
        return response

    # ---- the gateway itself -----------------------------------------------------------------------------------------

    async def healthz(self, request: Request) -> Response:
        """Whether the process lives."""
        del request
        return json_response(HealthView(ready=self._gateway.health().ready, problems=()))

    async def readyz(self, request: Request) -> Response:
        """Whether it does its work."""
        del request
        health = self._gateway.health()
        return json_response(health, 200 if health.ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Metrics."""
        if principal_of(request.scope).cameras:
            raise ForbiddenError("the metrics are about all cameras, and this token is held to some")
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document."""
        del request
        return Response(self._document, media_type=JSON)


async def page(request: Request) -> Response:
    """The dashboard."""
    del request
    return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")


def make_app(
    gateway: Gateway,
    settings: GatewaySettings,
    access: Access,
    metrics: GatewayMetrics,
    *,
    now_s: Callable[[], float] = time.monotonic,
) -> Guard:
    """The application: routes behind the guard.

    Args:
        gateway: what requests are about; running.
        settings: hosts, origins, limits, TLS.
        access: the tokens.
        metrics: where requests are counted.
        now_s: monotonic time.
    """
    rates = Rates(settings.limits)
    api = Api(gateway, access, rates, metrics, secure=settings.tls is not None, now_s=now_s)
    containment = Containment(_log)
    routes: list[BaseRoute] = [Route("/", page), Mount("/static", StaticFiles(directory=STATIC))]
    for endpoint in ENDPOINTS:
        handler = _counted(_checked(getattr(api, endpoint.name), endpoint), endpoint, metrics, containment)
        routes.append(Route(endpoint.path, handler, methods=[endpoint.method]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_problem, RequestError: _request_problem})
    guard = Guard(app, access, rates, hosts=settings.hosts, origins=settings.origins, now_s=now_s)
    metrics.watch_rates(rates, guard.refused)
    return guard


async def body_of(request: Request, model: type[_Model]) -> _Model:
    """The body of a request.

    Raises:
        BadRequestError: it is no JSON, or not what is wanted; names the field.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise BadRequestError(f"the body must be JSON: send Content-Type: {JSON}")
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        raise _bad_request(error) from None


def query_of(request: Request, model: type[_Model]) -> _Model:
    """What the address says after ``?``.

    Raises:
        BadRequestError: it is not what is wanted; names the parameter.
    """
    try:
        return model.model_validate_strings(dict(request.query_params))
    except ValidationError as error:
        raise _bad_request(error) from None


def wants_json(request: Request) -> bool:
    """Whether the client wants JSON rather than a stream."""
    kinds = [entry.partition(";")[0].strip().lower() for entry in request.headers.get("accept", "").split(",")]
    return JSON in kinds and "text/event-stream" not in kinds


def _bad_request(error: ValidationError) -> BadRequestError:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    problem = problem_text({**first})
    return BadRequestError(f"{where}: {problem}" if where else problem)


class _EventStream(EventSourceResponse):
    """A stream of events that is left in good order, whatever ends it: its end, its client, or nobody who reads."""

    def __init__(self, chunks: AsyncIterator[bytes], leave: Callable[[], None], stuck: Callable[[], None]) -> None:
        super().__init__(chunks, ping=PING_S, send_timeout=SEND_TIMEOUT_S, sep="\n", cleanup_timeout=SEND_TIMEOUT_S)
        self._leave = leave
        self._stuck = stuck

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except TimeoutError:
            # Not completed, so that the server closes the connection.
            _log.info("a stream was dropped: its client takes nothing", client=scope.get(CLIENT))
            self._stuck()
        finally:
            self._leave()


def _checked(
    handler: Callable[[Request], Awaitable[Response]], endpoint: Endpoint
) -> Callable[..., Awaitable[Response]]:
    async def checked(request: Request) -> Response:
        if endpoint.role is not None:
            principal_of(request.scope).check_role(endpoint.role)
        return await handler(request)

    return checked


def _counted(
    handler: Callable[[Request], Awaitable[Response]],
    endpoint: Endpoint,
    metrics: GatewayMetrics,
    containment: Containment,
) -> Callable[..., Awaitable[Response]]:
    async def counted(request: Request) -> Response:
        try:
            response = await handler(request)
        except LatentbusError as error:
            response = problem_response(as_request_error(error))
        except ClientDisconnect:
            response = Response(status_code=499)
        except Exception as error:  # noqa: BLE001 - a bug of ours ends this request, not the process
            containment.note(f"request/{endpoint.name}", error)
            response = json_response(ProblemView(code="internal", problem="this is a bug of Latentbus"), 500)
        metrics.request(endpoint.name, response.status_code)
        return response

    return counted


def _event_of(answer: AnswerView) -> bytes:
    event = "answer" if answer.outcome is None else "final"
    return encoded(event, json_line(answer.model_dump(mode="json")))


async def _next(answers: AsyncGenerator[AnswerView, None]) -> AnswerView:
    return await anext(answers)


async def _hung_up(request: Request) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return


async def _http_problem(request: Request, error: Exception) -> Response:
    del request
    status = error.status_code if isinstance(error, HTTPException) else 500
    code, problem = {
        404: ("not_found", "there is no such address"),
        405: ("method", "this address takes another method"),
    }.get(status, ("http", "it cannot be answered"))
    return json_response(ProblemView(code=code, problem=problem), status)


async def _request_problem(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestError)  # noqa: S101 - registered for it alone
    return problem_response(error)
