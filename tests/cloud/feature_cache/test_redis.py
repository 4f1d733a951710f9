"""Frames in a real Redis: shared by servers, forgotten in time; gone, slow, full and filled with rubbish."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from esrt.cloud.feature_cache import open_cache
from esrt.cloud.feature_cache import redis as module
from esrt.cloud.feature_cache.base import tenant_name
from esrt.cloud.feature_cache.redis import TIMEOUT_SECONDS, RedisCache
from esrt.errors import CloudError
from esrt.wire.frame import Frame

MakeFrame = Callable[..., Frame]


def test_servers_share_it_and_tenants_do_not(redis: Any, frame: MakeFrame) -> None:
    async def main() -> None:
        one, other = (open_cache(redis.url, 1000, 60) for _ in range(2))
        assert await one.put("ann", frame(1)) == "new"
        assert await other.put("ann", frame(1)) == "again"
        assert await other.get("ann", frame(1).id) == frame(1)
        assert await other.get("bob", frame(1).id) is None
        assert await other.put("bob", frame(1)) == "new", "nothing tells bob that ann has it"
        await other.delete("ann", frame(1).id)
        await other.delete("ann", frame(1).id)
        assert await one.get("ann", frame(1).id) is None and await one.get("bob", frame(1).id) == frame(1)
        await one.close()
        await other.close()

    asyncio.run(main())


def test_redis_forgets_in_time(redis: Any, frame: MakeFrame) -> None:
    async def main() -> None:
        cache = open_cache(redis.url, 1000, 1.0)
        await cache.put("ann", frame(1))
        await cache.put("ann", frame(2))
        await asyncio.sleep(0.6)
        assert await cache.put("ann", frame(1)) == "again"
        assert await cache.get("ann", frame(2).id)
        await asyncio.sleep(0.6)
        assert await cache.get("ann", frame(1).id) and await cache.get("ann", frame(2).id) is None
        await asyncio.sleep(0.6)
        assert redis.say("DBSIZE") == ":0"
        await cache.close()

    asyncio.run(main())


def test_a_password_of_the_environment(redis: Any, frame: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not stand on the command line, where everybody can read it; one in the URL comes first."""
    assert redis.say("CONFIG", "SET", "requirepass", "open-sesame") == "+OK"
    address = redis.url.removeprefix("redis://")

    async def put(url: str) -> str:
        cache = open_cache(url, 1000, 60)
        stored = await cache.put("ann", frame(1))
        await cache.close()
        return stored

    assert asyncio.run(put(redis.url)) == "refused"
    monkeypatch.setenv("REDISCLI_AUTH", "open-sesame")
    assert asyncio.run(put(redis.url)) == "new"
    assert asyncio.run(put(f"redis://:wrong@{address}")) == "refused"
    monkeypatch.setenv("REDISCLI_AUTH", "wrong")
    assert asyncio.run(put(f"redis://:open-sesame@{address}")) == "again"


def test_killed_and_back_again(
    redis: Any, frame: MakeFrame, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.5)

    async def main() -> None:
        cache = open_cache(redis.url, 1000, 60)
        await cache.put("ann", frame(1))
        redis.kill()
        for _ in range(3):
            assert await cache.get("ann", frame(1).id) is None
            assert await cache.put("ann", frame(1)) == "refused"
            with pytest.raises(CloudError, match="try again") as caught:
                await cache.delete("ann", frame(1).id)
            assert (caught.value.code, caught.value.status) == ("not_deleted", 503)
            await asyncio.sleep(0.3)
        redis.start()
        await asyncio.sleep(0.6)
        assert await cache.put("ann", frame(1)) == "new"
        assert await cache.get("ann", frame(1).id) == frame(1)
        await cache.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    first, last = (record.getMessage() for record in caplog.records)
    assert "does not answer (ConnectionError)" in first and last.endswith("over")
    assert frame(1).id not in caplog.text and tenant_name("ann") not in caplog.text


def test_a_redis_that_hangs_costs_one_timeout(redis: Any, frame: MakeFrame) -> None:
    async def main() -> None:
        cache = open_cache(redis.url, 1000, 60)
        await cache.put("ann", frame(1))
        redis.hang()
        began = time.perf_counter()
        for _ in range(200):
            assert await cache.get("ann", frame(1).id) is None
        assert TIMEOUT_SECONDS * 0.9 < time.perf_counter() - began < TIMEOUT_SECONDS + 1.5
        # A server that starts meanwhile does so, and waits no longer.
        began = time.perf_counter()
        other = open_cache(redis.url, 1000, 60)
        assert await other.put("ann", frame(1)) == "refused" == await other.put("ann", frame(2))
        assert time.perf_counter() - began < 2 * TIMEOUT_SECONDS + 1.5

    asyncio.run(main())


def test_while_one_asks_again_nobody_waits(redis: Any, frame: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        cache = RedisCache(redis.url, 60)
        redis.hang()
        assert await cache.get("ann", frame(1).id) is None
        monkeypatch.setattr(cache, "_resting_until", 0.0)  # the pause is over
        asked = asyncio.ensure_future(cache.get("ann", frame(1).id))
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        assert await cache.get("ann", frame(1).id) is None
        assert time.perf_counter() - began < 0.2 and not asked.done()
        assert await asked is None

    asyncio.run(main())


def test_a_full_redis_still_gives(redis: Any, frame: MakeFrame, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        cache = open_cache(redis.url, 1000, 60)
        await cache.put("ann", frame(1))
        redis.say("CONFIG", "SET", "maxmemory", "1")  # and nothing may be evicted
        for fill in (2, 3):
            assert await cache.put("ann", frame(fill)) == "refused"
            assert await cache.get("ann", frame(1).id) == frame(1)
        redis.say("CONFIG", "SET", "maxmemory", "0")
        assert await cache.put("ann", frame(2)) == "new"
        await cache.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert ["refuses" in record.getMessage() for record in caplog.records] == [True, True]


def test_rubbish_is_a_miss(redis: Any, frame: MakeFrame) -> None:
    async def main() -> None:
        cache = open_cache(redis.url, 1000, 60)
        key = f"esrt:{tenant_name('ann')}:{frame(1).id}"
        for value in ("rubbish", "cos\\nsystem"):
            assert redis.say("SET", key, value) == "+OK"
            assert await cache.get("ann", frame(1).id) is None
        assert await cache.put("ann", frame(1)) == "again" and await cache.get("ann", frame(1).id) == frame(1)
        redis.say("DEL", key)
        redis.say("LPUSH", key, "a list")
        assert await cache.get("ann", frame(1).id) is None
        assert await cache.put("ann", frame(1)) == "again" and await cache.get("ann", frame(1).id) == frame(1)
        # Another frame under this name is not this frame.
        await cache.put("ann", frame(2))
        redis.say("RENAME", f"esrt:{tenant_name('ann')}:{frame(2).id}", key)
        assert await cache.get("ann", frame(1).id) is None
        await cache.close()

    asyncio.run(main())
