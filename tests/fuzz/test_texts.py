"""Texts from elsewhere: requests, answers and problems as JSON, queries, heads of answers, key files."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from esrt.cloud.key_file import KeyFile
from esrt.cloud.security import load_keys, tenant_of
from esrt.edge.exchange import models, translation
from esrt.edge.talk import Answer, Peer, Request
from esrt.errors import CloudError, ESRTError, UsageError
from esrt.wire.schemas import Problem, TranslationRequest, TranslationResponse, models_from_json
from tests.fuzz.conftest import KEY, Budget

EXAMPLES = 400

ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.0,
    2**63,
    10**400,
    float("inf"),
    float("nan"),
    "",
    "\ud800",
    "\n",
    "²",
    [],
    {},
    [[]],
    [None],
)
VALUES = st.one_of(
    st.sampled_from(ODD),
    st.recursive(
        st.one_of(st.integers(), st.floats(), st.text(max_size=20)),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
        max_leaves=8,
    ),
)
REQUEST = {"features": "0" * 32, "to": ["deu"], "from": "eng", "task": "translate", "beam": 1}
USAGE = {"bytes": 1, "tokens": 1, "seconds": 0.5}
RESPONSE = {"source": "eng", "transcript": "a", "translations": {"deu": "b"}, "features": "0" * 32, "usage": USAGE}
FILE = {"file": "edge.onnx", "sha256": "0" * 64, "bytes": 1}
CARD = {"name": "a", "fingerprint": "0" * 16, "queries": 1, "width": 1, "codecs": [], "context": "speech"}
MODELS = {"models": [{**CARD, "languages": ["eng"], "edge": [FILE], "retention": 60}]}
PROBLEM = {"type": "about:blank", "title": "a", "status": 400, "detail": "b", "code": "bad_request"}
STATUSES = st.sampled_from((200, 201, 204, 206, 301, 304, 400, 401, 404, 408, 409, 413, 429, 500, 502, 503, 504, 507))


@st.composite
def spoiled(draw: st.DrawFn, valid: Any) -> Any:
    """A valid value with something in it left out, added or replaced by anything, however deep."""
    if draw(st.integers(0, 3)) == 0:
        return draw(VALUES)
    if isinstance(valid, dict) and valid:
        changed = {**valid}
        name = draw(st.sampled_from(sorted(valid)))
        if draw(st.integers(0, 5)) == 0:
            changed[draw(st.text(max_size=8))] = changed.pop(name)
        else:
            changed[name] = draw(spoiled(valid[name]))
        return changed
    if isinstance(valid, list) and valid:
        return [*valid[1:], draw(spoiled(valid[0]))]
    if isinstance(valid, str):
        return draw(st.one_of(st.text(max_size=64), st.just(valid + "\n"), st.just(valid.upper())))
    return draw(st.sampled_from(ODD) if draw(st.integers(0, 3)) else VALUES)


def bodies(valid: Any) -> st.SearchStrategy[bytes]:
    """JSON that is nearly right, and bytes that are hardly JSON."""
    nearly = spoiled(valid).map(lambda value: json.dumps(value).encode())
    cut = st.builds(lambda body, end: body[:end], nearly, st.integers(0, 200))
    return st.one_of(nearly, nearly, cut, st.binary(max_size=64), st.just(b"[" * 50_000), st.just(b"9" * 5_000))


def examples(budget: Budget, what: st.SearchStrategy[Any], check: Callable[[Any], None], share: int = 1) -> None:
    count = max(1, EXAMPLES * budget.factor // share)

    @seed(budget.seed)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(what)
    def run(value: Any) -> None:
        check(value)

    run()


def refuses(error: type[ESRTError], read: Callable[[Any], Any], value: Any) -> None:
    """`read` takes the value or raises this error, in one sentence that any terminal and any log can show."""
    try:
        read(value)
    except error as refused:
        str(refused).encode()
        assert "\n" not in str(refused)


def test_requests(budget: Budget) -> None:
    examples(budget, bodies(REQUEST), lambda body: refuses(UsageError, TranslationRequest.from_json, body))


def test_queries(budget: Budget) -> None:
    names = st.one_of(st.sampled_from(("to", "from", "task", "beam")), st.text(max_size=8))
    texts = st.one_of(st.sampled_from(("deu", "DE", "1", "²", "٣", "translate", "transcribe")), st.text(max_size=8))
    query = st.lists(st.tuples(names, texts), max_size=6)
    examples(budget, query, lambda query: refuses(UsageError, TranslationRequest.from_query, query))


def test_answers_and_problems(budget: Budget) -> None:
    for valid, read in (
        (RESPONSE, TranslationResponse.from_json),
        (MODELS, models_from_json),
        (PROBLEM, Problem.from_json),
    ):
        examples(budget, bodies(valid), lambda body, read=read: refuses(CloudError, read, body))  # type: ignore[misc]


def test_bodies_over_http(server: Any, budget: Budget) -> None:
    """Whatever the body is, the answer is a problem of the 400s that says so."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) as http:

        def ask(body: bytes) -> None:
            answer = http.post("/v1/translations", content=body)
            problem = Problem.from_json(answer.content)
            assert answer.headers["content-type"] == "application/problem+json"
            assert 400 <= answer.status_code == problem.status < 500 and problem.detail.endswith((".", "?"))

        examples(budget, bodies(REQUEST), ask, share=2)


