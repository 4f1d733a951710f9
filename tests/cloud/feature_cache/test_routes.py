"""The caches behind HTTP: deleting, retention, restarts, a cache that refuses, and a Redis that dies on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import Gemma3ForCausalLM

from esrt import AsyncClient, Client
from esrt.cloud.feature_cache import open_cache
from esrt.cloud.feature_cache import redis as redis_cache
from esrt.cloud.feature_cache.memory import MemoryCache
from esrt.cloud.service import Service
from esrt.errors import CloudError, UsageError
from esrt.wire.frame import read
from esrt.wire.schemas import Problem, models_from_json
from tests.cloud.asking import KEYS, Serve, client


def said(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, Problem.from_json(response.content).code


@pytest.fixture
def service(make_service: Callable[..., Service], talking: Gemma3ForCausalLM) -> Callable[[], Service]:
    """A new one for each server, which closes it."""
    return lambda: make_service(talking, 8)


@pytest.fixture
def stored(frame_of: Any) -> Iterator[tuple[bytes, str, dict[str, Any]]]:
    """A frame, its id, and a request about it."""
    frame = frame_of(4)
    features = frame[-16:].hex()
    yield frame, features, {"features": features, "to": ["deu"]}


def test_delete(serve: Serve, service: Callable[[], Service], stored: Any) -> None:
    frame, features, asked = stored
    with serve(service(), KEYS) as server, client(server) as ann, client(server, "bob") as bob:
        for http in (ann, bob):
            assert http.put(f"/v1/features/{features}", content=frame).status_code == 201
        deleted = [ann.delete(f"/v1/features/{name}") for name in (features, features, "0" * 32)]
        assert [(answer.status_code, answer.content) for answer in deleted] == [(204, b"")] * 3
        assert deleted[0].headers.keys() == deleted[1].headers.keys(), "there or not, the same answer"
        assert said(ann.post("/v1/translations", json=asked)) == (404, "features_not_found")
        assert bob.post("/v1/translations", json=asked).status_code == 200, "bob's are bob's"
        assert ann.put(f"/v1/features/{features}", content=frame).status_code == 201
        for name in ("x", "0" * 31, "A" * 32, "..%2f..%2fetc"):
            assert ann.delete(f"/v1/features/{name}").status_code in (400, 404)
        assert said(ann.delete("/v1/features/x")) == (400, "bad_request")


def test_retention_is_shown_and_kept(serve: Serve, service: Callable[[], Service], stored: Any) -> None:
    frame, features, asked = stored
    now = [0.0]
    cache = MemoryCache(1 << 20, 90, lambda: now[0])
    with serve(service(), KEYS, cache) as server, client(server) as ann:
        body = ann.get("/v1/models").json()
        assert body["models"][0]["retention"] == 90
        (card,) = models_from_json(body)
        assert card.retention == 90
        del body["models"][0]["retention"]
        assert models_from_json(body) == [replace(card, retention=None)], "of a cloud that does not say"
        ann.put(f"/v1/features/{features}", content=frame)
        now[0] = 89.9
        assert ann.post("/v1/translations", json=asked).status_code == 200
        now[0] = 90.0
        assert said(ann.post("/v1/translations", json=asked)) == (404, "features_not_found")
        assert "\nesrt_cache_bytes 0.0" in ann.get("/metrics").text


def test_a_server_that_nobody_asks_forgets_too(
    serve: Serve, service: Callable[[], Service], stored: Any, tmp_path: Path
) -> None:
    frame, features, _ = stored
    with serve(service(), KEYS, open_cache(str(tmp_path), 1 << 20, 1)) as server, client(server) as ann:
        ann.put(f"/v1/features/{features}", content=frame)
        assert len(list(tmp_path.rglob("*.frame"))) == 1
        deadline = time.monotonic() + 10
        while list(tmp_path.rglob("*.frame")):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_restart(serve: Serve, service: Callable[[], Service], stored: Any, tmp_path: Path) -> None:
    frame, features, asked = stored
    with serve(service(), KEYS, open_cache(str(tmp_path), 1 << 20, 60)) as server, client(server) as ann:
        ann.put(f"/v1/features/{features}", content=frame)
    with serve(service(), KEYS, open_cache(str(tmp_path), 1 << 20, 60)) as server, client(server) as ann:
        assert ann.post("/v1/translations", json=asked).status_code == 200
        assert ann.put(f"/v1/features/{features}", content=frame).status_code == 200
        with client(server, "bob") as bob:
            assert said(bob.post("/v1/translations", json=asked)) == (404, "features_not_found")


def test_features_of_a_model_of_before(serve: Serve, service: Callable[[], Service], stored: Any) -> None:
    cache = MemoryCache(1 << 20, 60)
    old = replace(read(stored[0], cap=1000), fingerprint=b"8 bytes!")
    asyncio.run(cache.put("ann", old))
    with serve(service(), KEYS, cache) as server, client(server) as ann:
        answer = ann.post("/v1/translations", json={"features": old.id, "to": ["deu"]})
        assert said(answer) == (404, "features_not_found"), "and the device that sends them learns what is wrong"
        assert said(ann.post("/v1/translations?to=deu", content=old.to_bytes())) == (409, "frame_wrong_model")


def test_a_cache_that_refuses_costs_no_answer(serve: Serve, service: Callable[[], Service], stored: Any) -> None:
    frame, features, asked = stored
    with serve(service(), KEYS, MemoryCache(100, 60)) as server, client(server) as ann:
        assert said(ann.put(f"/v1/features/{features}", content=frame)) == (507, "features_not_kept")
        assert ann.post("/v1/translations?to=deu", content=frame).status_code == 200
        assert said(ann.post("/v1/translations", json=asked)) == (404, "features_not_found")
        assert "\nesrt_cache_refused_total 2.0" in ann.get("/metrics").text
        with Client(server.url, "ann" * 4) as device:
            assert device.upload(frame) == features
            assert device.translate(frame, ["deu"]).features == features
            assert device.translate(frame, ["fra"]).features == features, "known, named, unknown, sent again"
            device.forget(features)


def test_forget(serve: Serve, service: Callable[[], Service], stored: Any) -> None:
    frame, features, asked = stored

    async def main(url: str) -> None:
        device = AsyncClient(url, "ann" * 4)
        await device.upload(frame)
        await device.forget(features)
        await device.forget(features)
        await device.close()

    with serve(service(), KEYS) as server, client(server) as ann, Client(server.url, "ann" * 4) as device:
        assert device.translate(frame, ["deu"]).features == features
        device.forget(features)
        assert said(ann.post("/v1/translations", json=asked)) == (404, "features_not_found")
        sent = device.bytes_sent
        assert device.translate(frame, ["deu"]).features == features
        assert device.bytes_sent - sent > len(frame), "sent along at once: the client knows that it is gone"
        asyncio.run(main(server.url))
        assert said(ann.post("/v1/translations", json=asked)) == (404, "features_not_found")
        with pytest.raises(UsageError, match="32 hex"):
            device.forget("../models")


def test_two_servers_and_a_redis_that_is_killed(
    serve: Serve, service: Callable[[], Service], stored: Any, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, features, asked = stored
    monkeypatch.setattr(redis_cache, "PAUSE_SECONDS", 0.3)

    def start() -> AbstractContextManager[Any]:
        return serve(service(), KEYS, open_cache(redis.url, 1 << 20, 60))

    with start() as one, start() as other, client(one) as first, client(other) as second:
        assert first.put(f"/v1/features/{features}", content=frame).status_code == 201
        assert second.post("/v1/translations", json=asked).status_code == 200, "sent to the one, known to the other"
        with Client(one.url, "ann" * 4) as device, Client(other.url, "ann" * 4, patience=0) as hasty:
            device.upload(frame)
            redis.kill()
            for _ in range(3):
                assert device.translate(frame, ["deu"]).features == features
            assert said(second.put(f"/v1/features/{features}", content=frame)) == (507, "features_not_kept")
            assert said(second.delete(f"/v1/features/{features}")) == (503, "not_deleted")
            with pytest.raises(CloudError) as caught:
                hasty.forget(features)
            assert caught.value.code == "not_deleted"
            redis.start()
            device.forget(features)  # asks until it is done
            time.sleep(0.4)
            assert device.upload(frame) == features
        assert second.post("/v1/translations", json=asked).status_code == 200
