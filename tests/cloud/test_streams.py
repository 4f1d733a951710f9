"""Answers in pieces over real sockets: what they say, and what happens when someone leaves or there is no room."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from transformers import Gemma3ForCausalLM

from esrt.cloud.service import Service
from esrt.wire.schemas import Problem
from tests.cloud.asking import KEYS, STREAM, Serve, client, long_translations, problem, soon


def events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in "".join(response.iter_text()).split("\n\n")[:-1]:
        name, data = block.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_a_stream_says_the_same_as_the_answer(ann: httpx.Client, frame_of: Any) -> None:
    whole = ann.post("/v1/translations?to=deu&to=fra", content=frame_of(5)).json()
    with ann.stream("POST", "/v1/translations?to=deu&to=fra", content=frame_of(5), headers=STREAM) as response:
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
    problem(ann.post("/v1/translations?to=deu", content=b"what", headers=STREAM), 400, "frame_truncated")
    asked = {"features": "0" * 32, "to": ["deu"]}
    problem(ann.post("/v1/translations", json=asked, headers=STREAM), 404, "features_not_found")


# Leaving, overload, trouble


def empties(service: Service) -> bool:
    return soon(lambda: service.engine.load == 0)


@pytest.mark.usefixtures("slow")
def test_leaving_ends_the_decoding(
    serve: Serve, make_service: Callable[..., Service], endless: Gemma3ForCausalLM, frame_of: Any
) -> None:
    service = make_service(endless, max_new_tokens=1_000_000)
    with serve(service, KEYS) as server:
        with (
            client(server) as http,
            http.stream("POST", "/v1/translations?to=deu", content=frame_of(1), headers=STREAM) as response,
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
    long_translations(service, after=30)
    with serve(service, KEYS) as server:
        with (
            client(server) as http,
            http.stream(
                "POST",
                "/v1/translations?to=deu&to=fra&to=ita&to=spa",
                content=frame_of(1),
                headers=STREAM,
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
    with serve(service, KEYS) as server, client(server) as one, client(server) as three:
        with (
            one.stream("POST", "/v1/translations?to=deu", content=frame_of(1), headers=STREAM) as running,
            socket.create_connection(("127.0.0.1", server.port)) as two,
        ):
            chunks = running.iter_text()
            next(chunks)
            head = f"POST /v1/translations?to=deu HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {'ann' * 4}\r\n"
            two.sendall(f"{head}Content-Length: {len(frame_of(2))}\r\n\r\n".encode() + frame_of(2))
            while service.engine.load < 2:
                time.sleep(0.01)
            for accept in (STREAM, {}):
                refused = three.post("/v1/translations?to=deu", content=frame_of(3), headers=accept)
                problem(refused, 429, "overloaded")
                assert refused.headers["retry-after"] == "1"
        assert empties(service)


@pytest.mark.usefixtures("slow")
def test_an_error_within_a_stream_is_its_last_event(
    serve: Serve, make_service: Callable[..., Service], endless: Gemma3ForCausalLM, frame_of: Any
) -> None:
    service = make_service(endless, max_new_tokens=1_000_000)
    with (
        serve(service, KEYS) as server,
        client(server) as http,
        http.stream("POST", "/v1/translations?to=deu", content=frame_of(1), headers=STREAM) as response,
    ):
        chunks = response.iter_text()
        text = next(chunks)
        service.engine._closing.set()  # type: ignore[attr-defined]
        text += "".join(chunks)
        name, data = text.strip().split("\n\n")[-1].split("\n")
        assert name == "event: error"
        assert Problem.from_json(data.removeprefix("data: ")).code == "not_ready"
        # It counts as what it was, although its head said 200.
        counted = 'esrt_requests_total{route="/v1/translations",status="503"} 1.0'
        assert soon(lambda: counted in http.get("/metrics").text)
        # A server that is about to end says so.
        problem(http.get("/readyz"), 503, "not_ready")
        problem(http.post("/v1/translations?to=deu", content=frame_of(1)), 503, "not_ready")
        assert http.get("/healthz").status_code == 200
