"""Frames in the server's memory: the fastest, and gone with the process."""

from __future__ import annotations

import time
from collections.abc import Callable

from esrt.cloud.feature_cache.base import Stored
from esrt.cloud.feature_cache.ledger import Key, Ledger
from esrt.wire.frame import Frame, size


class MemoryCache:
    """The most recently used frames, at most `max_bytes` of them; `clock` gives seconds.

    Not thread-safe: it belongs to the event loop.
    """

    def __init__(self, max_bytes: int, retention: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.retention = retention
        self._clock = clock
        self._ledger = Ledger(max_bytes, retention)
        self._frames: dict[Key, Frame] = {}

    @property
    def total_bytes(self) -> int:
        """Bytes of the frames."""
        return self._ledger.total_bytes

    async def put(self, tenant: str, frame: Frame) -> Stored:
        """Keep a frame; `refused` if it is larger than the whole cache."""
        now = self._expire()
        key, needed = (tenant, frame.id), size(frame.codec, frame.queries, frame.width)
        if key in self._ledger:
            self._ledger.renew(key, now)
            return "again"
        if not self._ledger.fits(needed):
            return "refused"
        for old in self._ledger.make_room(needed):
            del self._frames[old]
        self._ledger.add(key, needed, now)
        self._frames[key] = frame
        return "new"

    async def get(self, tenant: str, features: str) -> Frame | None:
        """The tenant's frame of this id."""
        self._expire()
        key = (tenant, features)
        if key not in self._ledger:
            return None
        self._ledger.use(key)
        return self._frames[key]

    async def delete(self, tenant: str, features: str) -> None:
        """Forget a frame."""
        self._expire()
        self._ledger.drop((tenant, features))
        self._frames.pop((tenant, features), None)

    async def sweep(self) -> None:
        """Free the frames whose time is over."""
        self._expire()

    async def close(self) -> None:
        """Nothing is open."""

    def _expire(self) -> float:
        now = self._clock()
        for key in self._ledger.expire(now):
            del self._frames[key]
        return now
