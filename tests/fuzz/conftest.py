"""How long is fuzzed: a little in the suite, always the same; for hours, and never the same, by `make fuzz`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from transformers import Gemma3ForCausalLM

from esrt.cloud.limits import Limits
from esrt.cloud.service import Service
from esrt.wire.codecs import Rows, Tables
from esrt.wire.rvq import WORDS, Codebooks
from tests.cloud import conftest as cloud
from tests.cloud.conftest import QUERIES, WIDTH

one_thread, frame_of, serve, make_service = cloud._one_thread, cloud.frame_of, cloud.serve, cloud.make_service
llm, talking, tokenizer = cloud.llm, cloud.talking, cloud.tokenizer

KEY = "a-key-that-the-server-knows"


@dataclass(frozen=True)
class Budget:
    """`factor` times what the suite does. `seed` is the suite's own, or another one each time."""

    factor: int
    seed: int


@pytest.fixture(scope="session")
def budget() -> Budget:
    """ESRT_FUZZ=20 does twenty times as much, from a seed that it prints."""
    factor = int(os.environ.get("ESRT_FUZZ", "1"))
    return Budget(factor, 0 if factor == 1 else int.from_bytes(os.urandom(4), "big"))


@pytest.fixture(scope="session")
def tables() -> Tables:
    """Tables for every codec, of random numbers."""
    rng = np.random.default_rng(2)

    def random(*shape: int) -> Rows:
        return rng.standard_normal(shape).astype(np.float32)

    books = Codebooks(
        random(QUERIES, WIDTH), random(WIDTH, 9), random(9, WIDTH), random(32, 9, 3), random(32, WORDS, 3)
    )
    return Tables(cloud.TABLES.int8_scale, np.full(WIDTH, 0.3, np.float32), random(WIDTH), books)


@pytest.fixture(scope="package")
def server(
    serve: Callable[..., AbstractContextManager[Any]],
    make_service: Callable[..., Service],
    talking: Gemma3ForCausalLM,
    tables: Tables,
) -> Iterator[Any]:
    """A server that takes every codec and refuses nobody for asking often."""
    service = make_service(talking, max_new_tokens=8)
    service._tables = tables
    keys = {"fuzz": hashlib.sha256(KEY.encode()).hexdigest()}
    with serve(service, keys, limits=Limits(rate=10**9)) as running:
        yield running