def test_what_a_client_hears(budget: Budget, frame_of: Callable[..., bytes]) -> None:
    """An answer of any status with any body and any Retry-After: the client returns, waits or raises CloudError."""
    retry = st.one_of(st.text(max_size=30), st.integers().map(str), st.just("Wed, 21 Oct 0001 07:28:00 -0000"))
    heard = st.builds(
        lambda status, after, body: Answer(status, {"retry-after": after}, body),
        STATUSES,
        st.one_of(retry, st.datetimes().map(lambda when: when.strftime("%a, %d %b %Y %H:%M:%S GMT"))),
        st.one_of(bodies(RESPONSE), bodies(MODELS), bodies(PROBLEM)),
    )
    frame = frame_of(1)

    def hold(answer: Answer) -> None:
        for talk in (
            translation(Peer("http://cloud", patience=0), frame, ["deu"], None, "translate", 1),
            models(Peer("http://cloud", patience=0)),
        ):
            assert isinstance(next(talk), Request)

            def step(heard: Answer, talk: Any = talk) -> None:
                with suppress(StopIteration):
                    talk.send(heard)

            refuses(CloudError, step, answer)

    examples(budget, heard, hold)


def test_key_files(budget: Budget, tmp_path: Path) -> None:
    """Whatever an editor left there: a clear error or keys, and a running server goes on with the keys of before."""
    path = tmp_path / "keys.txt"
    line = f"ann:{'0' * 64}\n".encode()
    path.write_bytes(line)
    now = 0.0
    running = KeyFile(path, lambda: now)
    content = st.one_of(
        st.binary(max_size=100),
        st.lists(st.sampled_from((line, b"#\n", b"\r", b"\xff", b"ann:", b"\0", line[:-2], line.upper()))).map(
            b"".join
        ),
    )

    def read(content: bytes) -> None:
        nonlocal now
        path.write_bytes(content)
        refuses(UsageError, load_keys, path)
        now += 10
        assert isinstance(running.keys(), dict)

    examples(budget, content, read)


def test_authorizations(budget: Budget) -> None:
    keys = {"ann": "0" * 64}
    header = st.one_of(st.text(), st.text(st.characters(max_codepoint=255)).map(lambda key: f"Bearer {key}"))
    examples(budget, header, lambda header: refuses(CloudError, lambda text: tenant_of(text, keys), header))
