"""The HTTP server: routes, keys, limits and counts around one Service."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from esrt.cloud.edge_files import EdgeFiles
from esrt.cloud.feature_cache import FeatureCache
from esrt.cloud.metrics import Metrics
from esrt.cloud.problems import internal_error, no_route, respond
from esrt.cloud.routes import Routes
from esrt.cloud.security import Keys, tenant_of
from esrt.cloud.service import Service
from esrt.errors import ESRTError, where
from esrt.wire.schemas import ModelCard

log = logging.getLogger(__name__)

Handler = Callable[[Request, str], Awaitable[Response]]


def create_app(service: Service, cache: FeatureCache, keys: Keys | None, card: ModelCard, edge: EdgeFiles) -> Starlette:
    """The application that serves one model; it closes the service's engine when it ends.

    `keys` of None lets everyone in: ask `security.check_bind` before listening. `edge` are the files that
    `card.edge` lists.
    """
    metrics = Metrics()
    routes = Routes(service, cache, card, edge, metrics)

    def route(path: str, method: str, handler: Handler, *, needs_key: bool = True) -> Route:
        return Route(path, _Endpoint(path, handler, keys if needs_key else None, metrics), methods=[method])

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await service.engine.close()

    return Starlette(
        routes=[
            route("/v1/translations", "POST", routes.translate),
            route("/v1/features/{features}", "PUT", routes.store),
            route("/v1/models", "GET", routes.models),
            route("/v1/edge/{file}", "GET", routes.edge),
            route("/metrics", "GET", routes.metrics),
            route("/healthz", "GET", routes.alive, needs_key=False),
            route("/readyz", "GET", routes.ready, needs_key=False),
        ],
        exception_handlers={HTTPException: no_route},
        lifespan=lifespan,
    )


class _Endpoint:
    """An ASGI application around one handler: the key before anything else, every error a problem, all counted."""

    def __init__(self, route: str, handler: Handler, keys: Keys | None, metrics: Metrics) -> None:
        self._route = route
        self._handler = handler
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        status = 499  # the client has gone, as nginx counts it
        try:
            response = await self._answer(Request(scope, receive, send))
            status = response.status_code
            await response(scope, receive, send)
        except ClientDisconnect:
            self._metrics.abandoned.inc()
        finally:
            self._metrics.requests.labels(self._route, str(status)).inc()
            self._metrics.seconds.labels(self._route).observe(time.perf_counter() - began)

    async def _answer(self, request: Request) -> Response:
        try:
            tenant = tenant_of(request.headers.get("authorization"), self._keys)
            return await self._handler(request, tenant)
        except ESRTError as error:
            return respond(error)
        except ClientDisconnect:
            raise
        except Exception as error:
            log.error("%s: %s", self._route, where(error))
            return respond(internal_error())
