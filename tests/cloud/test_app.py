"""Every route and every error over real sockets: uvicorn on loopback, httpx in front of it."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import numpy as np
import pytest
from transformers import Gemma3ForCausalLM

from esrt.cloud import body
from esrt.cloud.engines.base import Rows, Sampling
from esrt.cloud.feature_cache.memory import MemoryCache
from esrt.cloud.service import Service
from esrt.wire.codecs import CODECS, Tables, encode
from esrt.wire.frame import Frame
from esrt.wire.schemas import Problem, TranslationResponse, models_from_json

Serve = Callable[..., AbstractContextManager[Any]]
KEYS = {name: hashlib.sha256(name.encode() * 4).hexdigest() for name in ("ann", "bob")}


def client(server: Any, who: str | None = "ann", **settings: Any) -> httpx.Client:
    headers = {} if who is None else {"Authorization": f"Bearer {who * 4}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=30, trust_env=False, **settings)


@pytest.fixture(scope="module")
def server(serve: Serve, make_service: Callable[..., Service], talking: Gemma3ForCausalLM) -> Iterator[Any]:
    with serve(make_service(talking), KEYS) as running:
        yield running


@pytest.fixture
def ann(server: Any) -> Iterator[httpx.Client]:
    with client(server) as http:
        yield http


def problem(response: httpx.Response, status: int, code: str) -> Problem:
    assert response.headers["content-type"] == "application/problem+json"
    found = Problem.from_json(response.content)
    assert (response.status_code, found.status, found.code) == (status, status, code), found
    assert found.type == "about:blank" and found.title and found.detail.endswith(".")
    return found


# Routes


def test_a_frame_is_answered_in_one_round_trip(ann: httpx.Client, frame_of: Any) -> None:
    frame = frame_of(4)
    response = ann.post("/v1/translations?to=deu&to=fr&to=fra", content=frame)
    assert response.status_code == 200 and response.headers["cache-control"] == "no-store"
    answer = TranslationResponse.from_json(response.content)
    assert answer.source == "mkd" and answer.transcript
    assert list(answer.translations) == ["deu", "fra"]
    assert answer.features == hashlib.blake2b(frame[:-16], digest_size=16).hexdigest()
    assert answer.usage.bytes == len(frame) and answer.usage.tokens > 5 and answer.usage.seconds > 0

    asked = {"features": answer.features, "to": ["deu", "fra"]}
    by_id = TranslationResponse.from_json(ann.post("/v1/translations", json=asked).content)
    assert (by_id.source, by_id.transcript, by_id.translations) == (
        answer.source,
        answer.transcript,
        answer.translations,
    )


def test_both_codecs_are_read(ann: httpx.Client, frame_of: Any) -> None:
    answers = [ann.post("/v1/translations?to=deu", content=frame_of(4, codec)).json() for codec in ("bf16", "int8")]
    assert answers[0]["usage"]["bytes"] == 20 * 24 * 2 + 40 and answers[1]["usage"]["bytes"] == 20 * 24 + 40


def test_transcribe_and_a_named_source(ann: httpx.Client, frame_of: Any) -> None:
    free = ann.post("/v1/translations?task=transcribe", content=frame_of(5)).json()
    assert free["source"] == "cym" and free["translations"] == {}
    named = ann.post("/v1/translations?task=transcribe&from=en", content=frame_of(5)).json()
    assert named["source"] == "eng" and named["transcript"] != free["transcript"]


def test_beam_search(ann: httpx.Client, frame_of: Any) -> None:
    response = ann.post("/v1/translations?task=transcribe&beam=3", content=frame_of(5))
    assert response.status_code == 200 and TranslationResponse.from_json(response.content).transcript


def test_store_then_translate(ann: httpx.Client, frame_of: Any) -> None:
    frame = frame_of(100)
    name = frame[-16:].hex()
    first, again = (ann.put(f"/v1/features/{name}", content=frame) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() == {"features": name}
    assert ann.post("/v1/translations", json={"features": name, "to": ["ita"]}).json()["features"] == name
    problem(ann.put(f"/v1/features/{'0' * 32}", content=frame), 400, "features_id_mismatch")


def test_models_and_the_edge_files(ann: httpx.Client, server: Any) -> None:
    (card,) = models_from_json(ann.get("/v1/models").content)
    assert (card.name, card.queries, card.width, card.codecs) == ("ESRT-tiny", 20, 24, list(CODECS))
    assert [file.file for file in card.edge] == ["MANIFEST.json", "config.json", "edge.onnx"], "what a device needs"
    for file in card.edge:
        found = ann.get(f"/v1/edge/{file.file}")
        assert (hashlib.sha256(found.content).hexdigest(), len(found.content)) == (file.sha256, file.bytes)
        assert found.headers["etag"] == f'"{file.sha256}"'
        known = ann.get(f"/v1/edge/{file.file}", headers={"If-None-Match": found.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
    listed = ann.get("/v1/edge/MANIFEST.json").json()["files"]
    assert listed == {file.file: {"bytes": file.bytes, "sha256": file.sha256} for file in card.edge[1:]}
    problem(ann.get("/v1/edge/llm.safetensors"), 404, "edge_not_found")
    problem(ann.get("/v1/edge/other.onnx"), 404, "edge_not_found")
    problem(ann.get("/v1/edge/..%2f..%2fetc%2fpasswd"), 404, "not_found")
    problem(ann.get("/v1/edge/%2e%2e"), 404, "edge_not_found")


def test_a_download_of_an_edge_file_can_go_on(ann: httpx.Client, server: Any) -> None:
    etag = ann.get("/v1/edge/edge.onnx").headers["etag"]
    rest = ann.get("/v1/edge/edge.onnx", headers={"Range": "bytes=1000-", "If-Range": etag})
    assert (rest.status_code, rest.content) == (206, server.edge[1000:])
    other = ann.get("/v1/edge/edge.onnx", headers={"Range": "bytes=1000-", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, server.edge)


def test_health_needs_no_key(server: Any) -> None:
    with client(server, who=None) as http:
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/readyz").json() == {"status": "ready"}


def test_metrics(ann: httpx.Client, frame_of: Any) -> None:
    ann.post("/v1/translations?to=deu", content=frame_of(4))
    response = ann.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    lines = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    assert float(lines['esrt_requests_total{route="/v1/translations",status="200"}']) >= 1
    assert float(lines['esrt_request_seconds_count{route="/v1/translations"}']) >= 1
    assert float(lines['esrt_frame_bytes_total{tenant="ann"}']) >= 520
    assert float(lines['esrt_tokens_total{tenant="ann"}']) > 0
    assert float(lines["esrt_cache_bytes"]) >= 480
    assert "esrt_engine_load" in lines


def test_no_such_path_or_method(ann: httpx.Client) -> None:
    problem(ann.get("/v1/nothing"), 404, "not_found")
    problem(ann.get("/"), 404, "not_found")
    problem(ann.get("/v1/translations"), 405, "method_not_allowed")
    problem(ann.get("/v1/features/" + "0" * 32), 405, "method_not_allowed")


# Keys and tenants


def test_tenants_do_not_see_each_other(server: Any, ann: httpx.Client, frame_of: Any) -> None:
    frame = frame_of(101)
    asked = {"features": frame[-16:].hex(), "to": ["deu"]}
    assert ann.put(f"/v1/features/{asked['features']}", content=frame).status_code == 201
    with client(server, "bob") as bob:
        problem(bob.post("/v1/translations", json=asked), 404, "features_not_found")
        assert bob.put(f"/v1/features/{asked['features']}", content=frame).status_code == 201
        assert bob.post("/v1/translations", json=asked).status_code == 200
    assert ann.post("/v1/translations", json=asked).status_code == 200


def test_without_keys_everyone_is_one_tenant(
    serve: Serve, make_service: Callable[..., Service], talking: Gemma3ForCausalLM, frame_of: Any
) -> None:
    with serve(make_service(talking), None, MemoryCache(520, 60)) as server, client(server, None) as http:
        assert http.get("/metrics").status_code == 200
        first = http.post("/v1/translations?to=deu", content=frame_of(4)).json()["features"]
        asked = {"features": first, "to": ["deu"]}
        assert http.post("/v1/translations", json=asked).status_code == 200
        http.post("/v1/translations?to=deu", content=frame_of(5))  # takes the only place
        problem(http.post("/v1/translations", json=asked), 404, "features_not_found")


# What is refused


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "bad_request"),
        ("to=xxx", "unknown_language"),
        ("to=deu&from=klingon", "unknown_language"),
        ("to=deu&task=sing", "bad_request"),
        ("to=deu&beam=0", "bad_request"),
        ("to=deu&beam=99", "bad_request"),
        ("to=deu&colour=red", "bad_request"),
        ("to=deu&task=transcribe", "bad_request"),
    ],
)
def test_bad_queries(ann: httpx.Client, frame_of: Any, query: str, code: str) -> None:
    problem(ann.post(f"/v1/translations?{query}", content=frame_of(4)), 400, code)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"to": ["deu"]}', b'{"features": "x", "to": ["deu"]}', b"\xff", b"[" * 10_000]
)
def test_bad_json(ann: httpx.Client, content: bytes) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    problem(ann.post("/v1/translations", content=content, headers=headers), 400, "bad_request")


def signed(content: bytes) -> bytes:
    return content + hashlib.blake2b(content, digest_size=16).digest()


def bad_frames() -> dict[str, tuple[int, bytes]]:
    tables = Tables(np.ones(24, np.float32))
    rows = np.ones((20, 24), np.float32)
    good = encode(rows, "int8", tables, bytes(range(8))).to_bytes()
    inner = good[:-16]
    narrow = encode(rows[:, :12], "int8", Tables(np.ones(12, np.float32)), bytes(range(8))).to_bytes()
    infinite = Frame(1, 20, 24, bytes(range(8)), b"\x80\x7f" * 480).to_bytes()
    return {
        "frame_truncated": (400, good[:-1]),
        "frame_bad_magic": (400, signed(b"TRSE" + inner[4:])),
        "frame_bad_version": (400, signed(inner[:4] + b"\x02" + inner[5:])),
        "frame_unknown_codec": (400, signed(inner[:5] + b"\x63" + inner[6:])),
        "frame_wrong_shape": (400, narrow),
        "frame_wrong_model": (409, encode(rows, "int8", tables, b"\0" * 8).to_bytes()),
        "frame_bad_digest": (400, good[:-1] + bytes([good[-1] ^ 1])),
        "frame_not_finite": (400, infinite),
        "frame_out_of_bounds": (400, signed(inner[:-1] + b"\x80")),
        "frame_too_large": (413, good + bytes(1000)),
    }


@pytest.mark.parametrize("code", list(bad_frames()))
def test_bad_frames(ann: httpx.Client, code: str) -> None:
    status, content = bad_frames()[code]
    problem(ann.post("/v1/translations?to=deu", content=content), status, code)
    problem(ann.put(f"/v1/features/{content[-16:].hex()}", content=content), status, code)


def raw(server: Any, head: str, content: bytes = b"") -> bytes:
    """Send bytes as they are, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall((head + f"Host: x\r\nAuthorization: Bearer {'ann' * 4}\r\n\r\n").encode() + content)
        answer = b""
        while block := connection.recv(65536):
            answer += block
    return answer


