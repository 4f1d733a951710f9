"""What each route does. docs/http-api.md is its description for users."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Send

from esrt.cloud import tracing
from esrt.cloud.body import read_body, unless_gone
from esrt.cloud.deadline import all_in_time, in_time
from esrt.cloud.edge_files import EdgeFiles
from esrt.cloud.feature_cache import FeatureCache
from esrt.cloud.feature_cache.base import Stored
from esrt.cloud.limits import Admission, Limits
from esrt.cloud.metrics import CONTENT_TYPE, Metrics
from esrt.cloud.openapi import document
from esrt.cloud.problems import internal_error, problem_of
from esrt.cloud.service import Event, Service
from esrt.cloud.verifications import Verifications
from esrt.errors import CloudError, ESRTError, FrameError, where
from esrt.wire.frame import Frame
from esrt.wire.schemas import ModelCard, TranslationRequest, check_features, models_to_json
from esrt.wire.verification import VerificationRequest

log = logging.getLogger(__name__)

JSON_CAP = 16 * 1024
READ_SECONDS = 10.0
"""For a client to read the last of a stream after its deadline."""


class Routes:
    """The handlers of one application: each takes the request and its tenant."""

    def __init__(
        self,
        service: Service,
        cache: FeatureCache,
        card: ModelCard,
        edge: EdgeFiles,
        metrics: Metrics,
        limits: Limits,
    ) -> None:
        self._service = service
        self._verifications = Verifications(service)
        self._cache = cache
        self._card = card
        self._edge = edge
        self._metrics = metrics
        self._admission = Admission(limits, service.most_tokens(1))
        metrics.queue_limit.set(limits.queue)
        self._seconds = limits.deadline

    async def translate(self, request: Request, tenant: str) -> Response:
        """POST /v1/translations: a frame with its query, or JSON about stored features."""
        if request.headers.get("content-type", "").split(";")[0].strip().lower() == "application/json":
            too_large = CloudError("body_too_large", f"A JSON body may have at most {JSON_CAP} bytes.", 413)
            what = TranslationRequest.from_json(await read_body(request, JSON_CAP, too_large))
            self._hold(request, self._tokens(what))
            frame = await self._stored(tenant, what.features)
        else:
            what = TranslationRequest.from_query(request.query_params.multi_items())
            # Where there is no room, a frame need not come first; only what has come takes room.
            self._admission.check(self._tokens(what))
            data = await self._body(request, tenant)
            self._hold(request, self._tokens(what))
            frame = self._service.read(data)
            await self._store(tenant, frame)  # kept or not, the answer comes

        if "text/event-stream" not in request.headers.get("accept", "").lower():
            answer = await unless_gone(request, in_time(self._service.translate(frame, what, tenant), self._seconds))
            self._count(tenant, answer.usage.tokens)
            return JSONResponse(answer.to_json())
        events = all_in_time(self._service.stream(frame, what, tenant), self._seconds)
        # What goes wrong before the first event still gets its own status.
        first = await unless_gone(request, _next(events))
        return _EventStream(self._written(request, tenant, first, events), self._seconds + READ_SECONDS)

    async def verify(self, request: Request, tenant: str) -> Response:
        """POST /v1/verifications: JSON about a block drafted from stored features."""
        too_large = CloudError("body_too_large", f"A JSON body may have at most {JSON_CAP} bytes.", 413)
        what = VerificationRequest.from_json(await read_body(request, JSON_CAP, too_large))
        self._hold(request, len(what.block))
        frame = await self._stored(tenant, what.features)
        verdict = self._verifications.verify(tenant, frame, what)
        return JSONResponse((await unless_gone(request, in_time(verdict, self._seconds))).to_json())

    async def store(self, request: Request, tenant: str) -> Response:
        """PUT /v1/features/{features}."""
        frame = self._service.read(await self._body(request, tenant))
        if frame.id != request.path_params["features"]:
            raise CloudError("features_id_mismatch", f"These features have the id {frame.id}: put them there.", 400)
        stored = await self._store(tenant, frame)
        if stored == "refused":
            raise CloudError(
                "features_not_kept", "No room for these features now: send them along with a translation.", 507
            )
        return JSONResponse({"features": frame.id}, status_code=201 if stored == "new" else 200)

    async def forget(self, request: Request, tenant: str) -> Response:
        """DELETE /v1/features/{features}: the same answer whether they were there or not."""
        await self._cache.delete(tenant, check_features(request.path_params["features"]))
        return Response(status_code=204)

    async def models(self, request: Request, tenant: str) -> Response:
        """GET /v1/models."""
        tokenizer = await asyncio.to_thread(lambda: self._verifications.tokenizer)
        return JSONResponse(models_to_json([replace(self._card, retention=self._cache.retention, tokenizer=tokenizer)]))

    async def edge(self, request: Request, tenant: str) -> Response:
        """GET /v1/edge/{file}: a file that the model's card names, and no other path."""
        return self._edge.respond(request.path_params["file"], request)

    async def metrics(self, request: Request, tenant: str) -> Response:
        """GET /metrics."""
        self._metrics.ready.set(self._is_ready(request))
        self._metrics.queue.set(self._admission.requests)
        self._metrics.queue_ratio.set(self._admission.ratio)
        self._metrics.load.set(self._service.engine.load)
        self._metrics.cache_bytes.set(self._cache.total_bytes)
        return Response(self._metrics.text(tenant), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, request: Request, tenant: str) -> Response:
        """GET /openapi.json: all routes, for programs."""
        return JSONResponse(document())

    async def alive(self, request: Request, tenant: str) -> Response:
        """GET /healthz: the process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request, tenant: str) -> Response:
        """GET /readyz: the model is loaded and the server is not about to end."""
        if not self._is_ready(request):
            raise CloudError("not_ready", "The server is starting or stopping: try again in a moment.", 503)
        return JSONResponse({"status": "ready"})

    def _is_ready(self, request: Request) -> bool:
        return self._service.engine.ready and not request.app.state.draining

    def _count(self, tenant: str, tokens: int) -> None:
        self._metrics.tokens.labels(self._metrics.tenant(tenant)).inc(tokens)

    def _tokens(self, what: TranslationRequest) -> int:
        return self._service.most_tokens(len(what.to), what.beam)

    def _hold(self, request: Request, tokens: int) -> None:
        request.state.held.enter_context(self._admission.work(tokens))

    async def _body(self, request: Request, tenant: str) -> bytes:
        cap = self._service.frame_cap
        too_large = FrameError("frame_too_large", f"A frame has at most {cap} bytes here: encode it again.")
        with tracing.span("body"):
            data = await read_body(request, cap, too_large)
        self._metrics.frame_bytes.labels(self._metrics.tenant(tenant)).inc(len(data))
        return data

    async def _store(self, tenant: str, frame: Frame) -> Stored:
        stored = await self._cache.put(tenant, frame)
        if stored == "refused":
            self._metrics.cache_refused.inc()
        return stored

    async def _stored(self, tenant: str, features: str) -> Frame:
        frame = await self._cache.get(tenant, features)
        self._metrics.cache_lookups.labels("miss" if frame is None else "hit").inc()
        if frame is not None:
            try:
                # A cache outlives a server, and the next one may serve another model.
                return self._service.read(frame.to_bytes())
            except FrameError:
                pass
        raise CloudError("features_not_found", "These features are not stored here: upload them again.", 404)

    async def _written(
        self, request: Request, tenant: str, first: Event, events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[str, None]:
        """Server-sent events; an error after the first is an `error` event with its problem, and counts as that."""

        def failed(error: ESRTError) -> str:
            problem = problem_of(error)
            request.state.status = problem.status
            return _sse("error", problem.to_json())

        async with aclosing(events):
            yield _sse(first.name, first.data)
            try:
                async for event in events:
                    if event.name == "done":
                        self._count(tenant, event.data["usage"]["tokens"])
                    yield _sse(event.name, event.data)
            except ESRTError as error:
                yield failed(error)
            except Exception as error:
                log.error("stream: %s", where(error))
                yield failed(internal_error())


class _EventStream(StreamingResponse):
    """Closes its events when it ends: also when the client has gone, or has not read them all after `seconds`."""

    def __init__(self, lines: AsyncGenerator[str, None], seconds: float) -> None:
        super().__init__(lines, headers={"X-Accel-Buffering": "no"}, media_type="text/event-stream")
        self._lines = lines
        self._seconds = seconds

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._lines):
            with anyio.move_on_after(self._seconds) as reading:
                await super().stream_response(send)
            if reading.cancelled_caught:
                raise ClientDisconnect


async def _next(events: AsyncGenerator[Event, None]) -> Event:
    try:
        return await events.__anext__()
    except BaseException:
        await events.aclose()
        raise


def _sse(name: str, data: dict[str, Any]) -> str:
    # JSON has no line break of its own, so an event is one data line.
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
