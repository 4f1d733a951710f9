"""What the server takes on: of one key, and in all. Beyond it a request is told at once when to come back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from esrt.errors import CloudError

Clock = Callable[[], float]
RETRY_SECONDS = 1


class Busy(CloudError):
    """Too much for now (429): the same request may be sent again after `retry_after` seconds."""

    def __init__(self, code: str, message: str, retry_after: int) -> None:
        super().__init__(code, message, 429)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Limits:
    """`rate`: requests a minute of one key; `concurrent`: its requests at once; `queue`: translations that wait or are
    decoded, of all keys; `deadline`: seconds that one of them may take, from the end of its body.
    """

    rate: int = 600
    concurrent: int = 64
    queue: int = 256
    deadline: float = 120.0


@dataclass
class _Tenant:
    at: float  # when `tokens` was right
    tokens: float
    running: int = 0


@dataclass
class Tenants:
    """Counts each key's requests. Not thread-safe: it belongs to the event loop.

    The rate is a bucket of `limits.rate` requests, full at first, that fills evenly within a minute.
    """

    limits: Limits
    clock: Clock = time.monotonic
    _tenants: dict[str, _Tenant] = field(default_factory=dict)

    @contextmanager
    def request(self, tenant: str) -> Iterator[None]:
        """Count one request of this key until the block ends. Raises Busy `too_many_requests`."""
        now, rate = self.clock(), self.limits.rate
        counts = self._tenants.setdefault(tenant, _Tenant(now, rate))
        counts.tokens = min(rate, counts.tokens + (now - counts.at) * rate / 60)
        counts.at = now
        if counts.running >= self.limits.concurrent:
            raise Busy(
                "too_many_requests",
                f"This key has {counts.running} requests under way, as many as it may: wait for their answers.",
                RETRY_SECONDS,
            )
        if counts.tokens < 1:
            seconds = math.ceil((1 - counts.tokens) * 60 / rate)
            raise Busy(
                "too_many_requests",
                f"This key has had its {rate} requests a minute: try again in {seconds} s.",
                seconds,
            )
        counts.tokens -= 1
        counts.running += 1
        try:
            yield
        finally:
            counts.running -= 1


class Admission:
    """Bounds the work of the whole server, in requests and in tokens. Not thread-safe: it belongs to the event loop.

    A request counts the most tokens that it can take. There is room for `limits.queue` requests, and for the tokens of
    as many with one target each: who asks for many targets takes the room of several. An idle server takes any request.
    """

    def __init__(self, limits: Limits, one_target: int) -> None:
        """`one_target`: the most tokens of a request for one translation."""
        self._requests, self._tokens = limits.queue, limits.queue * one_target
        self.requests = 0
        self.tokens = 0

    @property
    def ratio(self) -> float:
        """How much of the room is taken: 1 is all of it."""
        return max(self.requests / self._requests, self.tokens / self._tokens)

    def check(self, tokens: int) -> None:
        """Raise Busy `overloaded` where a request of so many tokens would find no room now."""
        if self.requests and (self.requests >= self._requests or self.tokens + tokens > self._tokens):
            raise Busy(
                "overloaded",
                "The server has as much work as it takes: try again in a moment, or with fewer targets.",
                RETRY_SECONDS,
            )

    @contextmanager
    def work(self, tokens: int) -> Iterator[None]:
        """Take up room until the block ends. Raises as `check`."""
        self.check(tokens)
        self.requests += 1
        self.tokens += tokens
        try:
            yield
        finally:
            self.requests -= 1
            self.tokens -= tokens
