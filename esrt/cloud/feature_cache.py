"""Frames that were sent, kept in memory: a tenant uploads once and translates many times."""

from __future__ import annotations

from collections import OrderedDict

from esrt.wire.frame import Frame


class FeatureCache:
    """The most recently used frames, at most `max_bytes` of payload. A tenant finds its own frames only.

    Not thread-safe: it belongs to the event loop.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._frames: OrderedDict[tuple[str, str], Frame] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, tenant: str, frame: Frame) -> bool:
        """Keep a frame; the least recently used ones make room. False if the tenant had stored it already."""
        key = (tenant, frame.id)
        if key in self._frames:
            self._frames.move_to_end(key)
            return False
        self._frames[key] = frame
        self.bytes += len(frame.payload)
        while self.bytes > self._max_bytes:
            _, oldest = self._frames.popitem(last=False)
            self.bytes -= len(oldest.payload)
        return True

    def get(self, tenant: str, features: str) -> Frame | None:
        """The tenant's frame of this id, or None if it was never sent or had to make room."""
        key = (tenant, features)
        if key not in self._frames:
            return None
        self._frames.move_to_end(key)
        return self._frames[key]
