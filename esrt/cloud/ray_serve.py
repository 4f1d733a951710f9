"""The same application as `esrt serve`, in many processes on many machines: Ray Serve. docs/deploy.md runs it.

Ray sends each request to one of the replicas, each with a model and an engine of its own; they share the features in a
Redis and the file of keys. Nothing here is imported where Ray is not asked for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import BackpressureConfig
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from esrt.cloud.headers import Headers
from esrt.cloud.limits import RETRY_SECONDS, Busy, Limits
from esrt.cloud.problems import respond
from esrt.errors import CloudError, UsageError

DRAIN_SECONDS = 30.0
HEALTH_SECONDS = 5.0
READY_SECONDS = 600.0


class Arguments(BaseModel):
    """What `build` may be told, by the names and with the meaning that the options of `esrt serve` have.

    `rate`, `concurrent` and `queue` are those of one replica. Ray keeps as many requests waiting as one replica takes.
    """

    model_config = ConfigDict(extra="forbid")

    cache: str
    key_file: Path
    model: str = "ESRT-270M"
    engine: Literal["transformers", "vllm"] = "transformers"
    flags: list[str] = []  # vLLM's own
    rate: int = Field(600, ge=1)
    concurrent: int = Field(64, ge=1)
    queue: int = Field(256, ge=1)
    deadline: float = Field(120, gt=0)
    retention: float = Field(3600, gt=0)


@serve.ingress()
class Cloud:
    """One replica. Ray asks for its application when it starts, and every HEALTH_SECONDS for its health."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments

    async def __serve_build_asgi_app__(self) -> Starlette:
        from esrt import hub
        from esrt.cloud.app import load_app
        from esrt.cloud.feature_cache import open_cache
        from esrt.cloud.key_file import KeyFile
        from esrt.cloud.load import starter

        told = self._arguments
        limits = Limits(told.rate, told.concurrent, told.queue, told.deadline)
        cache = open_cache(told.cache, 0, told.retention)
        start = starter(told.engine, told.flags)
        app = load_app(hub.resolve(told.model), cache, KeyFile(told.key_file).keys, limits, start)
        self._engine = app.state.engine
        began = time.monotonic()
        while not self._engine.ready:  # Ray sends requests from the moment that this returns
            if self._engine.failed or time.monotonic() - began > READY_SECONDS:
                raise CloudError("engine_failed", "The engine does not become ready: see the log before.")
            await asyncio.sleep(0.1)
        return app

    def check_health(self) -> None:
        """Ray starts a replica anew that fails this."""
        if not self._engine.ready:
            raise CloudError("not_ready", "The engine has ended.", 503)


def build(args: dict[str, Any]) -> serve.Application:
    """The application for `serve run esrt.cloud.ray_serve:build cache=redis://... key_file=...`, or a file for Ray.

    Raises pydantic's ValidationError, and UsageError `bad_cache` and of the key file, before anything is started.
    """
    from esrt.cloud.security import load_keys

    told = Arguments.model_validate(args)
    if "://" not in told.cache:
        raise UsageError("bad_cache", "Replicas share their features in a Redis: cache=redis://HOST:PORT.")
    load_keys(told.key_file)
    deployment: serve.Deployment = serve.deployment(
        max_ongoing_requests=told.queue,
        max_queued_requests=told.queue,
        # A refusal is the client's 429, as our own are, and no failure of the server.
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_SECONDS),
        health_check_period_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
    )(Cloud)
    return deployment.bind(told)


def proxy() -> list[Middleware]:
    """For RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, before Ray starts: what Ray refuses is a problem document too.

    It also ends the proxy's access log, which `serve run` leaves on whatever its file says.
    """
    logging.getLogger("ray.serve").addFilter(lambda record: not getattr(record, "serve_access_log", False))
    return [Middleware(Problems)]


class Problems:
    """An ASGI application around Ray's proxy. Errors in plain text are Ray's own; ours are documents already.

    A replica that dies takes its requests along, and Ray answers 500 or not at all: here that is a 503, and clients,
    who hold their frames, come again.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = replaced = False

        async def replace(status: int) -> None:
            nonlocal begun, replaced
            begun = replaced = True
            await Headers(respond(_error(status)))(scope, receive, send)

        async def with_document(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start" and _is_plain_error(message):
                await replace(message["status"])
            elif not replaced:
                begun = True
                await send(message)

        try:
            await self._app(scope, receive, with_document)
        except Exception:
            if begun:
                raise
        if not begun and scope["type"] == "http":
            await replace(503)


def _is_plain_error(start: Message) -> bool:
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return start["status"] >= 400 and all(kind.startswith(b"text/plain") for kind in kinds)


def _error(status: int) -> CloudError:
    if status == 429:
        return Busy("overloaded", "The servers have as much work as they take: try again in a moment.", RETRY_SECONDS)
    return CloudError("not_ready", "The server that had this request is gone: try again in a moment.", 503)
