"""Frames in a folder: what is on the disk, what a new server finds there, and a disk that fails."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esrt.cloud.feature_cache import disk, open_cache
from esrt.cloud.feature_cache.disk import DiskCache
from esrt.errors import CloudError, UsageError
from esrt.wire.frame import Frame

MakeFrame = Callable[..., Frame]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def test_one_private_file_a_frame(tmp_path: Path, frame: MakeFrame) -> None:
    async def main() -> None:
        cache = open_cache(str(tmp_path / "new" / "cache"), 1000, 60)
        for tenant in ("ann", "../../bob", "a/b\0c"):
            assert await cache.put(tenant, frame(1)) == "new"
            assert await cache.put(tenant, frame(1)) == "again"
            assert await cache.get(tenant, frame(1).id) == frame(1)
        assert await cache.get("eve", frame(1).id) is None
        await cache.close()

    asyncio.run(main())
    found = files(tmp_path)
    assert len(found) == 3 and {path.read_bytes() for path in found} == {frame(1).to_bytes()}
    for path in found:
        assert path.name == f"{frame(1).id}.frame" and len(path.parent.name) == 64
        assert path.parent.parent == tmp_path / "new" / "cache"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new" / "cache").stat().st_mode) == 0o700


def test_a_new_server_finds_them_and_forgets_in_time(tmp_path: Path, frame: MakeFrame) -> None:
    now = [1e9]

    def open_at(seconds: float, max_bytes: int = 1000) -> DiskCache:
        now[0] = 1e9 + seconds
        return DiskCache(tmp_path, max_bytes, 60, lambda: now[0])

    async def main() -> None:
        cache = open_at(0)
        for fill in range(4):
            now[0] += 1
            await cache.put("ann", frame(fill))
        now[0] += 1
        assert await cache.get("ann", frame(0).id)
        await cache.close()
        cache = open_at(10, max_bytes=300)  # room for three: the least recently used goes
        assert [await cache.get("ann", frame(fill).id) is not None for fill in range(4)] == [True, False, True, True]
        await cache.close()
        cache = open_at(62.5)  # what was used since is not kept longer for it
        assert [await cache.get("ann", frame(fill).id) is not None for fill in range(4)] == [False, False, True, True]
        assert len(files(tmp_path)) == 2
        now[0] += 10
        await cache.sweep()  # nobody asks
        assert files(tmp_path) == [] and [path.name for path in tmp_path.iterdir()] == [".lock"]
        await cache.close()

    asyncio.run(main())


def test_a_server_that_was_killed(tmp_path: Path, frame: MakeFrame) -> None:
    """What a kill leaves: whole files, and perhaps one that was being written."""
    script = f"""
import asyncio, os, signal
from pathlib import Path
from esrt.cloud.feature_cache.disk import DiskCache
from esrt.wire.frame import Frame

