"""Reading a request's body, and noticing that its sender has gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio
from starlette.requests import ClientDisconnect, Request

from esrt.errors import CloudError, ESRTError

BODY_SECONDS = 30.0
"""For the whole body."""
SILENT_SECONDS = 10.0
"""For the next byte of it."""

Result = TypeVar("Result")


async def read_body(request: Request, cap: int, too_large: ESRTError) -> bytes:
    """The body, or `too_large` as soon as it is known to have more than `cap` bytes: from its Content-Length before
    anything is read, else by counting. Raises CloudError `body_too_slow` when it takes longer than BODY_SECONDS, or
    when nothing comes for SILENT_SECONDS.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > cap:
        raise too_large

    body = bytearray()
    ends = time.monotonic() + BODY_SECONDS
    chunks = request.stream()
    while (left := ends - time.monotonic()) > 0:
        try:
            with anyio.fail_after(min(left, SILENT_SECONDS)):
                body += await anext(chunks)
        except StopAsyncIteration:
            return bytes(body)
        except TimeoutError:
            break
        if len(body) > cap:
            raise too_large
    raise CloudError("body_too_slow", "The request's body did not come in time: send it again.", 408)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`, but cancel it and raise ClientDisconnect when the client closes its connection first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    # With the body read, the only message left to come is the disconnect.
    while (await request.receive())["type"] != "http.disconnect":
        pass
