"""OpenTelemetry traces of requests, where the environment asks for them; nothing is imported where it does not.

A trace says how long each part of a request took and how many tokens it made. No text, language, key or id is in it,
and of an error no more than that there was one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

from esrt import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
Attributes: TypeAlias = dict[str, Any]

# The request that is being answered here. Its spans are made its children by hand: a generator that is closed in
# another task than it began in may not leave a span "current" behind.
_request: ContextVar[tuple[Tracer, Context] | None] = ContextVar("request", default=None)


def provider() -> TracerProvider | None:
    """What sends spans to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names, as the other OTEL_ variables say; None
    where neither is set, or where the packages are not installed. Call its `shutdown` at the end.
    """
    if not any(map(os.environ.get, ENDPOINTS)) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        log.warning("%s is set, but traces need `pip install 'esrt[otel]'`", ENDPOINTS[0])
        return None
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "esrt"}
    found = TracerProvider(resource=Resource.create(name | {"service.version": __version__}), shutdown_on_exit=False)
    found.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return found


@contextmanager
def request(provider: TracerProvider | None, method: str, route: str) -> Iterator[Attributes]:
    """The span of a whole request, of which each `span` until the end of the block is a part."""
    if provider is None:
        yield {}
        return
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, set_span_in_context

    tracer = provider.get_tracer("esrt", __version__)
    about: Attributes = {"http.request.method": method, "http.route": route}
    started = tracer.start_span(f"{method} {route}", Context(), SpanKind.SERVER)
    token = _request.set((tracer, set_span_in_context(started, Context())))
    try:
        yield about
    finally:
        _request.reset(token)
        started.set_attributes(about)
        started.end()


@contextmanager
def span(name: str) -> Iterator[Attributes]:
    """A part of the request that is being answered. What is put into the dictionary becomes the span's attributes."""
    about: Attributes = {}
    if (found := _request.get()) is None:
        yield about
        return
    from opentelemetry.trace import StatusCode

    tracer, parent = found
    part = tracer.start_span(name, parent)
    try:
        yield about
    except Exception:
        part.set_status(StatusCode.ERROR)  # and not what it says
        raise
    finally:
        part.set_attributes(about)
        part.end()
