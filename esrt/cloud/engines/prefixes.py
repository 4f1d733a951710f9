"""Sequences already decoded, kept for a while so that what continues them is not computed again.

A transcript and its translations share everything up to the target's tag: forking N targets then costs two rows each
instead of the whole prompt. Only a sequence of exactly the same rows and the same salt can match, so nothing leaks
between features, and nobody learns by a stopwatch whether another tenant has the same.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from esrt.cloud.engines.base import Rows
from esrt.cloud.engines.keyvalues import KeyValues, start


class Prefixes:
    """The most recently used sequences, at most `max_bytes` of keys and values."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[int, tuple[str, Rows, KeyValues]] = OrderedDict()
        self._next = 0

    def put(self, salt: str, rows: Rows, kv: KeyValues) -> None:
        """Keep one sequence: the rows [n, width] it was fed and its cache of batch 1 and n slots."""
        self._entries[self._next] = (salt, rows, kv)
        self._next += 1
        self._bytes += kv.bytes
        while self._bytes > self._max_bytes:
            _, (_, _, oldest) = self._entries.popitem(last=False)
            self._bytes -= oldest.bytes

    def longest(self, salt: str, rows: Rows) -> KeyValues | None:
        """A copy of the longest kept start of `rows` [n, width], at most n - 1 rows of it; None if there is none."""
        best, where = 0, -1
        for key, (whose, kept, _) in self._entries.items():
            if whose != salt or not np.array_equal(kept[0], rows[0]):  # the first row tells most clips apart
                continue
            count = shared(kept, rows, len(rows) - 1)
            if count > best:
                best, where = count, key
        if not best:
            return None
        self._entries.move_to_end(where)
        return start(self._entries[where][2], 0, best)


def shared(a: Rows, b: Rows, most: int) -> int:
    """How many rows `a` [n, width] and `b` [m, width] have in common from the start, at most `most`."""
    count = min(len(a), len(b), most)
    same = (a[:count] == b[:count]).all(axis=1)
    return count if same.all() else int(np.argmin(same))
