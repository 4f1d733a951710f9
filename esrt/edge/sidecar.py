"""OpenAI's audio API on this device's loopback: its programs send sounds here, and only frames go to the cloud."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import IO, Any, Literal

import anyio
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from esrt.audio.io import Sound
from esrt.edge import openai_api as api
from esrt.edge.async_client import AsyncClient
from esrt.edge.openai_api import Ask, Refusal
from esrt.edge.pipeline import SegmentResult
from esrt.errors import ESRTError, where
from esrt.wire.local import is_local

log = logging.getLogger(__name__)

UPLOAD_CAP = 2 << 30
_MOST_FIELDS = 100
_PRIVATE = {"Cache-Control": "no-store"}

Handler = Callable[[Request], Awaitable[Response]]


def create_app(client: AsyncClient, model: str, upload_cap: int = UPLOAD_CAP) -> Starlette:
    """The application around one cloud, whose edge half `client` has loaded already; `model` is its name.

    An upload may have `upload_cap` bytes. It has no keys: serve it on loopback only.
    """
    routes = _Routes(client, model, upload_cap)

    def route(path: str, method: str, handler: Handler) -> Route:
        return Route(path, _Endpoint(handler), methods=[method])

    return Starlette(
        routes=[
            route("/v1/audio/transcriptions", "POST", routes.transcribe),
            route("/v1/audio/translations", "POST", routes.translate),
            route("/v1/models", "GET", routes.models),
            route("/v1/models/{model}", "GET", routes.model),
        ],
        exception_handlers={HTTPException: _no_route},
    )


class _Endpoint:
    """An ASGI application around one handler: programs of this device alone, and every error in OpenAI's shape."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(Request(scope, receive))
            await response(scope, receive, send)
        except ClientDisconnect:
            pass

    async def _answer(self, request: Request) -> Response:
        try:
            _local_only(request)
            return await self._handler(request)
        except ClientDisconnect:
            raise
        except Exception as error:
            return _respond(_refusal(error))


class _Routes:
    def __init__(self, client: AsyncClient, model: str, upload_cap: int) -> None:
        self._client = client
        self._model = model
        self._upload_cap = upload_cap

    async def transcribe(self, request: Request) -> Response:
        """POST /v1/audio/transcriptions."""
        return await self._speech(request, "transcribe")

    async def translate(self, request: Request) -> Response:
        """POST /v1/audio/translations: to English, or to `to_language`."""
        return await self._speech(request, "translate")

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        asked = request.path_params["model"]
        if asked != self._model and asked not in api.ALIASES:
            raise Refusal(404, "model_not_found", f"There is no model {asked[:60]!r} here.", "model")
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        return {"id": self._model, "object": "model", "created": 0, "owned_by": "esrt"}

    async def _speech(self, request: Request, task: Literal["transcribe", "translate"]) -> Response:
        async with AsyncExitStack() as open_things:
            fields, file = await self._form(request, open_things)
            ask = api.read(task, fields, self._model)
            if file is None:
                raise Refusal(
                    400, "missing_required_parameter", "Send the sound as a file in the field `file`.", "file"
                )
            sound = await anyio.to_thread.run_sync(Sound, file)
            open_things.callback(_close, sound)
            spoken = self._client.segments(sound, [ask.to] if ask.to else [], ask.source)
            found = await open_things.enter_async_context(aclosing(spoken))
            if not ask.stream:
                segments = []
                async for segment in found:
                    segments.append(segment)
                    if await request.is_disconnected():
                        raise ClientDisconnect
                body = api.answer(ask, segments, sound.seconds)
                return Response(body, headers={**_PRIVATE, "Content-Type": api.TYPES.get(ask.form, api.PLAIN)})
            # What goes wrong before the first text still gets its own status.
            first = await anext(found, None)
            return _EventStream(_events(ask, first, found), open_things.pop_all())

    async def _form(
        self, request: Request, open_things: AsyncExitStack
    ) -> tuple[list[tuple[str, str]], IO[bytes] | None]:
        """The text fields, and the file: it has no name on disk, and is gone when `open_things` are closed."""
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "multipart/form-data":
            raise Refusal(400, "invalid_form", "Send a form: Content-Type: multipart/form-data.")
        counted = _counted(request, self._upload_cap)
        form = await open_things.enter_async_context(counted.form(max_files=1, max_fields=_MOST_FIELDS))
        fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            return fields, None
        # A temporary file that may still be in memory does not have all methods of a file before Python 3.11.
        file = os.fdopen(os.dup(upload.file.fileno()), "rb")
        open_things.callback(file.close)
        file.seek(0)
        return fields, file