def test_a_large_body_is_refused_before_it_is_sent(server: Any) -> None:
    """Only the head is sent: the answer cannot have waited for the body."""
    head = "POST /v1/translations?to=deu HTTP/1.1\r\nContent-Length: 9000000000\r\n"
    answer = raw(server, head)
    assert answer.startswith(b"HTTP/1.1 413") and b'"frame_too_large"' in answer
    answer = raw(server, head.replace("?to=deu", "") + "Content-Type: application/json\r\n")
    assert answer.startswith(b"HTTP/1.1 413") and b'"body_too_large"' in answer
    answer = raw(server, head.replace("POST /v1/translations?to=deu", "PUT /v1/features/x"))
    assert answer.startswith(b"HTTP/1.1 413") and b'"frame_too_large"' in answer


def test_a_body_of_unknown_length_is_counted(server: Any, ann: httpx.Client, frame_of: Any) -> None:
    frame = frame_of(4)
    whole = ann.post("/v1/translations?to=deu", content=iter([frame[:7], frame[7:]]))
    assert whole.status_code == 200
    head = "POST /v1/translations?to=deu HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
    answer = raw(server, head, b"3e8\r\n" + bytes(1000) + b"\r\n" + b"3e8\r\n" + bytes(1000))  # and never an end
    assert answer.startswith(b"HTTP/1.1 413") and b'"frame_too_large"' in answer


