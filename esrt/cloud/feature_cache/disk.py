"""Frames in a folder: they outlive the server, and may be more than its memory holds.

    DIR/<SHA-256 of the tenant's name>/<id>.frame    the frame's bytes; mode 0600 in folders of 0700

A file's mtime says when its frame was last sent and its atime when it was last used, so that a server that starts finds
out what is over and what goes first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio
from filelock import FileLock, Timeout

from esrt.cloud.feature_cache.base import Stored, Trouble, checked, not_deleted, tenant_name
from esrt.cloud.feature_cache.ledger import Key, Ledger
from esrt.errors import UsageError
from esrt.wire.frame import Frame

log = logging.getLogger(__name__)

Value = TypeVar("Value")

SLOW_SECONDS = 5.0
"""For a job on the disk, those before it included: one over a network may not answer for hours."""

_ID = re.compile(r"[0-9a-f]{32}")
_TENANT = re.compile(r"[0-9a-f]{64}")


def steady_clock() -> Callable[[], float]:
    """Seconds since the epoch by a clock that nobody sets: the wall's when this is called, and what has passed since.

    A wall clock that is put back would keep frames for longer than was promised.
    """
    began = time.time() - time.monotonic()
    return lambda: began + time.monotonic()


class DiskCache:
    """The most recently used frames, at most `max_bytes` of files; `clock` gives seconds since the epoch.

    The folder belongs to one server at a time. All work on it is done by one thread, so that a slow disk holds up
    neither the event loop nor any other thread, and no two jobs meet in one file.
    """

    def __init__(
        self, folder: Path, max_bytes: int, retention: float, clock: Callable[[], float] | None = None
    ) -> None:
        """Take the folder, and what an earlier server left in it. Raises UsageError `bad_cache`, `cache_in_use`."""
        self.retention = retention
        self._folder = folder
        self._clock = clock or steady_clock()
        self._ledger = Ledger(max_bytes, retention)
        self._trouble = Trouble("the feature cache's disk takes no more")
        self._lock = FileLock(folder / ".lock", timeout=0, mode=0o600, thread_local=False)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire()
            self._load()
        except Timeout:
            raise UsageError(
                "cache_in_use", f"Another server keeps its features in {folder}: name another folder, or share a Redis."
            ) from None
        except OSError as error:
            raise UsageError("bad_cache", f"Features cannot be kept in {folder}: {error.strerror or error}.") from error
        self._thread = ThreadPoolExecutor(1, "feature-cache")
        self._late: Future[Any] | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes of the files."""
        return self._ledger.total_bytes

    async def put(self, tenant: str, frame: Frame) -> Stored:
        """Keep a frame; `refused` if the disk takes it not, or if it is larger than the whole cache."""
        key, data = (tenant_name(tenant), frame.id), frame.to_bytes()
        return await self._do(lambda: self._put(key, data), "refused")

    async def get(self, tenant: str, features: str) -> Frame | None:
        """The tenant's frame of this id; a file that is damaged is removed."""
        return await self._do(lambda: self._get((tenant_name(tenant), features)), None)

    async def delete(self, tenant: str, features: str) -> None:
        """Forget a frame. Raises CloudError `not_deleted` if the disk does not let it go."""
        key = (tenant_name(tenant), features)
        # An id is a part of a path.
        if _ID.fullmatch(features) and not await self._do(lambda: self._delete(key), False):
            raise not_deleted()

    async def sweep(self) -> None:
        """Remove the files whose time is over."""
        await self._do(self._expire, 0.0)

    async def close(self) -> None:
        """End the work and leave the folder to others; the files stay."""
        with anyio.move_on_after(SLOW_SECONDS):
            await anyio.to_thread.run_sync(self._thread.shutdown, abandon_on_cancel=True)
        self._lock.release()

    @property
    def _hangs(self) -> bool:
        return self._late is not None and not self._late.done()

    async def _do(self, job: Callable[[], Value], failed: Value) -> Value:
        """What `job` gives, or `failed` where the disk has not done it in time, or has still another such job to do."""
        if self._hangs:
            return failed
        doing = self._thread.submit(job)
        with anyio.move_on_after(SLOW_SECONDS):
            return await asyncio.wrap_future(doing)
        if not doing.cancelled():
            self._late = doing
            self._trouble.begins("no answer")
        return failed

    def _put(self, key: Key, data: bytes) -> Stored:
        now = self._expire()
        if key in self._ledger:
            try:
                os.utime(self._path(key), (now, now))
            except OSError:
                self._ledger.drop(key)  # somebody took the file away: it is written anew
            else:
                self._ledger.renew(key, now)
                return "again"
        if not self._ledger.fits(len(data)):
            return "refused"
        for old in self._ledger.make_room(len(data)):
            self._discard(old)
        try:
            _write(self._path(key), data, now)
        except OSError as error:
            self._trouble.begins(error.strerror or type(error).__name__)
            return "refused"
        self._trouble.ends()
        self._ledger.add(key, len(data), now)
        return "new"

    def _get(self, key: Key) -> Frame | None:
        now = self._expire()
        if key not in self._ledger:
            return None
        length, sent = self._ledger.use(key)
        path = self._path(key)
        try:
            with path.open("rb") as file:
                data = file.read(length + 1)  # whatever the file has become
        except OSError:
            data = b""
        frame = checked(data, key[1])
        if frame is None:
            log.warning("a damaged file in the feature cache was removed")
            self._ledger.drop(key)
            self._discard(key)
            return None
        with suppress(OSError):
            os.utime(path, (now, sent))
        return frame

    def _delete(self, key: Key) -> bool:
        self._expire()
        self._ledger.drop(key)
        try:
            self._remove(key)
        except OSError:
            return False
        return True

    def _expire(self) -> float:
        now = self._clock()
        for key in self._ledger.expire(now):
            self._discard(key)
        return now

    def _discard(self, key: Key) -> None:
        try:
            self._remove(key)
        except OSError as error:
            log.warning("a file in the feature cache cannot be removed: %s", error.strerror)

    def _remove(self, key: Key) -> None:
        path = self._path(key)
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()  # nothing tells that a tenant was here once; fails where more of its frames are

    def _path(self, key: Key) -> Path:
        return self._folder / key[0] / f"{key[1]}.frame"

    def _load(self) -> None:
        """Enter the frames that are there; what is over or does not fit is removed. Files of others are left alone."""
        now = self._clock()
        found = sorted(self._found(), key=lambda file: file[1].st_mtime_ns)
        for key, status in found:
            self._ledger.add(key, status.st_size, min(status.st_mtime, now))
        self._expire()
        for key, _ in sorted(found, key=lambda file: file[1].st_atime_ns):
            if key in self._ledger:
                self._ledger.use(key)
        for key in self._ledger.make_room(0):
            self._discard(key)

    def _found(self) -> Iterator[tuple[Key, os.stat_result]]:
        for folder in list(self._folder.iterdir()):
            if not _TENANT.fullmatch(folder.name) or not folder.is_dir():
                continue
            for path in list(folder.iterdir()):
                if path.suffix == ".part" and _ID.fullmatch(path.stem):
                    path.unlink()  # a server was killed while it wrote this
                elif path.suffix == ".frame" and _ID.fullmatch(path.stem):
                    yield (folder.name, path.stem), path.stat()


def _write(path: Path, data: bytes, now: float) -> None:
    """Write beside, then rename: a file is whole or not there. What is lost with the power is sent again: no fsync."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    beside = path.with_suffix(".part")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        os.utime(beside, (now, now))
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
            path.parent.rmdir()
        raise
