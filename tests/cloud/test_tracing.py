"""Traces, as a real collector gets them over OTLP/HTTP; and that there are none unless somebody asks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from transformers import Gemma3ForCausalLM

from esrt.cloud import tracing
from esrt.cloud.service import Service
from esrt.errors import CloudError

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="esrt[otel] is not installed")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The bodies that a collector on loopback has been sent; the environment names it."""
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield bodies
        server.shutdown()
        thread.join()


def spans(bodies: list[bytes]) -> list[Span]:
    requests = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    return [
        span
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def about(span: Span) -> dict[str, Any]:
    return {item.key: item.value.string_value or item.value.int_value for item in span.attributes}


def test_a_request_is_traced(
    collector: list[bytes],
    serve: Callable[..., AbstractContextManager[Any]],
    make_service: Callable[..., Service],
    talking: Gemma3ForCausalLM,
    frame_of: Any,
) -> None:
    frame = frame_of(4)
    with serve(make_service(talking)) as server, httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
        answer = http.post("/v1/translations?to=deu&to=fra", content=frame).json()
        streamed = http.post(
            "/v1/translations?to=ita", content=frame, headers={"Accept": "text/event-stream", "X-Secret": "key-of-ann"}
        )
        assert streamed.status_code == 200 and http.get("/healthz").status_code == 200
        assert http.post("/v1/translations?to=deu", content=frame[:-1]).status_code == 400
    # The server has ended, so all of it was sent.
    found = spans(collector)
    whole, stream, refused = (span for span in found if not span.parent_span_id)
    parts = {
        root.span_id: [span for span in found if span.parent_span_id == root.span_id]
        for root in (whole, stream, refused)
    }
    assert sorted(span.name for span in parts[whole.span_id]) == [
        "body", "projection", "transcript", "translation", "translation",
    ]  # fmt: skip
    assert sorted(span.name for span in parts[stream.span_id]) == ["body", "projection", "transcript", "translation"]
    assert [span.name for span in parts[refused.span_id]] == ["body"]
    for root in (whole, stream, refused):
        assert root.name == "POST /v1/translations" and root.kind == Span.SPAN_KIND_SERVER
        for part in parts[root.span_id]:
            assert part.trace_id == root.trace_id
            assert root.start_time_unix_nano <= part.start_time_unix_nano <= part.end_time_unix_nano
            assert part.end_time_unix_nano <= root.end_time_unix_nano
    assert about(whole) == {
        "http.request.method": "POST", "http.route": "/v1/translations", "http.response.status_code": 200,
    }  # fmt: skip
    assert about(refused)["http.response.status_code"] == 400
    assert sum(about(part).get("tokens", 0) for part in parts[whole.span_id]) == answer["usage"]["tokens"]
    assert {name for span in found for name in about(span)} == {*about(whole), "tokens"}, "nothing else is told"
    assert not any(span.events for span in found)
    sent = b"".join(collector)
    for secret in (answer["features"], "key-of-ann", *filter(None, answer["translations"].values())):
        assert secret.encode() not in sent


def test_an_error_is_marked_and_not_quoted(collector: list[bytes]) -> None:
    provider = tracing.provider()
    assert provider is not None
    with pytest.raises(CloudError), tracing.request(provider, "GET", "/x"), tracing.span("part"):
        raise CloudError("code", "what somebody said")
    with tracing.request(provider, "GET", "/y"), tracing.span("left"), pytest.raises(asyncio.CancelledError):
        raise asyncio.CancelledError
    provider.shutdown()
    by_name = {span.name: span for span in spans(collector)}
    assert by_name["part"].status.code == Status.STATUS_CODE_ERROR and not by_name["part"].status.message
    assert by_name["left"].status.code == Status.STATUS_CODE_UNSET
    assert b"somebody" not in b"".join(collector)


def test_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert tracing.provider() is None
    with tracing.request(None, "GET", "/x") as request, tracing.span("part") as part:
        request["a"] = part["b"] = 1
    monkeypatch.setenv(tracing.ENDPOINTS[0], "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing.provider() is None
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert tracing.provider() is None and "esrt[otel]" in caplog.text


def test_nothing_is_imported_without_it() -> None:
    script = "import sys, esrt.cloud.app as app; app.tracing.provider(); print(*sys.modules)"
    environment = {"PATH": "/usr/bin:/bin"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert "esrt.cloud.tracing" in run.stdout and "opentelemetry" not in run.stdout