def _close(sound: Sound) -> None:
    """Let go of an upload. OpenAI's answers have no place to say that parts of it were damaged."""
    sound.close()
    if sound.damage is not None:
        log.warning("%s", sound.damage)  # which names no file: an upload has no name here


async def _events(
    ask: Ask, first: SegmentResult | None, rest: AsyncGenerator[SegmentResult, None]
) -> AsyncGenerator[str, None]:
    """The events of a stream; an error after the first is an event too, which OpenAI's SDKs raise."""
    whole = ""
    segment = first
    try:
        while segment is not None:
            if text := api.said(ask, segment):
                delta = (api.gap(ask.to or segment.source) if whole else "") + text
                whole += delta
                yield api.event({"type": "transcript.text.delta", "delta": delta})
            segment = await anext(rest, None)
        yield api.event({"type": "transcript.text.done", "text": whole})
    except Exception as error:
        yield api.event(_refusal(error).body())


class _EventStream(StreamingResponse):
    """Closes what its events need when it ends, also when it ends because the program has gone."""

    def __init__(self, events: AsyncGenerator[str, None], open_things: AsyncExitStack) -> None:
        super().__init__(events, headers=_PRIVATE, media_type="text/event-stream")
        self._events = events
        self._open_things = open_things

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._open_things, aclosing(self._events):
            await super().__call__(scope, receive, send)


def _counted(request: Request, cap: int) -> Request:
    """The same request, refused as soon as its body is known to have more than `cap` bytes."""
    too_large = Refusal(413, "file_too_large", f"A request may have at most {cap} bytes: send a shorter sound.", "file")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > cap:
        raise too_large
    count = 0

    async def receive() -> Message:
        nonlocal count
        message = await request.receive()
        count += len(message.get("body", b""))
        if count > cap:
            raise too_large
        return message

    return Request(request.scope, receive)


def _local_only(request: Request) -> None:
    if not is_local(request.url.hostname, request.headers.get("origin", "")):
        raise Refusal(403, "not_local", "Only programs of this device may ask, not pages of other sites.")


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ESRTError):
        return api.refusal(error)
    if isinstance(error, HTTPException):  # a form that cannot be read
        return Refusal(error.status_code, "invalid_form", f"The form cannot be read: {error.detail}")
    if isinstance(error, OSError):
        reason = f"The sound cannot be kept while it is read ({error.strerror}): make room."
        return Refusal(500, "upload_not_saved", reason)
    log.error("%s", where(error))
    return Refusal(500, "internal_error", "The sidecar failed at this request: try again, or report it.")


def _respond(refusal: Refusal) -> Response:
    headers = dict(_PRIVATE)
    if refusal.status >= 500:
        headers["x-should-retry"] = "false"  # OpenAI's SDKs would; the frames have been tried long enough
    if refusal.status == 413:
        headers["Connection"] = "close"  # what is left of the body is not read
    return JSONResponse(refusal.body(), refusal.status, headers)


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    code = "method_not_allowed" if status == 405 else "unknown_url"
    return _respond(Refusal(status, code, f"Invalid URL ({request.method} {request.url.path})"))