def test_a_body_that_does_not_come(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.2)
    answer = raw(server, "POST /v1/translations?to=deu HTTP/1.1\r\nContent-Length: 520\r\n", b"ESRT")
    assert answer.startswith(b"HTTP/1.1 408") and b'"body_too_slow"' in answer
    monkeypatch.setattr(body, "BODY_SECONDS", 30)
    monkeypatch.setattr(body, "SILENT_SECONDS", 0.2)
    answer = raw(server, "POST /v1/translations?to=deu HTTP/1.1\r\nContent-Length: 520\r\n", b"ESRT")
    assert answer.startswith(b"HTTP/1.1 408") and b'"body_too_slow"' in answer


# Streams


def events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in "".join(response.iter_text()).split("\n\n")[:-1]:
        name, data = block.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_a_stream_says_the_same_as_the_answer(ann: httpx.Client, frame_of: Any) -> None:
    whole = ann.post("/v1/translations?to=deu&to=fra", content=frame_of(5)).json()
    headers = {"Accept": "text/event-stream"}
    with ann.stream("POST", "/v1/translations?to=deu&to=fra", content=frame_of(5), headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = events(response)
    assert [name for name, _ in found].count("done") == 1
    name, done = found[-1]
    assert name == "done" and {**done, "usage": None} == {**whole, "usage": None}
    assert done["usage"]["tokens"] == whole["usage"]["tokens"]
    assert "".join(data["text"] for name, data in found if name == "transcript") == whole["transcript"]
    for code in ("deu", "fra"):
        pieces = [data["text"] for name, data in found if name == "translation" and data["language"] == code]
        assert "".join(pieces) == whole["translations"][code] and len(pieces) > 1


def test_errors_before_a_stream_have_their_own_status(ann: httpx.Client) -> None:
    headers = {"Accept": "text/event-stream"}
    problem(ann.post("/v1/translations?to=deu", content=b"what", headers=headers), 400, "frame_truncated")
    asked = {"features": "0" * 32, "to": ["deu"]}
    problem(ann.post("/v1/translations", json=asked, headers=headers), 404, "features_not_found")


# Leaving, overload, trouble


def empties(service: Service) -> bool:
    for _ in range(3000):
        if service.engine.load == 0:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.usefixtures("slow")
def test_leaving_ends_the_decoding(
    serve: Serve, make_service: Callable[..., Service], endless: Gemma3ForCausalLM, frame_of: Any
) -> None:
    service = make_service(endless, max_new_tokens=1_000_000)
    with serve(service, KEYS) as server:
        with (
            client(server) as http,
            http.stream(
                "POST", "/v1/translations?to=deu", content=frame_of(1), headers={"Accept": "text/event-stream"}
            ) as response,
        ):
            chunks = response.iter_text()  # a name for it: the connection is closed when the iterator goes
            assert next(chunks).startswith("event: transcript\n")
            assert service.engine.load == 1
        assert empties(service)
        with client(server) as http, pytest.raises(httpx.ReadTimeout):
            http.post("/v1/translations?to=deu", content=frame_of(1), timeout=0.5)
        assert empties(service)
        with client(server) as http:
            time.sleep(0.1)
            assert "esrt_abandoned_total 1.0" in http.get("/metrics").text


@pytest.mark.usefixtures("slow")
def test_leaving_during_the_translations_frees_them_all(
    serve: Serve, make_service: Callable[..., Service], endless: Gemma3ForCausalLM, frame_of: Any
) -> None:
    service = make_service(endless)
    generate = service.engine.generate

    def long_translations(rows: Rows, sampling: Sampling) -> AsyncGenerator[int, None]:
        return generate(rows, Sampling(30 if len(rows) == 20 else 1_000_000, sampling.stop_ids))

    service.engine.generate = long_translations  # type: ignore[method-assign]
    with serve(service, KEYS) as server:
        with (
            client(server) as http,
            http.stream(
                "POST",
                "/v1/translations?to=deu&to=fra&to=ita&to=spa",
                content=frame_of(1),
                headers={"Accept": "text/event-stream"},
            ) as response,
        ):
            chunks = response.iter_text()
            while "event: translation\n" not in next(chunks):
                pass
            assert service.engine.load == 4
        assert empties(service)


@pytest.mark.usefixtures("slow")
def test_overload_says_when_to_come_back(
    serve: Serve, make_service: Callable[..., Service], endless: Gemma3ForCausalLM, frame_of: Any
) -> None:
    service = make_service(endless, max_new_tokens=1_000_000, max_batch=1, max_queue=1)
    headers = {"Accept": "text/event-stream"}
    with serve(service, KEYS) as server, client(server) as one, client(server) as three:
        with (
            one.stream("POST", "/v1/translations?to=deu", content=frame_of(1), headers=headers) as running,
            socket.create_connection(("127.0.0.1", server.port)) as two,
        ):
            chunks = running.iter_text()
            next(chunks)
            head = f"POST /v1/translations?to=deu HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {'ann' * 4}\r\n"
            two.sendall(f"{head}Content-Length: {len(frame_of(2))}\r\n\r\n".encode() + frame_of(2))
            while service.engine.load < 2:
                time.sleep(0.01)
            for accept in (headers, {}):
                refused = three.post("/v1/translations?to=deu", content=frame_of(3), headers=accept)
                problem(refused, 429, "overloaded")
                assert refused.headers["retry-after"] == "1"
        assert empties(service)


@pytest.mark.usefixtures("slow")
def test_an_error_within_a_stream_is_its_last_event(
    serve: Serve, make_service: Callable[..., Service], endless: Gemma3ForCausalLM, frame_of: Any
) -> None:
    service = make_service(endless, max_new_tokens=1_000_000)
    headers = {"Accept": "text/event-stream"}
    with (
        serve(service, KEYS) as server,
        client(server) as http,
        http.stream("POST", "/v1/translations?to=deu", content=frame_of(1), headers=headers) as response,
    ):
        chunks = response.iter_text()
        text = next(chunks)
        service.engine._closing.set()  # type: ignore[attr-defined]
        text += "".join(chunks)
        name, data = text.strip().split("\n\n")[-1].split("\n")
        assert name == "event: error"
        assert Problem.from_json(data.removeprefix("data: ")).code == "not_ready"
        # A server that is about to end says so.
        problem(http.get("/readyz"), 503, "not_ready")
        problem(http.post("/v1/translations?to=deu", content=frame_of(1)), 503, "not_ready")
        assert http.get("/healthz").status_code == 200


def test_what_nobody_foresaw(
    server: Any,
    ann: httpx.Client,
    frame_of: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = "tercesdrow"[::-1]  # so that the line of code that a log may quote does not have them

    def broken(*_: Any) -> None:
        raise RuntimeError(words)

    headers = {"Accept": "text/event-stream"}
    with monkeypatch.context() as patch:
        patch.setattr(server.service.engine, "_advance", broken)
        problem(ann.post("/v1/translations?to=deu", content=frame_of(4)), 500, "engine_failed")
        problem(ann.post("/v1/translations?to=deu", content=frame_of(4), headers=headers), 500, "engine_failed")
    with monkeypatch.context() as patch:
        patch.setattr(server.service, "_projector", broken)
        found = problem(ann.post("/v1/translations?to=deu", content=frame_of(4)), 500, "internal_error")
        problem(ann.post("/v1/translations?to=deu", content=frame_of(4), headers=headers), 500, "internal_error")
    assert words not in caplog.text + found.detail and "RuntimeError" in caplog.text
    assert ann.post("/v1/translations?to=deu", content=frame_of(4)).status_code == 200


def test_logs_hold_nothing_of_what_was_said(ann: httpx.Client, frame_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = ann.post("/v1/translations?to=deu", content=frame_of(5)).json()
        ann.post("/v1/translations?to=deu", content=frame_of(5)[:-1])
    written = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith(("esrt", "uvicorn")))
    for secret in (answer["transcript"], answer["translations"]["deu"], answer["features"], "ann" * 4):
        assert len(secret) > 3 and secret not in written
