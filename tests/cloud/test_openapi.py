"""The OpenAPI document is the routes that there are; each but health needs a key; every answer has the headers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route
from transformers import Gemma3ForCausalLM

import esrt
from esrt.cloud.openapi import document
from esrt.cloud.service import Service

METHODS = {"get", "put", "post", "delete"}
OPERATIONS = [
    (method, path, operation)
    for path, item in document()["paths"].items()
    for method, operation in item.items()
    if method in METHODS
]
HEALTH = {"/healthz", "/readyz"}


@pytest.fixture(scope="module")
def server(
    serve: Callable[..., AbstractContextManager[Any]], make_service: Callable[..., Service], talking: Gemma3ForCausalLM
) -> Iterator[Any]:
    with serve(make_service(talking), {"ann": hashlib.sha256(b"ann's").hexdigest()}) as running:
        yield running


@pytest.fixture
def http(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
        yield http


def test_every_route_is_in_the_document(server: Any) -> None:
    routes = {
        (method.lower(), route.path)
        for route in server.app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert len(routes) == len(server.app.routes) and routes == {(method, path) for method, path, _ in OPERATIONS}


def test_people_can_read_of_every_route_and_code() -> None:
    root = Path(esrt.__file__).parent.parent
    page = (root / "docs" / "http-api.md").read_text(encoding="utf-8")
    for method, path, _ in OPERATIONS:
        assert f"`{method.upper()} {path}" in page
    for file in (root / "esrt" / "cloud").rglob("*.py"):
        for code in re.findall(r'(?:CloudError|FrameError|Busy)\(\s*"(\w+)"', file.read_text(encoding="utf-8")):
            assert f"`{code}`" in page, f"{code} of {file.name}"


def test_the_document_is_served(http: httpx.Client) -> None:
    answer = http.get("/openapi.json", headers={"Authorization": "Bearer ann's"})
    assert answer.json() == document() and answer.json()["openapi"] == "3.1.0"


def test_only_health_needs_no_key() -> None:
    assert document()["security"] == [{"key": []}]
    assert {path for _, path, operation in OPERATIONS if operation.get("security") == []} == HEALTH


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=lambda value: str(value)[:30])
def test_each_route_without_a_key(http: httpx.Client, method: str, path: str, operation: dict[str, Any]) -> None:
    url = path.replace("{features}", "0" * 32).replace("{file}", "edge.onnx")
    for headers in ({}, {"Authorization": "Bearer eve's"}, {"Authorization": "Basic YW5uJ3M="}):
        answer = http.request(method, url, headers=headers)
        if path in HEALTH:
            assert answer.status_code == 200
            continue
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
        if method == "get":
            assert http.head(url, headers=headers).status_code == 401
    known = http.request(method, url, headers={"Authorization": "Bearer ann's"})
    assert known.status_code != 401
    assert str(known.status_code) in operation["responses"] or known.json()["code"]


def test_references_lead_somewhere() -> None:
    def references(node: Any) -> Iterator[str]:
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            if name == "$ref":
                yield value
            elif isinstance(value, (dict, list)):
                yield from references(value)

    for reference in references(document()):
        node: Any = document()
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/healthz"),
        ("GET", "/v1/models"),
        ("GET", "/v1/edge/edge.onnx"),
        ("GET", "/nowhere"),
        ("PUT", "/metrics"),
    ],
)
@pytest.mark.parametrize("key", ["ann's", "eve's"])
def test_headers_of_every_answer(http: httpx.Client, method: str, path: str, key: str) -> None:
    origin = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    answer = http.request(method, path, headers={"Authorization": f"Bearer {key}", **origin})
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "server" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control-")]
