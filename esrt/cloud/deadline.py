"""An end for work that takes too long: it is cancelled, which frees its place in the engine."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import anyio

from esrt.errors import CloudError

Value = TypeVar("Value")


async def in_time(work: Coroutine[Any, Any, Value], seconds: float) -> Value:
    """What `work` returns. Raises CloudError `deadline` when it takes longer than `seconds`."""
    with anyio.move_on_after(seconds):
        return await work
    raise _late()


async def all_in_time(events: AsyncGenerator[Value, None], seconds: float) -> AsyncGenerator[Value, None]:
    """The same events, which are closed with this generator.

    Raises CloudError `deadline` when the last has not come within `seconds`, counted from when the first is asked for.
    """
    ends = time.monotonic() + seconds
    async with aclosing(events):
        while (left := ends - time.monotonic()) > 0:
            # Not asyncio.wait_for: a second cancellation would leave its task, and so `events`, running.
            with anyio.move_on_after(left) as waiting:
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    return
            if waiting.cancelled_caught:
                break
            yield event
    raise _late()


def _late() -> CloudError:
    return CloudError("deadline", "This took longer than the server allows: ask for fewer targets at once.", 504)
