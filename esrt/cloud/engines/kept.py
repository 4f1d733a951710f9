"""Keys and values that are kept for a while, so that what goes on from them is not computed again."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np

from esrt.cloud.engines.base import Rows
from esrt.cloud.engines.keyvalues import KeyValues, start

KEPT_SECONDS = 60.0
"""After its last use: a text can be read off its rows, and texts are not to be kept."""

Name = TypeVar("Name", bound=Hashable)


class Kept(Generic[Name]):
    """Sequences by name: at most `max_bytes` of keys and values, each for `seconds` after its last use."""

    def __init__(
        self, max_bytes: int, seconds: float = KEPT_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes, self._seconds, self._clock = max_bytes, seconds, clock
        self._entries: OrderedDict[Name, tuple[float, Rows, KeyValues]] = OrderedDict()
        self.bytes = 0

    @property
    def rows(self) -> dict[Name, Rows]:
        """The rows [n, width] of each sequence, by name."""
        return {key: rows for key, (_, rows, _) in self._entries.items()}

    def put(self, key: Name, rows: Rows, kv: KeyValues) -> None:
        """Keep the rows [n, width] of a sequence and their cache, of batch 1 and n slots, in the place of the last."""
        self._drop(key)
        self._entries[key] = (self._clock(), rows, kv)
        self.bytes += kv.bytes
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
        self.sweep()

    def take(self, key: Name, rows: Rows, most: int) -> KeyValues | None:
        """A copy of what is kept of the start of `rows`, at most `most` of them; None where nothing is."""
        self.sweep()
        if (entry := self._entries.get(key)) is None or not (count := shared(entry[1], rows, most)):
            return None
        self._entries[key] = (self._clock(), *entry[1:])
        self._entries.move_to_end(key)
        return start(entry[2], 0, count)

    def sweep(self) -> None:
        """Forget what is too old. Entries lie in the order of their last use."""
        while self._entries:
            key, (at, _, _) = next(iter(self._entries.items()))
            if self._clock() - at <= self._seconds:
                return
            self._drop(key)

    def _drop(self, key: Name) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self.bytes -= entry[2].bytes


def shared(a: Rows, b: Rows, most: int) -> int:
    """How many rows `a` [n, width] and `b` [m, width] have in common from the start, at most `most`."""
    count = min(len(a), len(b), most)
    same = (a[:count] == b[:count]).all(axis=1)
    return count if same.all() else int(np.argmin(same))
