"""The engine that runs anywhere torch runs: one worker thread, one batch, one forward pass a step for all of it.

New requests join between two steps, finished and abandoned ones leave, so nobody waits for the longest answer, nor for
a beam search, of which there is one at a time beside the batch.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esrt.cloud.engines import beam
from esrt.cloud.engines.base import Ranks, Rows, Sampling
from esrt.cloud.engines.keyvalues import KeyValues, forward, select, stack, start
from esrt.cloud.engines.prefixes import Prefixes
from esrt.cloud.engines.request import Request
from esrt.cloud.engines.verify import Checker
from esrt.cloud.metrics import engine_batch, engine_queue
from esrt.errors import CloudError, where

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""After so long without work the engine looks what it has kept for long enough."""


class TransformersEngine:
    """Decodes with `llm`, a transformers Gemma3ForCausalLM in eval mode on its device and in its type.

    `max_batch` sequences are decoded together; a request that finds the engine idle waits `max_wait` seconds for
    company; more than `max_queue` waiting requests are refused, beam searches aside (a server admits far fewer:
    cloud.limits); `prefix_bytes` bounds the kept keys and values.
    """

    def __init__(
        self,
        llm: torch.nn.Module,
        eos_ids: Iterable[int],
        *,
        max_batch: int = 16,
        max_wait: float = 0.003,
        max_queue: int = 1 << 16,
        prefix_bytes: int = 256 << 20,
    ) -> None:
        model: Any = llm  # what a transformers model has beyond a Module
        self._llm = model
        self._embedding = model.get_input_embeddings()
        weight = next(llm.parameters())
        self._device, self._dtype = weight.device, weight.dtype
        self._width = int(model.config.hidden_size)
        self.eos_ids = frozenset(eos_ids)
        self._max_batch, self._max_wait = max_batch, max_wait
        self._waiting: queue.Queue[Request] = queue.Queue(max_queue)
        self._joining: list[Request] = []
        self._running: list[Request] = []
        self._kv: KeyValues | None = None
        self._searches: list[Request] = []  # the first of them is under way
        self._prefixes = Prefixes(prefix_bytes)
        self._checker = Checker(model, weight, max_batch)
        self._queue_seconds, self._batch = engine_queue(), engine_batch()
        self.collectors = [self._queue_seconds, self._batch]
        self._ready = threading.Event()
        self._bell = threading.Event()  # there may be work
        self._closing = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="esrt-engine", daemon=True)
        self._thread.start()

    @property
    def width(self) -> int:
        return self._width

    @property
    def ready(self) -> bool:
        return self._ready.is_set() and self._works()

    @property
    def failed(self) -> bool:
        return self._ended.is_set() and not self._closing.is_set()

    @property
    def load(self) -> int:
        return self._waiting.qsize() + len({*self._running, *self._joining, *self._searches})

    def embed(self, ids: Sequence[int]) -> Rows:
        """Rows [n, width] of token ids. Gemma's embedding layer multiplies by sqrt(width) itself."""
        if ids and max(ids) >= self._embedding.num_embeddings:
            raise IndexError(max(ids))  # a GPU would take nothing more after it
        with torch.inference_mode():
            rows = self._embedding(torch.tensor(ids, dtype=torch.long, device=self._device))
        result: Rows = rows.float().cpu().numpy().reshape(len(ids), self._width)
        return result

    async def generate(self, rows: Rows, sampling: Sampling) -> AsyncGenerator[int, None]:
        """Continue `rows` [n, width], used as they are. See Engine.generate."""
        if rows.ndim != 2 or rows.shape[1] != self._width or not len(rows):
            raise ValueError(f"rows of shape {rows.shape}, expected [n, {self._width}] with n > 0")
        request = Request(np.ascontiguousarray(rows, dtype=np.float32), sampling)
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            raise CloudError("overloaded", "The server has too many requests waiting: try again.", 429) from None
        self._bell.set()
        try:
            if not self._works():  # the worker may have looked for the last time just before
                raise _closed()
            while (item := await request.answer.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            request.cancelled = True

    async def verify(self, key: Hashable, rows: Rows, block: Sequence[int]) -> Ranks:
        """How likely the ids `block`, whose rows are the last of `rows` [n, width], are where they stand.

        The keys and values are kept for a while under `key`. Raises CloudError as `generate`.
        """
        if rows.ndim != 2 or rows.shape[1] != self._width or not 0 < len(block) < len(rows):
            raise ValueError(f"{len(block)} ids at the end of rows of shape {rows.shape}")
        # Not behind the answers that wait for a place in the batch: a device waits for each of these.
        answer = self._checker.put(key, np.ascontiguousarray(rows, dtype=np.float32), block)
        self._bell.set()
        if not self._works():
            answer.cancel()
            raise _closed()
        return await answer

    def _works(self) -> bool:
        return not self._closing.is_set() and not self._ended.is_set()

    async def close(self) -> None:
        self._closing.set()
        self._bell.set()
        await asyncio.to_thread(self._thread.join)

    # Everything below runs in the worker thread.

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            self._warm_up()
            while not self._closing.is_set():
                self._turn()
                if self._searches:
                    self._search(self._searches[0])
                    self._searches.pop(0)
        except Exception as error:
            log.error("engine: ended, %s", where(error))
        self._ended.set()
        while not self._waiting.empty():
            self._running.append(self._waiting.get_nowait())
        for request in [*self._running, *self._searches]:
            request.put(_closed())
        self._checker.fail(_closed(), waiting=True)

    def _guard(self, action: Callable[[], None]) -> None:
        """Run one step; if it fails, all requests in it fail, and the worker goes on with the next ones.

        Where not even rows of zeros come through, as on a GPU that has failed, it ends.
        """
        try:
            action()
        except Exception as error:
            failed = _failed(error)
            for request in {*self._running, *self._joining}:
                request.put(failed)
            self._checker.fail(failed)
            self._running, self._kv = [], None
            self._warm_up()

    def _warm_up(self) -> None:
        row = torch.zeros(1, 1, self._width, dtype=self._dtype, device=self._device)
        _, kv = forward(self._llm, row, None)
        forward(self._llm, row, kv)
        self._ready.set()

    def _turn(self) -> None:
        """One step of the batch."""
        self._joining = self._gather()
        self._guard(self._round)
        self._joining = []

    def _gather(self) -> list[Request]:
        """The requests that join the batch now; waits for work where there is none."""
        if not self._running and not self._searches:
            if self._waiting.empty() and not self._checker.waits:
                self._bell.wait(LOOK_SECONDS)
            self._bell.clear()
            if not self._waiting.empty():
                self._closing.wait(self._max_wait)  # for company
        joining: list[Request] = []
        while len(self._running) + len(joining) < self._max_batch and not self._waiting.empty():
            request = self._waiting.get_nowait()
            if request.cancelled:
                continue
            if request.sampling.beam > 1:
                self._searches.append(request)
                continue
            joining.append(request)
            self._queue_seconds.observe(time.monotonic() - request.asked)
        return joining

    def _round(self) -> None:
        for kept in (self._checker.kept, self._prefixes.kept):
            kept.sweep()
        self._checker.run()
        keep = [i for i, request in enumerate(self._running) if not request.cancelled]
        self._running, self._kv = _only(keep, self._running, self._kv)
        self._join(self._joining)
        if self._kv is not None:
            self._batch.observe(len(self._running))
            newest = torch.tensor([[request.tokens[-1]] for request in self._running], device=self._device)
            self._running, self._kv = self._advance(self._running, self._embedding(newest), self._kv)

    def _join(self, joining: list[Request]) -> None:
        """Feed the prompts, those with equally many new rows together, and put them beside the running sequences."""
        known = {request: self._prefixes.longest(request.sampling.salt, request.rows) for request in joining}

        def new_rows(request: Request) -> tuple[bool, int]:
            prefix = known[request]
            return prefix is not None, len(request.rows) - (0 if prefix is None else prefix.positions.shape[1])

        for (forked, count), group in groupby(sorted(joining, key=new_rows), key=new_rows):
            members = list(group)
            for request in members:
                request.forked = forked
            rows = torch.from_numpy(np.stack([request.rows[-count:] for request in members]))
            prefixes = [prefix for request in members if (prefix := known[request]) is not None]
            started, kv = self._advance(
                members, rows.to(self._device, self._dtype), stack(prefixes) if prefixes else None
            )
            if kv is not None:
                self._kv = kv if self._kv is None else stack([self._kv, kv])
                self._running = self._running + started

    def _advance(
        self, requests: list[Request], rows: Tensor, kv: KeyValues | None
    ) -> tuple[list[Request], KeyValues | None]:
        """One forward pass: every request gets its next token. Returns those that go on, with their cache."""
        logits, kv = forward(self._llm, rows, kv)
        tokens: list[int] = logits.argmax(-1).tolist()
        for i, request in enumerate(requests):
            if only := sorted(request.sampling.only):
                tokens[i] = only[int(logits[i, only].argmax())]
        goes_on = [request.take(token, self.eos_ids) for request, token in zip(requests, tokens, strict=True)]
        for i, request in enumerate(requests):
            if not goes_on[i] and not request.forked:
                length = int(kv.lengths[i])
                fed = request.tokens[: length - len(request.rows)]
                rows_fed = np.concatenate([request.rows, self.embed(fed)])
                self._prefixes.put(request.sampling.salt, rows_fed, start(kv, i, length))
        return _only([i for i, alive in enumerate(goes_on) if alive], requests, kv)

    def _search(self, request: Request) -> None:
        """Beam search for one request, whose tokens come all at once; between two of its steps the batch makes one."""

        def gone() -> bool:
            if not self._closing.is_set():
                self._turn()
            return request.cancelled or self._closing.is_set()

        if request.cancelled:
            return
        self._queue_seconds.observe(time.monotonic() - request.asked)
        sampling = request.sampling
        try:
            rows = torch.from_numpy(request.rows)[None].to(self._device, self._dtype)
            written = beam.search(
                self._llm, rows, sampling.beam, sampling.max_new_tokens, self.eos_ids | sampling.stop_ids,
                min(self.eos_ids), gone,
            )  # fmt: skip
        except Exception as error:
            request.put(_failed(error))
            return
        if self._closing.is_set():
            request.put(_closed())
            return
        for token in written:
            if not request.take(token, self.eos_ids):
                return
        request.put(None)


def _only(keep: list[int], requests: list[Request], kv: KeyValues | None) -> tuple[list[Request], KeyValues | None]:
    if len(keep) == len(requests) or kv is None:
        return requests, kv
    return ([requests[i] for i in keep], select(kv, keep)) if keep else ([], None)


def _failed(error: Exception) -> CloudError:
    log.error("engine: %s", where(error))
    return CloudError("engine_failed", "The server could not decode this request.", 500)


def _closed() -> CloudError:
    return CloudError("not_ready", "The server is starting or stopping: try again in a moment.", 503)
