"""Responses: JSON that no browser takes for a page, and problems."""

from __future__ import annotations

import math
from typing import Final

from pydantic import BaseModel
from starlette.responses import Response

from latentbus.gateway.errors import BadRequestError, NotFoundError, RequestError, UnavailableError
from latentbus.gateway.hub import json_line
from latentbus.gateway.models import ProblemView
from schemas.errors import (
    CameraUnknownError,
    ConfigError,
    ConnectionLostError,
    LatentbusError,
    NoOutcomeError,
    NotAuthorizedError,
    QuestionRefusedError,
    TooManyQuestionsError,
)

JSON: Final = "application/json"


def json_response(view: BaseModel, status: int = 200) -> Response:
    """A view as JSON."""
    return Response(json_line(view.model_dump(mode="json")), status, media_type=JSON)


def problem_response(error: RequestError) -> Response:
    """Why a request is not answered."""
    response = json_response(ProblemView(code=error.code, problem=error.problem), error.status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="latentbus"'
    return response


class GatewayTimeoutError(UnavailableError):
    """The camera gave no outcome in time."""

    status, code = 504, "no_outcome"


class QuestionNotTakenError(BadRequestError):
    """The edge of the camera does not take the question."""

    status, code = 422, "refused"


def as_request_error(error: LatentbusError) -> RequestError:
    """What whoever asked is told of an error."""
    match error:
        case RequestError():
            return error
        case CameraUnknownError():
            return NotFoundError(error.problem)
        case QuestionRefusedError():
            return QuestionNotTakenError(error.problem)
        case NoOutcomeError():
            return GatewayTimeoutError(error.problem)
        case TooManyQuestionsError():
            return UnavailableError(error.problem, retry_after_s=5.0)
        case ConfigError():
            return BadRequestError(f"{error.where}: {error.problem}")
        case NotAuthorizedError():
            return UnavailableError("the broker does not let the gateway ask this camera: look at its rights")
        case ConnectionLostError():
            return UnavailableError("the broker is not connected", retry_after_s=2.0)
        case _:
            return UnavailableError(str(error))
