"""uvicorn, with an end in order: `/readyz` fails, then nobody new is let in, then what was accepted is finished.

It ends by itself when the engine has, whose memory only a new process gets back: a supervisor starts it again.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from esrt.cloud.connections import Connection

NOTICE_SECONDS = 2.0
"""From the failing `/readyz` to the closed door: time for a load balancer to send new work elsewhere."""


class Server(uvicorn.Server):
    """Serves one application until SIGTERM or SIGINT. An impatient SIGINT (Ctrl-C) gives no notice, nor does an engine
    that has failed: every request gets its 503 already.
    """

    def __init__(self, app: Starlette, drain_seconds: int, tls: tuple[str, str] | None = None) -> None:
        """`drain_seconds`: for what was accepted to finish; `tls`: the files of a certificate and its key, in PEM."""
        self._app = app
        self._notice = NOTICE_SECONDS
        cert, key = tls or (None, None)
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,  # it would tell who asked when
                server_header=False,
                http=Connection,
                ws="none",
                timeout_graceful_shutdown=drain_seconds,
                ssl_certfile=cert,
                ssl_keyfile=key,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT:
            self._notice = 0.0
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._app.state.engine.failed:
            self._notice = 0.0
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.draining = True
        began = time.monotonic()
        while time.monotonic() - began < self._notice:
            await asyncio.sleep(0.1)
        await super().shutdown(sockets)
