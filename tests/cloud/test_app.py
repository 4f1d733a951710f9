"""Every route and every error over real sockets: uvicorn on loopback, httpx in front of it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from transformers import Gemma3ForCausalLM

from esrt.cloud.feature_cache.memory import MemoryCache
from esrt.cloud.service import Service
from esrt.wire.codecs import CODECS
from esrt.wire.schemas import TranslationResponse, models_from_json
from tests.cloud.asking import STREAM, Serve, client, problem

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
    beyond = ann.get("/v1/edge/edge.onnx", headers={"Range": "bytes=999999999-"})
    assert beyond.status_code == 416
    for status in (206, 416):
        assert f'esrt_requests_total{{route="/v1/edge/{{file}}",status="{status}"}} 1.0' in ann.get("/metrics").text


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
    problem(ann.post("/v1/translations/"), 404, "not_found")
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


# Trouble


def test_without_keys_no_page_of_another_site_may_ask(
    serve: Serve, make_service: Callable[..., Service], talking: Gemma3ForCausalLM
) -> None:
    """Neither under a name of its own that leads here, nor from its own origin."""
    with serve(make_service(talking)) as server, client(server, None) as http:
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
            for path in ("/v1/models", "/metrics"):
                problem(http.get(path, headers=headers), 403, "not_local")
            assert http.get("/healthz", headers=headers).status_code == 200
        port = server.url.rpartition(":")[2]
        for headers in ({}, {"Host": f"localhost:{port}"}, {"Host": "[::1]"}, {"Origin": f"http://127.0.0.1:{port}"}):
            assert http.get("/v1/models", headers=headers).status_code == 200


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

    with monkeypatch.context() as patch:
        patch.setattr(server.service.engine, "_advance", broken)
        problem(ann.post("/v1/translations?to=deu", content=frame_of(4)), 500, "engine_failed")
        problem(ann.post("/v1/translations?to=deu", content=frame_of(4), headers=STREAM), 500, "engine_failed")
    with monkeypatch.context() as patch:
        patch.setattr(server.service, "_projector", broken)
        found = problem(ann.post("/v1/translations?to=deu", content=frame_of(4)), 500, "internal_error")
        problem(ann.post("/v1/translations?to=deu", content=frame_of(4), headers=STREAM), 500, "internal_error")
    assert words not in caplog.text + found.detail and "RuntimeError" in caplog.text
    assert ann.post("/v1/translations?to=deu", content=frame_of(4)).status_code == 200


def test_logs_hold_nothing_of_what_was_said(ann: httpx.Client, frame_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = ann.post("/v1/translations?to=deu", content=frame_of(5)).json()
        ann.post("/v1/translations?to=deu", content=frame_of(5)[:-1])
    written = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith(("esrt", "uvicorn")))
    for secret in (answer["transcript"], answer["translations"]["deu"], answer["features"], "ann" * 4):
        assert len(secret) > 3 and secret not in written
