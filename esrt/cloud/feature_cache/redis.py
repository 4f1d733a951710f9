"""Frames in a Redis that several servers share. One that is gone makes them slower and stops none of them.

    esrt:<SHA-256 of the tenant's name>:<id>    the frame's bytes; Redis itself forgets it when its time is over

How much Redis keeps is its own setting: `maxmemory`, with `maxmemory-policy allkeys-lru`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis import asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisLate

from esrt.cloud.feature_cache.base import Stored, Trouble, checked, not_deleted, tenant_name
from esrt.errors import UsageError
from esrt.wire.frame import Frame

TIMEOUT_SECONDS = 0.5
PAUSE_SECONDS = 5.0
"""After a failure nobody asks Redis for so long; then one request does, while the others go on without it."""

Value = TypeVar("Value")


class _Silent(Exception):
    """Redis did not do what it was asked."""


class RedisCache:
    """Frames by tenant and id in Redis, each for `retention` seconds after it was last sent."""

    total_bytes = 0  # none in this process

    def __init__(self, url: str, retention: float) -> None:
        """Connects when it is first asked. Raises UsageError `bad_cache` where `url` is not a Redis' address.

        A password that is not in `url` is that of the environment, REDISCLI_AUTH, as for Redis' own tools: a command
        line can be read by everybody on a machine.
        """
        self.retention = retention
        self._milliseconds = max(1, round(retention * 1000))
        try:
            self._redis = aioredis.Redis.from_url(
                url,
                password=os.environ.get("REDISCLI_AUTH"),  # what stands in the URL comes before
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        except (ValueError, TypeError):  # the URL is not shown: it may hold a password
            raise UsageError(
                "bad_cache", "This is not the address of a Redis: give redis://HOST:PORT, rediss:// or unix://."
            ) from None
        self._gone = Trouble("the Redis of the feature cache does not answer")
        self._refusing = Trouble("the Redis of the feature cache refuses")
        self._resting_until = 0.0

    async def put(self, tenant: str, frame: Frame) -> Stored:
        """Keep a frame, or keep it longer; `refused` if Redis is gone or full."""
        key = _key(tenant, frame.id)

        async def store() -> list[Any]:
            async with self._redis.pipeline(transaction=True) as commands:
                commands.exists(key)
                commands.set(key, frame.to_bytes(), px=self._milliseconds)
                return await commands.execute()

        try:
            before, _ = await self._ask(store)
        except _Silent:
            return "refused"
        self._refusing.ends()
        return "again" if before else "new"

    async def get(self, tenant: str, features: str) -> Frame | None:
        """The tenant's frame of this id; None too where Redis is gone."""
        key = _key(tenant, features)
        try:
            data = await self._ask(lambda: self._redis.get(key))
        except _Silent:
            return None
        # What comes from Redis is bytes from anywhere.
        return checked(data, features) if isinstance(data, bytes) else None

    async def delete(self, tenant: str, features: str) -> None:
        """Forget a frame. Raises CloudError `not_deleted` if Redis does not say that it has."""
        try:
            await self._ask(lambda: self._redis.delete(_key(tenant, features)))
        except _Silent:
            raise not_deleted() from None

    async def sweep(self) -> None:
        """Redis does it."""

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _ask(self, work: Callable[[], Awaitable[Value]]) -> Value:
        """What Redis answers, or _Silent: at once while it is thought to be gone."""
        now = time.monotonic()
        if now < self._resting_until:
            raise _Silent
        if self._gone.lasts:
            self._resting_until = now + PAUSE_SECONDS
        try:
            answer = await work()
        except (RedisGone, RedisLate, OSError) as error:
            self._resting_until = time.monotonic() + PAUSE_SECONDS
            self._gone.begins(type(error).__name__)
            raise _Silent from None
        except RedisError as error:  # it answers, and what it says may quote the key: only its kind is logged
            self._refusing.begins(type(error).__name__)
            raise _Silent from None
        self._resting_until = 0.0
        self._gone.ends()
        return answer


def _key(tenant: str, features: str) -> str:
    return f"esrt:{tenant_name(tenant)}:{features}"
