"""The HTTP server: routes, keys, limits and counts around one Service."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from esrt.cloud import tracing
from esrt.cloud.edge_files import EdgeFiles
from esrt.cloud.feature_cache import FeatureCache
from esrt.cloud.feature_cache.base import keep_swept
from esrt.cloud.headers import Headers
from esrt.cloud.limits import Limits, Tenants
from esrt.cloud.metrics import Metrics
from esrt.cloud.problems import internal_error, no_route, respond
from esrt.cloud.routes import Routes
from esrt.cloud.security import ANYONE, Keys, tenant_of
from esrt.cloud.service import Service
from esrt.errors import CloudError, ESRTError, where
from esrt.wire.local import is_local
from esrt.wire.schemas import ModelCard

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from esrt.cloud.load import Start

log = logging.getLogger(__name__)

Handler = Callable[[Request, str], Awaitable[Response]]
DEFAULT_LIMITS = Limits()


def load_app(
    folder: Path,
    cache: FeatureCache,
    keys: Callable[[], Keys] | None,
    limits: Limits,
    start: Start | None = None,
) -> Starlette:
    """`create_app` around the model of a folder that `hub.resolve` returned; `start` is one of `load.starter`.

    Raises ModelError, and as `start`.
    """
    from esrt.cloud.load import load_card, load_service, start_transformers

    edge = EdgeFiles(folder)
    service = load_service(folder, start or start_transformers)
    return create_app(service, cache, keys, load_card(folder, edge), edge, limits)


def create_app(
    service: Service,
    cache: FeatureCache,
    keys: Callable[[], Keys] | None,
    card: ModelCard,
    edge: EdgeFiles,
    limits: Limits = DEFAULT_LIMITS,
) -> Starlette:
    """The application that serves one model; it closes the service's engine and the cache when it ends.

    `keys` gives those that count now; None lets everyone in: ask `security.check_bind` before listening. `edge` are the
    files that `card.edge` lists. `/readyz` fails from the moment that `app.state.draining` is True.
    """
    metrics, traces = Metrics(service.collectors), tracing.provider()
    routes = Routes(service, cache, card, edge, metrics, limits)
    tenants = Tenants(limits)

    def route(path: str, method: str, handler: Handler) -> Route:
        return Route(path, _Endpoint(path, handler, keys, tenants, metrics, traces), methods=[method])

    def health(path: str, handler: Handler) -> Route:
        return Route(path, _Endpoint(path, handler, None, None, metrics, None), methods=["GET"])

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(keep_swept(cache))
        yield
        sweeping.cancel()
        await service.engine.close()
        await cache.close()
        if traces is not None:
            await asyncio.to_thread(traces.shutdown)

    app = Starlette(
        routes=[
            route("/v1/translations", "POST", routes.translate),
            route("/v1/verifications", "POST", routes.verify),
            route("/v1/features/{features}", "PUT", routes.store),
            route("/v1/features/{features}", "DELETE", routes.forget),
            route("/v1/models", "GET", routes.models),
            route("/v1/edge/{file}", "GET", routes.edge),
            route("/metrics", "GET", routes.metrics),
            route("/openapi.json", "GET", routes.openapi),
            health("/healthz", routes.alive),
            health("/readyz", routes.ready),
        ],
        exception_handlers={HTTPException: no_route},
        lifespan=lifespan,
        middleware=[Middleware(Headers)],
    )
    app.router.redirect_slashes = False  # a path is right or wrong: a redirect would name a host, and ask for no key
    app.state.draining = False
    app.state.engine = service.engine
    return app


class _Endpoint:
    """An ASGI application around one handler: the key before anything else, every error a problem, all counted.

    What a request holds, in `request.state.held`, is let go when its answer has been sent.
    """

    def __init__(
        self,
        route: str,
        handler: Handler,
        keys: Callable[[], Keys] | None,
        tenants: Tenants | None,
        metrics: Metrics,
        traces: TracerProvider | None,
    ) -> None:
        self._route = route
        self._handler = handler
        self._keys = keys
        self._tenants = tenants
        self._metrics = metrics
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        status = 499  # the client has gone, as nginx counts it
        request = Request(scope, receive, send)

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":  # a file's response decides here whether it is 200, 206 or 416
                status = about["http.response.status_code"] = message["status"]
            await send(message)

        try:
            with tracing.request(self._traces, request.method, self._route) as about, ExitStack() as request.state.held:
                response = await self._answer(request)
                await response(scope, receive, sent)
        except ClientDisconnect:
            self._metrics.abandoned.inc()
        except Exception:
            status = 500 if status == 499 else status
            raise
        finally:
            status = getattr(request.state, "status", status)
            self._metrics.requests.labels(self._route, str(status)).inc()
            if (tenant := getattr(request.state, "tenant", None)) is not None:
                self._metrics.tenant_requests.labels(self._metrics.tenant(tenant), str(status)).inc()
            self._metrics.seconds.labels(self._route).observe(time.perf_counter() - began)

    def _tenant(self, request: Request) -> str:
        keys = None if self._keys is None else self._keys()
        if keys is None and not is_local(request.url.hostname, request.headers.get("origin", "")):
            raise CloudError("not_local", "Without keys only programs of this device may ask, at loopback.", 403)
        return tenant_of(request.headers.get("authorization"), keys)

    async def _answer(self, request: Request) -> Response:
        try:
            tenant = ANYONE
            if self._tenants is not None:
                tenant = request.state.tenant = self._tenant(request)
                request.state.held.enter_context(self._tenants.request(tenant))
            return await self._handler(request, tenant)
        except ESRTError as error:
            return respond(error)
        except ClientDisconnect:
            raise
        except Exception as error:
            log.error("%s: %s", self._route, where(error))
            return respond(internal_error())
