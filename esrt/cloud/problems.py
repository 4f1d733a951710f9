"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from esrt.cloud.limits import RETRY_SECONDS, Busy
from esrt.errors import CloudError, ESRTError, ModelError
from esrt.wire.schemas import Problem

# Whatever is not here, and has no status of its own, is the client's mistake: 400.
_STATUS = {"frame_too_large": 413, "frame_wrong_model": 409}


def problem_of(error: ESRTError) -> Problem:
    """The document of an error: its code and sentence, and the status that belongs to them."""
    status = _STATUS.get(error.code, 400)
    if isinstance(error, ModelError):
        status = 500
    if isinstance(error, CloudError) and error.status:
        status = error.status
    return Problem("about:blank", HTTPStatus(status).phrase, status, str(error), error.code)


def respond(error: ESRTError) -> Response:
    """The answer to a request that failed."""
    problem = problem_of(error)
    headers: dict[str, str] = {}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Busy):
        headers["Retry-After"] = str(error.retry_after)
    elif problem.status in (429, 503):
        headers["Retry-After"] = str(RETRY_SECONDS)
    if problem.status in (408, 413):
        headers["Connection"] = "close"  # what is left of the body is not read
    return JSONResponse(
        problem.to_json(), status_code=problem.status, headers=headers, media_type="application/problem+json"
    )


async def no_route(request: Request, error: Exception) -> Response:
    """The answer to a path or method that does not exist."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    if status == 405:
        refused = respond(CloudError("method_not_allowed", f"{request.method} is not allowed here.", status))
        refused.headers.update(getattr(error, "headers", None) or {})  # Allow: the methods that are
        return refused
    return respond(CloudError("not_found", "There is nothing at this path: see the HTTP API's routes.", status))


def internal_error() -> CloudError:
    """An error of ours that nobody foresaw."""
    return CloudError("internal_error", "The server failed at this request: try again, or report it.", 500)
