"""Connections, before there is a request on them: who sends none is not waited for, and there are not too many."""

from __future__ import annotations

import asyncio
import sys
from functools import cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

if sys.platform != "win32":
    import resource

HEAD_SECONDS = 10.0
"""For the whole head of a request, from the connection or from the head's first byte on one that is used again."""
HEAD_BYTES = 1 << 16
"""Of a head, and of whatever else of a request is no piece of its body: the parser itself has no limit."""
STUCK_SECONDS = 60.0
"""For a client to take the piece of an answer that waits for it, 64 KiB at most."""
MOST_FILES, SPARE_FILES = 1 << 16, 128
"""That the process opens at most, and those of them that are for other things than connections."""


class Connection(HttpToolsProtocol):
    """uvicorn's own, with an end to silence, to heads that never end, and to clients that do not take their answer."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._late: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._idle_bytes = 0  # since the last head or piece of a body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Whatever the client has not taken counts as waiting. Not 0: asyncio's TLS would then wait for nothing.
        transport.set_write_buffer_limits(high=1, low=0)
        if len(self.connections) > most():
            transport.abort()  # its client finds the door closed, and comes again
        else:
            self._late = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._idle_bytes += len(data)
        super().data_received(data)
        if self._idle_bytes > HEAD_BYTES:
            self.transport.abort()
        cycle: RequestResponseCycle | None = self.cycle  # none before the first request, whatever its type says
        if cycle is not None and not cycle.response_complete:
            self._in_time()
        elif self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def on_headers_complete(self) -> None:
        self._idle_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        super().on_body(body)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(STUCK_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self.cycle.disconnected = True  # or what it has still to say would go to a transport that is closed
        self.transport.abort()

    def resume_writing(self) -> None:
        self._moves()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        self._moves()
        super().connection_lost(exc)

    def _moves(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


@cache
def most() -> int:
    """Connections at once: as many as the process may have open files. It takes all that its hard limit gives it."""
    if sys.platform == "win32":
        return MOST_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    except (ValueError, OSError):  # some systems have a limit that they do not tell
        files = soft
    return max(1, files - SPARE_FILES)
