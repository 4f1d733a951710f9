"""Frames that were sent, kept for a while: a tenant uploads once and translates many times."""

from __future__ import annotations

from pathlib import Path

from esrt.cloud.feature_cache.base import FeatureCache
from esrt.cloud.feature_cache.disk import DiskCache
from esrt.cloud.feature_cache.memory import MemoryCache
from esrt.errors import UsageError

__all__ = ["FeatureCache", "open_cache"]


def open_cache(where: str, max_bytes: int, retention: float) -> FeatureCache:
    """The cache that an operator names: `memory`, a Redis' URL (redis://, rediss://, unix://), or else a folder.

    Frames are forgotten `retention` seconds after they were last sent; in memory and in a folder, those of all tenants
    together take at most `max_bytes`. Raises UsageError `bad_cache` or `cache_in_use`.
    """
    if where == "memory":
        return MemoryCache(max_bytes, retention)
    if "://" in where:
        # Needs a package that the other two do not.
        from esrt.cloud.feature_cache.redis import RedisCache

        return RedisCache(where, retention)
    if not where:
        raise UsageError("bad_cache", "Say where features are kept: memory, a folder, or a URL redis://HOST:PORT.")
    return DiskCache(Path(where), max_bytes, retention)
