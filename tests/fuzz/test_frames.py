"""Frames that went wrong in every way: one with a known code is refused, one that reads is what was sent."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import esrt
from esrt.errors import FrameError
from esrt.wire.codecs import CODECS, Tables, decode, encode
from esrt.wire.schemas import Problem
from tests.cloud.conftest import FINGERPRINT, QUERIES, WIDTH
from tests.fuzz.conftest import KEY, Budget

FRAMES = 50_000
OVER_HTTP = 100  # one of so many is sent, too
KNOWN = {
    code
    for file in (Path(esrt.__file__).parent / "wire").glob("*.py")
    for code in re.findall(r'FrameError\(\s*"(\w+)"', file.read_text(encoding="utf-8"))
}
DIGEST = 16
# Offset and bytes of each field of the header: version, codec, queries, width, zero, fingerprint, payload's length.
FIELDS = ((4, 1), (5, 1), (6, 2), (8, 2), (10, 2), (12, 8), (20, 4))
HEADER = 24
# Upper halves of float32: infinities, not-a-numbers, the largest, the smallest, minus zero, values near the bounds.
HALVES = (0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F7F, 0xFF7F, 0x0001, 0x8000, 0x461C, 0xC61D, 0x447A, 0x44FA)

Mutation = Callable[[random.Random, bytearray, list[bytes]], None]


def flip(chance: random.Random, data: bytearray, _: list[bytes]) -> None:
    for _bit in range(chance.choice((1, 1, 1, 2, 8, 64))):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def cut(chance: random.Random, data: bytearray, _: list[bytes]) -> None:
    del data[chance.choice((0, 1, HEADER, HEADER + DIGEST, len(data) - 1, chance.randrange(len(data) + 1))) :]


def extend(chance: random.Random, data: bytearray, _: list[bytes]) -> None:
    data += chance.randbytes(chance.choice((1, 2, DIGEST, 480, 5000)))


def splice(chance: random.Random, data: bytearray, whole: list[bytes]) -> None:
    other = chance.choice(whole)
    place, length = chance.randrange(len(data) + 1), chance.randrange(len(other))
    data[place : place + length] = other[place : place + length] if chance.random() < 0.7 else other[:length]


def extreme_field(chance: random.Random, data: bytearray, _: list[bytes]) -> None:
    offset, size = chance.choice(FIELDS)
    most = (1 << 8 * size) - 1
    value = chance.choice((0, 1, 2, most, most >> 1, (most >> 1) + 1, chance.randrange(most + 1)))
    data[offset : offset + size] = value.to_bytes(size, "little")


def odd_numbers(chance: random.Random, data: bytearray, _: list[bytes]) -> None:
    pattern = chance.choice(HALVES).to_bytes(2, "little")
    for _value in range(chance.choice((1, 1, 4, len(data)))):
        place = HEADER + 2 * chance.randrange(max(1, (len(data) - HEADER - DIGEST) // 2))
        data[place : place + 2] = pattern


def noise(chance: random.Random, data: bytearray, _: list[bytes]) -> None:
    end = max(HEADER, len(data) - DIGEST)
    data[HEADER:end] = chance.randbytes(end - HEADER)


MUTATIONS: tuple[Mutation, ...] = (flip, cut, extend, splice, extreme_field, odd_numbers, noise)


def signed(data: bytes) -> bytes:
    """With the digest that belongs to it, so that the checks behind the digest's are reached."""
    body = data[:-DIGEST]
    return body + hashlib.blake2b(body, digest_size=DIGEST).digest()


def mutants(start: int, count: int, whole: list[bytes]) -> Iterator[bytes]:
    chance = random.Random(start)
    for _ in range(count):
        data = bytearray(chance.choice(whole))
        for mutate in chance.choices(MUTATIONS, k=chance.choice((0, 1, 1, 1, 2, 3))):
            mutate(chance, data, whole)
        yield signed(bytes(data)) if chance.random() < 0.6 else bytes(data)


@pytest.fixture(scope="module")
def whole(tables: Tables) -> list[bytes]:
    """Frames of every codec, as an encoder makes them."""
    rows = np.random.default_rng(0).standard_normal((4, QUERIES, WIDTH)).astype(np.float32)
    return [encode(one, codec, tables, FINGERPRINT).to_bytes() for codec in CODECS for one in rows]


def outcome(server: Any, data: bytes) -> str:
    """The code of what is refused, or `read`; anything else is raised."""
    try:
        frame = server.service.read(data)
    except FrameError as error:
        assert error.code in KNOWN and str(error).endswith(".") and "\n" not in str(error)
        return error.code
    assert frame.to_bytes() == data and frame.id == data[-DIGEST:].hex()
    assert np.isfinite(decode(frame, server.service._tables)).all()
    return "read"


def test_mutated_frames(server: Any, budget: Budget, whole: list[bytes]) -> None:
    """By far the most are read where the server reads them; a share comes over HTTP, as it would from anybody."""
    found: Counter[str] = Counter()
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) as http:
        for number, data in enumerate(mutants(budget.seed, FRAMES * budget.factor, whole)):
            code = outcome(server, data)
            found[code] += 1
            if number % OVER_HTTP == 0:
                if number % (2 * OVER_HTTP):
                    answer = http.put(f"/v1/features/{data[-DIGEST:].hex():0>32}", content=data)
                else:
                    answer = http.post("/v1/translations?to=deu", content=data)
                if code == "read":
                    assert answer.status_code in (200, 201), answer.text
                else:
                    problem = Problem.from_json(answer.content)
                    assert (problem.code, problem.status) == (code, answer.status_code) and problem.status < 500
        assert http.get("/readyz").status_code == 200
    print(f"seed {budget.seed}: {dict(found.most_common())}")
    assert set(found) >= KNOWN | {"read"}, "every check is reached"


@st.composite
def headers_of_anything(draw: st.DrawFn) -> bytes:
    """A header with any values in its fields, around a payload of any length, with the right digest or none."""
    data = bytearray(b"ESRT")
    for _, size in FIELDS:
        data += draw(st.one_of(st.sampled_from((0, 1, 20, 24, 480)), st.integers(0, 1 << 64))).to_bytes(16, "little")[
            :size
        ]
    data += draw(st.binary(max_size=1100))
    return signed(bytes(data) + bytes(DIGEST)) if draw(st.booleans()) else bytes(data)


def test_frames_of_anything(server: Any, budget: Budget) -> None:
    @seed(budget.seed)
    @settings(max_examples=300 * budget.factor, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(st.binary(max_size=1100), headers_of_anything()))
    def read(data: bytes) -> None:
        outcome(server, data)

    read()
