"""Kept prefixes are shared within a salt and never across: a stopwatch tells nobody what others have asked."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from transformers import Gemma3ForCausalLM

from esrt.cloud.engines import transformers
from esrt.cloud.engines.base import Sampling
from esrt.cloud.engines.keyvalues import forward
from esrt.cloud.engines.transformers import TransformersEngine

Fed = list[tuple[int, ...]]


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> Fed:
    """The shapes [batch, rows, width] of all that is computed from here on."""
    shapes: Fed = []

    def counted(llm: Any, rows: Any, kv: Any) -> Any:
        shapes.append(tuple(rows.shape))
        return forward(llm, rows, kv)

    monkeypatch.setattr(transformers, "forward", counted)
    return shapes


def test_a_prefix_is_for_its_own_salt(llm: Gemma3ForCausalLM, fed: Fed) -> None:
    rows = np.random.default_rng(1).standard_normal((50, 32)).astype(np.float32)

    async def first_step(engine: TransformersEngine, salt: str) -> int:
        """How many rows of the prompt were computed for an answer to it."""
        fed.clear()
        assert [token async for token in engine.generate(rows, Sampling(4, salt=salt))]
        return fed[0][1]

    async def work() -> list[int]:
        engine = TransformersEngine(llm, [1])
        while not engine.ready:
            await asyncio.sleep(0.01)
        computed = [await first_step(engine, salt) for salt in ("a", "a", "b", "", "b", "a")]
        await engine.close()
        return computed

    assert asyncio.run(asyncio.wait_for(work(), 60)) == [50, 1, 50, 50, 1, 1]


def test_a_tenant_is_a_salt(
    talking: Gemma3ForCausalLM,
    make_service: Callable[..., Any],
    serve: Callable[..., Any],
    frame_of: Callable[..., bytes],
    fed: Fed,
) -> None:
    """Over HTTP, whole and as a stream: the same frame from two keys is computed twice, from one key once."""
    keys = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("ann", "bob")}
    computed = []
    with serve(make_service(talking), keys) as server:
        for who, accept in [("ann", "*/*"), ("ann", "text/event-stream"), ("bob", "text/event-stream"), ("bob", "*/*")]:
            fed.clear()
            headers = {"Authorization": f"Bearer {who}", "Accept": accept}
            url = f"{server.url}/v1/translations?to=deu"
            assert httpx.post(url, content=frame_of(4), headers=headers, trust_env=False).status_code == 200
            computed.append(fed[0][1])
    assert computed == [20, 1, 20, 1]
