"""One answer on its way from the worker thread to the event loop that asked for it."""

from __future__ import annotations

import asyncio
import time

from esrt.cloud.engines.base import Rows, Sampling


class Request:
    """What to continue, and what came of it so far. Made in the event loop that asks."""

    def __init__(self, rows: Rows, sampling: Sampling) -> None:
        self.rows = rows
        self.sampling = sampling
        self.tokens: list[int] = []
        self.asked = time.monotonic()
        self.forked = False  # it started from a kept prefix, so nothing new is worth keeping of it
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Queue[int | Exception | None] = asyncio.Queue()

    def put(self, item: int | Exception | None) -> None:
        """Hand over a token, an error, or None for the end. Called in the worker thread."""
        try:
            self._loop.call_soon_threadsafe(self.answer.put_nowait, item)
        except RuntimeError:  # the loop that asked is closed
            self.cancelled = True

    def take(self, token: int, eos_ids: frozenset[int]) -> bool:
        """Hand over the next token; False when it was the last."""
        if token not in eos_ids:
            self.tokens.append(token)
            self.put(token)
            if token not in self.sampling.stop_ids and len(self.tokens) < self.sampling.max_new_tokens:
                return True
        self.put(None)
        return False
