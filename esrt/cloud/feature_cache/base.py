"""What a cache of frames promises, and the little that its kinds share."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import Literal, Protocol, TypeAlias

from esrt.errors import CloudError, FrameError
from esrt.wire.frame import Frame, read

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0

Stored: TypeAlias = Literal["new", "again", "refused"]
"""What became of a frame: kept now, kept before and longer from now on, or not kept."""


class FeatureCache(Protocol):
    """Frames by tenant and id. A tenant finds its own frames only, and nothing tells it of those of others.

    A frame is gone `retention` seconds after it was last put, and may go earlier to make room. A cache that fails makes
    a server slower and does not stop it: frames are then not found and not kept, and nothing is raised; `delete` alone
    must not pretend.
    """

    retention: float

    @property
    def total_bytes(self) -> int:
        """Bytes of the frames that this process keeps, in memory or on disk."""
        ...

    async def put(self, tenant: str, frame: Frame) -> Stored:
        """Keep a frame; the least recently used ones make room."""
        ...

    async def get(self, tenant: str, features: str) -> Frame | None:
        """The tenant's frame of this id, its digest checked; None where it is not kept (any more)."""
        ...

    async def delete(self, tenant: str, features: str) -> None:
        """Forget the tenant's frame of this id, whether there is one or not.

        Raises CloudError `not_deleted` where that cannot be done now.
        """
        ...

    async def sweep(self) -> None:
        """Free what frames take whose time is over. They are not found any more, swept or not."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...


async def keep_swept(cache: FeatureCache) -> None:
    """Sweep now and then, for ever: also a server that nobody asks anything forgets in time."""
    while True:
        await asyncio.sleep(min(SWEEP_SECONDS, cache.retention))
        await cache.sweep()


def tenant_name(tenant: str) -> str:
    """A name for a tenant that is safe in a path or a key: SHA-256, 64 hex digits."""
    return hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()


def checked(data: bytes, features: str) -> Frame | None:
    """The frame of this id, from bytes that lay elsewhere; None where they are damaged or another frame."""
    try:
        frame = read(data, cap=len(data))
    except FrameError:
        return None
    return frame if frame.id == features else None


def not_deleted() -> CloudError:
    """What `delete` raises."""
    return CloudError("not_deleted", "The features cannot be deleted now: try again in a moment.", 503)


class Trouble:
    """Tells the log when something begins to fail and when it works again, and nothing in between."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.lasts = False

    def begins(self, reason: str) -> None:
        """It failed; `reason` names no tenant and no features."""
        if not self.lasts:
            log.warning("%s (%s): the server answers on, features must be sent again", self._what, reason)
        self.lasts = True

    def ends(self) -> None:
        """It worked."""
        if self.lasts:
            log.warning("%s: over", self._what)
        self.lasts = False
