"""Sequences already decoded, kept for a while so that what continues them is not computed again.

A transcript and its translations share everything up to the target's tag: forking N targets then costs two rows each
instead of the whole prompt. Only a sequence of exactly the same rows and the same salt can match, so nothing leaks
between features, and nobody learns by a stopwatch whether another tenant has the same.
"""

from __future__ import annotations

from itertools import count

import numpy as np

from esrt.cloud.engines.base import Rows
from esrt.cloud.engines.kept import Kept, shared
from esrt.cloud.engines.keyvalues import KeyValues


class Prefixes:
    """The most recently used sequences, at most `max_bytes` of keys and values."""

    def __init__(self, max_bytes: int) -> None:
        self.kept: Kept[tuple[str, int]] = Kept(max_bytes)
        self._number = count()

    def put(self, salt: str, rows: Rows, kv: KeyValues) -> None:
        """Keep one sequence: the rows [n, width] it was fed and its cache of batch 1 and n slots."""
        self.kept.put((salt, next(self._number)), rows, kv)

    def longest(self, salt: str, rows: Rows) -> KeyValues | None:
        """A copy of the longest kept start of `rows` [n, width], at most n - 1 rows of it; None if there is none."""
        most, best, found = len(rows) - 1, 0, None
        for key, kept in self.kept.rows.items():
            # The first row tells most clips apart.
            if key[0] == salt and np.array_equal(kept[0], rows[0]) and (length := shared(kept, rows, most)) > best:
                best, found = length, key
        return None if found is None else self.kept.take(found, rows, most)
