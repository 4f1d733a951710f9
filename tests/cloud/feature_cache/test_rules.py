"""Memory and disk keep what a dictionary with the same rules keeps, whatever is done to them in whatever order."""

from __future__ import annotations

import asyncio
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from esrt.cloud.feature_cache.base import FeatureCache
from esrt.cloud.feature_cache.disk import DiskCache
from esrt.cloud.feature_cache.memory import MemoryCache
from esrt.wire.frame import Frame

MAX_BYTES, RETENTION = 200, 20.0
TENANTS = ("ann", "bob", "../ann", "")
MakeFrame = Callable[..., Frame]
# Frame number i has 50, 100, 150, 200 or 250 bytes: the last fits into no cache.
SIZES = (50, 100, 150, 200, 250)

tenants = st.sampled_from(TENANTS)
numbers = st.integers(0, 2 * len(SIZES) - 1)
steps = st.lists(
    st.tuples(st.sampled_from(("put", "get")), tenants, numbers)
    | st.tuples(st.just("delete"), tenants, numbers)
    | st.tuples(st.just("wait"), st.just(""), st.integers(1, 15))
    | st.tuples(st.sampled_from(("sweep", "restart")), st.just(""), st.just(0)),
    max_size=40,
)


class Model:
    """What should be kept: size and time of sending, the least recently used first."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[str, int], tuple[int, float]] = OrderedDict()

    def expire(self, now: float) -> None:
        for key in [key for key, (_, sent) in self.kept.items() if now - sent >= RETENTION]:
            del self.kept[key]

    def put(self, tenant: str, number: int, size: int, now: float) -> str:
        known = (tenant, number) in self.kept
        if not known and size > MAX_BYTES:
            return "refused"
        while not known and sum(size for size, _ in self.kept.values()) + size > MAX_BYTES:
            self.kept.popitem(last=False)
        self.kept[tenant, number] = (size, now)
        self.kept.move_to_end((tenant, number))
        return "again" if known else "new"

    def get(self, tenant: str, number: int) -> bool:
        if (tenant, number) in self.kept:
            self.kept.move_to_end((tenant, number))
        return (tenant, number) in self.kept


async def compare(
    cache: FeatureCache, reopen: Callable[[], FeatureCache], clock: list[float], todo: list[Step]
) -> None:
    model = Model()
    frames = [
        Frame(2, 1, SIZES[i % len(SIZES)] - 40, b"\0" * 8, bytes([i]) * (SIZES[i % len(SIZES)] - 40))
        for i in range(2 * len(SIZES))
    ]
    for what, tenant, number in todo:
        clock[0] += number if what == "wait" else 1
        model.expire(clock[0])
        if what == "put":
            expected = model.put(tenant, number, SIZES[number % len(SIZES)], clock[0])
            assert await cache.put(tenant, frames[number]) == expected
        elif what == "get":
            found = await cache.get(tenant, frames[number].id)
            assert found == (frames[number] if model.get(tenant, number) else None)
        elif what == "delete":
            model.kept.pop((tenant, number), None)
            await cache.delete(tenant, frames[number].id)
        elif what == "restart":
            await cache.close()
            cache = reopen()
        else:
            await cache.sweep()
        assert cache.total_bytes == sum(size for size, _ in model.kept.values())
    for tenant in TENANTS:
        for number, frame in enumerate(frames):
            assert (await cache.get(tenant, frame.id) is not None) == ((tenant, number) in model.kept)
    await cache.close()


Step = tuple[str, str, int]


@settings(max_examples=300, deadline=None)
@given(steps)
def test_memory(todo: list[Step]) -> None:
    clock = [1e9]
    cache = MemoryCache(MAX_BYTES, RETENTION, lambda: clock[0])
    # A restart leaves nothing in memory to compare, so it is no step here.
    asyncio.run(compare(cache, lambda: cache, clock, [step for step in todo if step[0] != "restart"]))


@settings(max_examples=100, deadline=None)
@given(steps)
def test_disk(todo: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock = [1e9]

        def reopen() -> FeatureCache:
            return DiskCache(Path(folder), MAX_BYTES, RETENTION, lambda: clock[0])

        asyncio.run(compare(reopen(), reopen, clock, todo))
        files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"]
        assert sum(path.stat().st_size for path in files) <= MAX_BYTES
        assert {path.suffix for path in files} <= {".frame"}
