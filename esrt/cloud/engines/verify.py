"""Checking drafted blocks: one forward pass gives the rank of every token of a block, of many clients at once.

The keys and values of a clip are kept between its blocks, so that a pass reads only what is new. What is lost is
computed again from the whole prefix, which every request brings along.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esrt.cloud.engines.base import Ranks, Rows
from esrt.cloud.engines.kept import Kept
from esrt.cloud.engines.keyvalues import KeyValues, extend, stack, start

KEPT_BYTES = 256 << 20


class Check:
    """One block on its way through the worker thread. `rows` [n, width] end in the block, whose ids are `block`.

    `key` names whose clip it is.
    """

    def __init__(self, key: Hashable, rows: Rows, block: Sequence[int]) -> None:
        self.key, self.rows, self.block = key, rows, list(block)
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Ranks] = self._loop.create_future()

    @property
    def most_kept(self) -> int:
        """Rows that need not be read again: the one before the block must be, for it says the block's first token."""
        return len(self.rows) - len(self.block) - 1

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self.answer.cancelled() or self._loop.is_closed()

    def put(self, item: Ranks | Exception) -> None:
        """Hand over the answer or an error. Called in the worker thread."""

        def done() -> None:
            if self.answer.done():
                return
            if isinstance(item, Exception):
                self.answer.set_exception(item)
            else:
                self.answer.set_result(item)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(done)


class Checker:
    """The blocks that wait, those under way, and what is kept of their clips. All but `put` is the worker's.

    `llm` is a transformers Gemma3ForCausalLM, `like` has its type and device; a pass takes at most `most` blocks.
    """

    def __init__(self, llm: Any, like: Tensor, most: int) -> None:
        self._llm, self._like, self._most = llm, like, most
        self._waiting: queue.SimpleQueue[Check] = queue.SimpleQueue()
        self._under_way: list[Check] = []
        self.kept: Kept[Hashable] = Kept(KEPT_BYTES)

    @property
    def waits(self) -> bool:
        """Whether there is a block to answer."""
        return not self._waiting.empty()

    def put(self, key: Hashable, rows: Rows, block: Sequence[int]) -> asyncio.Future[Ranks]:
        """Ask for a block of a clip; see Check."""
        check = Check(key, rows, block)
        self._waiting.put(check)
        return check.answer

    def fail(self, error: Exception, waiting: bool = False) -> None:
        """All that is under way fails, and with `waiting` what waits too."""
        while waiting and not self._waiting.empty():
            self._under_way.append(self._waiting.get())
        for check in self._under_way:
            check.put(error)
        self._under_way = []

    def run(self) -> None:
        """Answer what waits: blocks that go on from what is kept in one pass, those that begin in another."""
        found = [self._waiting.get() for _ in range(min(self._waiting.qsize(), self._most))]
        self._under_way = [check for check in found if not check.cancelled]
        known = [self.kept.take(check.key, check.rows, check.most_kept) for check in self._under_way]
        for begins in (False, True):
            chosen = [place for place, kv in enumerate(known) if (kv is None) is begins]
            if chosen:
                self._pass([self._under_way[place] for place in chosen], [kv for p in chosen if (kv := known[p])])
        self._under_way = []

    def _pass(self, members: list[Check], prefixes: list[KeyValues]) -> None:
        held = [kv.positions.shape[1] for kv in prefixes] or [0] * len(members)
        counts = [len(check.rows) - count for check, count in zip(members, held, strict=True)]
        rows = np.zeros((len(members), max(counts), members[0].rows.shape[1]), dtype=np.float32)
        for row, check, count in zip(rows, members, counts, strict=True):
            row[-count:] = check.rows[-count:]
        logits, kv = extend(
            self._llm,
            torch.from_numpy(rows).to(self._like),
            stack(prefixes) if prefixes else None,
            max(len(check.block) for check in members) + 1,
            torch.tensor(counts, device=self._like.device),
        )
        for place, check in enumerate(members):
            self.kept.put(check.key, check.rows, start(kv, place, len(check.rows)))
            check.put(_ranks(logits[place], check.block))


def _ranks(logits: Tensor, block: Sequence[int]) -> Ranks:
    """`logits` [m, vocabulary] end in those after the block's last token."""
    before = logits[-len(block) - 1 : -1]
    tokens = torch.tensor(block, device=logits.device)[:, None]
    own = before.gather(1, tokens)
    # Of equals the lower id comes first, as argmax has it: in bfloat16 many are equal.
    lower = torch.arange(before.shape[1], device=logits.device) < tokens
    ranks = 1 + (before > own).sum(1) + ((before == own) & lower).sum(1)
    return Ranks(ranks.tolist(), before.argmax(-1).tolist())
