"""What a small cloud says when it refuses, and what a client makes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.responses import JSONResponse, Response

from esrt.errors import CloudError


def problem(status: int, code: str, headers: dict[str, str] | None = None, detail: str = "A sentence.") -> Response:
    """A problem document."""
    body = {"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def refused(work: Callable[[], object]) -> CloudError:
    """The error that `work` ends in, which is one line."""
    with pytest.raises(CloudError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return caught.value
