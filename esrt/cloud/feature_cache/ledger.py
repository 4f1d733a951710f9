"""Which frames are kept, how large they are and until when, without the frames: the rules of memory and disk."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

Key: TypeAlias = tuple[str, str]
"""A tenant, or its name in a path; and a frame's id."""


class Ledger:
    """At most `max_bytes` of frames, each for `retention` seconds after it was last sent. Time is given, in seconds.

    Every frame has the same time to live, so the one that was sent first is over first.
    """

    def __init__(self, max_bytes: int, retention: float) -> None:
        self._max_bytes = max_bytes
        self._retention = retention
        self._sizes: OrderedDict[Key, int] = OrderedDict()  # the least recently used stands first
        self._sent: OrderedDict[Key, float] = OrderedDict()  # the one that was sent first stands first
        self.total_bytes = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._sizes

    def expire(self, now: float) -> list[Key]:
        """Strike out the frames whose time is over, and return them."""
        over: list[Key] = []
        for key, sent in self._sent.items():
            if now - sent < self._retention:
                break
            over.append(key)
        for key in over:
            self.drop(key)
        return over

    def fits(self, size: int) -> bool:
        """Whether a frame of so many bytes can be kept at all."""
        return size <= self._max_bytes

    def make_room(self, size: int) -> list[Key]:
        """Strike out the least recently used frames until one of so many bytes fits, and return them."""
        gone: list[Key] = []
        while self._sizes and self.total_bytes + size > self._max_bytes:
            key = next(iter(self._sizes))
            self.drop(key)
            gone.append(key)
        return gone

    def add(self, key: Key, size: int, now: float) -> None:
        """Enter a frame that is not in the ledger, as sent and used now; `make_room` comes before."""
        assert key not in self._sizes
        self._sizes[key] = size
        self._sent[key] = now
        self.total_bytes += size

    def use(self, key: Key) -> tuple[int, float]:
        """A frame is used now; returns its bytes, and when it was sent."""
        self._sizes.move_to_end(key)
        return self._sizes[key], self._sent[key]

    def renew(self, key: Key, now: float) -> None:
        """A frame was sent again."""
        self._sizes.move_to_end(key)
        self._sent[key] = now
        self._sent.move_to_end(key)

    def drop(self, key: Key) -> None:
        """Strike out a frame, if it is there."""
        self.total_bytes -= self._sizes.pop(key, 0)
        self._sent.pop(key, None)