async def main():
    cache = DiskCache(Path({str(tmp_path)!r}), 1000, 60)
    await cache.put("ann", Frame(2, 1, 60, bytes(8), bytes([1]) * 60))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == -9
    (whole,) = files(tmp_path)
    whole.with_name(f"{'0' * 32}.part").write_bytes(b"half")
    others = [tmp_path / "notes.txt", whole.with_name("notes.txt"), tmp_path / "a" / f"{'0' * 32}.frame"]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_text("somebody else's")

    async def main() -> None:
        cache = DiskCache(tmp_path, 1000, 60)
        assert await cache.get("ann", frame(1).id) == frame(1)
        await cache.close()

    asyncio.run(main())
    assert files(tmp_path) == sorted([whole, *others])


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "empty", "another", "gone"])
def test_a_damaged_file_is_a_miss_and_goes(
    tmp_path: Path, frame: MakeFrame, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        cache = DiskCache(tmp_path, 1000, 60)
        await cache.put("ann", frame(1))
        (path,) = files(tmp_path)
        good = path.read_bytes()
        path.write_bytes(
            {
                "flipped": good[:50] + bytes([good[50] ^ 1]) + good[51:],
                "cut": good[:-1],
                "longer": good * 1000,
                "empty": b"",
                "another": frame(2).to_bytes(),
                "gone": good,
            }[damage]
        )
        if damage == "gone":
            path.unlink()
        assert await cache.get("ann", frame(1).id) is None
        assert files(tmp_path) == [] and cache.total_bytes == 0
        assert await cache.put("ann", frame(1)) == "new"
        assert await cache.get("ann", frame(1).id) == frame(1)
        files(tmp_path)[0].unlink()
        assert await cache.put("ann", frame(1)) == "new", "kept means kept"
        assert len(files(tmp_path)) == 1
        await cache.close()

    asyncio.run(main())
    assert frame(1).id not in caplog.text


def test_no_id_becomes_another_path(tmp_path: Path, frame: MakeFrame) -> None:
    victim = tmp_path / "secret.frame"
    victim.write_bytes(frame(1).to_bytes())

    async def main() -> None:
        cache = DiskCache(tmp_path / "cache", 1000, 60)
        for features in ("../../secret", "../secret", "", "\0", "0" * 31, f"{'0' * 32}\n", "A" * 32):
            assert await cache.get("ann", features) is None
            await cache.delete("ann", features)
        await cache.close()

    asyncio.run(main())
    assert victim.exists()


def test_one_server_a_folder(tmp_path: Path) -> None:
    cache = open_cache(str(tmp_path), 1000, 60)
    with pytest.raises(UsageError) as caught:
        open_cache(str(tmp_path), 1000, 60)
    assert caught.value.code == "cache_in_use"
    asyncio.run(cache.close())
    asyncio.run(open_cache(str(tmp_path), 1000, 60).close())


@pytest.mark.parametrize("where", ["", "file", "file/below", "ftp://host", "redis://host:port", "redis://h/0?db=x"])
def test_where_nothing_can_be_kept(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError) as caught:
        open_cache(str(tmp_path / where) if where.startswith("file") else where, 1000, 60)
    assert caught.value.code == "bad_cache"


def test_a_full_disk(tmp_path: Path) -> None:
    """A real limit on the size of files, which a process cannot pass: frames are refused, and no part stays."""
    script = f"""
import asyncio, resource
from pathlib import Path
from esrt.cloud.feature_cache.disk import DiskCache
from esrt.wire.frame import Frame

async def main():
    small, large = (Frame(2, 1, width, bytes(8), bytes(width)) for width in (60, 5000))
    cache = DiskCache(Path({str(tmp_path)!r}), 100_000, 60)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    assert await cache.put("ann", large) == await cache.put("ann", large) == "refused"
    assert await cache.get("ann", large.id) is None
    assert await cache.put("ann", small) == "new" and await cache.get("ann", small.id) == small
    assert cache.total_bytes == 100
    await cache.close()

asyncio.run(main())
"""
    result = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(files(tmp_path)) == 1 and len(list(tmp_path.glob("*/"))) <= 2
    assert result.stderr.count("takes no more (File too large)") == 1, "once an outage"


def test_a_disk_that_is_full_and_has_room_again(
    tmp_path: Path, frame: MakeFrame, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "path with a name")

    async def main() -> None:
        cache = DiskCache(tmp_path, 1000, 60)
        await cache.put("ann", frame(1))
        with monkeypatch.context() as patch:
            patch.setattr(disk, "_write", full)
            assert [await cache.put("ann", frame(fill)) for fill in (2, 3, 1)] == ["refused", "refused", "again"]
            assert await cache.get("ann", frame(1).id) == frame(1)
        assert await cache.put("ann", frame(2)) == "new"
        with monkeypatch.context() as patch:
            patch.setattr(DiskCache, "_remove", full)
            with pytest.raises(CloudError) as caught:
                await cache.delete("ann", frame(1).id)
            assert (caught.value.code, caught.value.status) == ("not_deleted", 503)
            assert await cache.get("ann", frame(1).id) is None, "and it is not given away either"
        await cache.delete("ann", frame(1).id)
        assert len(files(tmp_path)) == 1
        await cache.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    said = [record.getMessage() for record in caplog.records]
    assert [("No space left" in line, line.endswith("over")) for line in said] == [(True, False), (False, True)]
    assert "path with a name" not in caplog.text


def test_many_at_once(tmp_path: Path, frame: MakeFrame) -> None:
    """Requests come in any order, the limit holds, and the disk and the ledger agree in the end."""

    async def main() -> None:
        cache = DiskCache(tmp_path, 2000, 60)

        async def one(number: int) -> None:
            made = frame(number % 50)
            await cache.put("ann", made)
            found = await cache.get("ann", made.id)
            assert found in (made, None)
            if number % 3 == 0:
                await cache.delete("ann", made.id)

        await asyncio.gather(*map(one, range(500)))
        assert cache.total_bytes == sum(path.stat().st_size for path in files(tmp_path)) <= 2000
        await cache.close()

    began = time.perf_counter()
    asyncio.run(main())
    assert time.perf_counter() - began < 30


@pytest.mark.parametrize("jump", [86400.0, -86400.0])
def test_a_wall_clock_that_is_set(
    tmp_path: Path, frame: MakeFrame, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Frames are kept for as long as was promised, no shorter and no longer, whatever the clock on the wall says."""
    real = time.time

    async def main() -> None:
        cache = DiskCache(tmp_path, 1000, 2.0)
        await cache.put("ann", frame(1))
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        assert await cache.get("ann", frame(1).id) == frame(1)
        await asyncio.sleep(2.1)
        assert await cache.get("ann", frame(1).id) is None and not files(tmp_path)
        await cache.close()

    asyncio.run(main())


def test_a_disk_that_does_not_answer(tmp_path: Path, frame: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it, nothing piles up behind it, and when it is back all is as before."""
    answers, write, asked = threading.Event(), disk._write, []

    def hanging(*arguments: Any) -> None:
        asked.append(arguments)
        assert answers.wait(60)
        write(*arguments)

    monkeypatch.setattr(disk, "_write", hanging)
    monkeypatch.setattr(disk, "SLOW_SECONDS", 0.1)

    async def main() -> None:
        cache = DiskCache(tmp_path, 1000, 60)
        assert await asyncio.gather(*(cache.put("ann", frame(fill)) for fill in range(3))) == ["refused"] * 3
        assert await cache.put("ann", frame(4)) == "refused" and await cache.get("ann", frame(0).id) is None
        with pytest.raises(CloudError) as caught:
            await cache.delete("ann", frame(0).id)
        assert caught.value.code == "not_deleted" and len(asked) == 1
        answers.set()
        while cache._hangs:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(disk, "SLOW_SECONDS", 60)
        assert await cache.get("ann", frame(0).id) == frame(0)
        assert await cache.put("ann", frame(4)) == "new"
        await cache.delete("ann", frame(0).id)
        await cache.close()

    asyncio.run(main())
