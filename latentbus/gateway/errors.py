"""What is wrong with an HTTP request: remote errors, each with its status."""

from __future__ import annotations

from schemas.errors import RemoteError


class RequestError(RemoteError):
    """An HTTP request that is not answered as asked.

    Attributes:
        status: HTTP status.
        code: what kind of problem it is, for programs.
        problem: what is wrong, and what to do instead.
        retry_after_s: when to try again; None where that changes nothing.
    """

    status = 400
    code = "bad_request"

    def __init__(self, problem: str, retry_after_s: float | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.retry_after_s = retry_after_s


class BadRequestError(RequestError):
    """The request is malformed."""


class UnauthenticatedError(RequestError):
    """The request shows no valid token."""

    status, code = 401, "unauthenticated"


class ForbiddenError(RequestError):
    """The token or the origin of the request may not do this."""

    status, code = 403, "forbidden"


class NotFoundError(RequestError):
    """There is no such thing, or its token may not know of it."""

    status, code = 404, "not_found"


class ConflictError(RequestError):
    """The request contradicts another one."""

    status, code = 409, "conflict"


class RequestSizeError(RequestError):
    """The body is too large.

    Attributes:
        limit_bytes: what is taken.
    """

    status, code = 413, "too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class MisdirectedError(RequestError):
    """The request was sent to a host name that is not the gateway's."""

    status, code = 421, "misdirected"


class RateLimitError(RequestError):
    """The client asks too much."""

    status, code = 429, "rate_limited"


class UnavailableError(RequestError):
    """The gateway cannot answer now."""

    status, code = 503, "unavailable"
