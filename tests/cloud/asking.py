"""A client with a key, and what a refusal looks like."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx

from esrt.cloud.engines.base import Rows, Sampling
from esrt.cloud.service import Service
from esrt.wire.schemas import Problem

Serve = Callable[..., AbstractContextManager[Any]]
KEYS = {name: hashlib.sha256(name.encode() * 4).hexdigest() for name in ("ann", "bob")}
STREAM = {"Accept": "text/event-stream"}


def client(server: Any, who: str | None = "ann", timeout: float = 30) -> httpx.Client:
    headers = {} if who is None else {"Authorization": f"Bearer {who * 4}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=timeout, trust_env=False)


def problem(response: httpx.Response, status: int, code: str) -> Problem:
    assert response.headers["content-type"] == "application/problem+json"
    found = Problem.from_json(response.content)
    assert (response.status_code, found.status, found.code) == (status, status, code), found
    assert found.type == "about:blank" and found.title and found.detail.endswith(".")
    return found


def soon(check: Callable[[], bool]) -> bool:
    """Whether it comes true: a server still counts, and its engine ends a step, when the client has its answer."""
    for _ in range(600):
        if check():
            return True
        time.sleep(0.05)
    return False


def long_translations(service: Service, after: int) -> None:
    """From now on a transcript, which follows 20 audio rows alone, has `after` tokens, and a translation no end."""
    generate = service.engine.generate

    def longer(rows: Rows, sampling: Sampling) -> AsyncGenerator[int, None]:
        if sampling.only:  # the language that no text here ends with
            return generate(rows, sampling)
        return generate(rows, Sampling(after if len(rows) == 20 else 1_000_000, sampling.stop_ids))

    service.engine.generate = longer  # type: ignore[method-assign]
