from __future__ import annotations

from esrt.cloud.feature_cache import FeatureCache
from esrt.wire.frame import Frame


def frame(fill: int, width: int = 100) -> Frame:
    return Frame(2, 1, width, b"\0" * 8, bytes([fill]) * width)


def test_a_tenant_finds_its_own_frames_only() -> None:
    cache = FeatureCache(1000)
    assert cache.put("ann", frame(1)) and not cache.put("ann", frame(1))
    assert cache.get("ann", frame(1).id) == frame(1)
    assert cache.get("bob", frame(1).id) is None
    assert cache.put("bob", frame(1))
    assert (len(cache), cache.bytes) == (2, 200)


def test_the_least_recently_used_bytes_go() -> None:
    cache = FeatureCache(300)
    for fill in (1, 2, 3):
        cache.put("ann", frame(fill))
    assert cache.get("ann", frame(1).id)
    cache.put("ann", frame(2))
    cache.put("ann", frame(4))
    assert [cache.get("ann", frame(fill).id) is not None for fill in (1, 2, 3, 4)] == [True, True, False, True]
    cache.put("bob", frame(5, 250))  # one large frame takes the place of all small ones
    assert (len(cache), cache.bytes) == (1, 250)
    cache.put("bob", frame(6, 301))  # one that cannot be kept is not
    assert (len(cache), cache.bytes) == (0, 0)
