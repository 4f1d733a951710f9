"""POST /v1/verifications over a real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer
from transformers import Gemma3ForCausalLM

from esrt.cloud.service import Service
from esrt.errors import CloudError, UsageError
from esrt.wire import frame as frames
from esrt.wire.verification import Verdict, VerificationRequest, tokenizer_fingerprint
from tests.cloud.conftest import Server, frame_bytes

Body = dict[str, Any]


@pytest.fixture(scope="module")
def server(
    serve: Callable[..., AbstractContextManager[Server]],
    make_service: Callable[..., Service],
    talking: Gemma3ForCausalLM,
) -> Iterator[Server]:
    with serve(make_service(talking)) as running:
        yield running


@pytest.fixture(scope="module")
def body(server: Server, tokenizer: Tokenizer) -> Body:
    data = frame_bytes(21)
    features = frames.read(data, cap=len(data)).id
    assert httpx.put(f"{server.url}/v1/features/{features}", content=data).status_code == 201
    fingerprint = tokenizer_fingerprint(tokenizer.get_vocab())
    return {"features": features, "tokenizer": fingerprint, "prefix": [], "block": [70], "rank": 1}


def ask(server: Server, body: Body) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/verifications", json=body)


def test_a_text_can_be_written_by_its_corrections_alone(server: Server, body: Body) -> None:
    """Blocks that are always wrong: each correction is the cloud's next token."""
    said = httpx.post(f"{server.url}/v1/translations", json={"features": body["features"], "task": "transcribe"}).json()
    ids: list[int] = []
    for _ in range(40):
        verdict = Verdict.from_json(ask(server, {**body, "prefix": ids, "block": [3]}).content)
        if verdict.accepted:
            ids.append(3)
            continue
        assert verdict.correction is not None
        ids.append(verdict.correction)
        if verdict.eos or str(server.service.tokenizer.id_to_token(verdict.correction)).startswith("<|"):
            break
    text = server.service.tokenizer.decode(ids, skip_special_tokens=True)
    assert said["transcript"] and text.strip().startswith(said["transcript"][:5])


def test_a_rank_that_takes_all_takes_all(server: Server, body: Body) -> None:
    block = [70, 71, 72, 73]
    answer = ask(server, {**body, "block": block, "rank": 1000})
    assert answer.json() == {"accepted": 4, "correction": None, "eos": False}
    assert ask(server, {**body, "block": [*block, 1], "rank": 1000}).json()["eos"] is True


def test_the_handshake(server: Server, body: Body) -> None:
    assert httpx.get(f"{server.url}/v1/models").json()["models"][0]["tokenizer"] == body["tokenizer"]
    refused = ask(server, {**body, "tokenizer": "0" * 16})
    assert (refused.status_code, refused.json()["code"]) == (409, "pair_mismatch")
    unknown = ask(server, {**body, "features": "0" * 32})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "features_not_found")


WRONG: list[Body] = [
    {"block": []}, {"block": [1] * 65}, {"block": "abc"}, {"block": [1.5]}, {"block": [True]}, {"block": [-1]},
    {"prefix": [0] * 1025}, {"prefix": None}, {"rank": 0}, {"rank": 1001}, {"rank": "1"}, {"tokenizer": "x"},
    {"tokenizer": 7}, {"features": "../etc"}, {"more": 1}, {"block": [10**6]}, {"prefix": [2**40]},
]  # fmt: skip


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_a_request_that_means_nothing_is_refused(server: Server, body: Body, change: Body) -> None:
    refused = ask(server, {**body, **change})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")


def test_bodies_are_what_they_were() -> None:
    request = VerificationRequest("0" * 32, "1" * 16, [1, 2], [3], 4)
    assert VerificationRequest.from_json(request.to_json()) == request
    assert Verdict.from_json('{"accepted": 1, "correction": 5, "eos": true, "more": 1}') == Verdict(1, 5, True)
    for wrong in ({}, {"accepted": True, "eos": True}, {"accepted": 1, "eos": 1}, {"accepted": -1, "eos": True}):
        with pytest.raises(CloudError):
            Verdict.from_json(wrong)
    with pytest.raises(UsageError):
        VerificationRequest.from_json("[]")


def test_fingerprints_tell_ids_apart() -> None:
    found = {tokenizer_fingerprint(v) for v in ({"a": 0, "b": 1}, {"a": 1, "b": 0}, {"a": 0}, {"a": 0, "b": 2})}
    assert len(found) == 4
    assert tokenizer_fingerprint({"a": 0, "b": 1}) == tokenizer_fingerprint({"b": 1, "a": 0})
