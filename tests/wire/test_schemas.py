"""Bodies of requests are read strictly and name the field that is wrong; answers are read leniently."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esrt.errors import CloudError, UsageError
from esrt.languages import LANGUAGES
from esrt.wire.schemas import (
    EdgeFile,
    ModelCard,
    Problem,
    TranslationRequest,
    TranslationResponse,
    Usage,
    models_from_json,
    models_to_json,
)

ID = "0123456789abcdef" * 2
RESPONSE = TranslationResponse("eng", "Hello.", {"deu": "Hallo."}, ID, Usage(41_000, 12, 0.5))
CARD = ModelCard(
    name="ESRT-270M",
    fingerprint="00" * 8,
    queries=80,
    width=512,
    codecs=["bf16", "int8"],
    context="speech",
    languages=["eng", "deu"],
    edge=[EdgeFile("config.json", "cd" * 32, 45), EdgeFile("edge.onnx", "ab" * 32, 123)],
)

codes = st.sampled_from(list(LANGUAGES))
requests = st.one_of(
    st.builds(
        TranslationRequest,
        st.just(ID),
        st.lists(codes, min_size=1, max_size=5, unique=True),
        st.none() | codes,
        st.just("translate"),
        st.integers(1, 8),
    ),
    st.builds(
        TranslationRequest, st.just(ID), st.just([]), st.none() | codes, st.just("transcribe"), st.integers(1, 8)
    ),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@given(requests)
def test_requests_round_trip(request: TranslationRequest) -> None:
    body = request.to_json()
    assert TranslationRequest.from_json(body) == request
    assert TranslationRequest.from_json(json.dumps(body)) == request
    assert TranslationRequest.from_json(json.dumps(body).encode()) == request
    query = TranslationRequest.from_query(request.to_query())
    assert query.to_json() == {**body, "features": ""}


def test_a_small_request_has_defaults() -> None:
    request = TranslationRequest.from_json({"features": ID, "to": ["de", "pt-BR", "deu"]})
    assert request == TranslationRequest(ID, ["deu", "por"], None, "translate", 1)
    assert TranslationRequest.from_query([("to", "de"), ("to", "fra"), ("from", "en")]) == TranslationRequest(
        "", ["deu", "fra"], "eng"
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"features": "xyz"}, "`features`"),
        ({"features": ID.upper()}, "`features`"),
        ({"features": ID + "\n"}, "`features`"),
        ({"features": 7}, "`features`"),
        ({"to": "deu"}, "`to`"),
        ({"to": []}, "`to`"),
        ({"to": [1]}, "`to`"),
        ({"to": ["deu"], "task": "transcribe"}, "`to`"),
        ({"from": 1}, "`from`"),
        ({"task": "sing"}, "`task`"),
        ({"task": ["translate"]}, "`task`"),
        ({"beam": 0}, "`beam`"),
        ({"beam": 9}, "`beam`"),
        ({"beam": "1"}, "`beam`"),
        ({"beam": True}, "`beam`"),
        ({"beam": 1.0}, "`beam`"),
        ({"voice": "x"}, "'voice'"),
        ({"\ud800": "x"}, "is not a field"),
    ],
)
def test_a_bad_request_names_the_field(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        TranslationRequest.from_json({"features": ID, "to": ["deu"], **change})
    assert caught.value.code == "bad_request"
    assert named in str(caught.value)
    str(caught.value).encode("utf-8")


@pytest.mark.parametrize("language", ["xx", "", "\ud800"])
def test_an_unknown_language_is_said(language: str) -> None:
    for change in ({"to": [language]}, {"from": language}):
        with pytest.raises(UsageError) as caught:
            TranslationRequest.from_json({"features": ID, "to": ["deu"], **change})
        assert caught.value.code == "unknown_language"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ([("to", "deu"), ("beam", "x")], "`beam`"),
        ([("to", "deu"), ("beam", "1" * 5000)], "`beam`"),
        ([("to", "deu"), ("beam", "²")], "`beam`"),
        ([("to", "deu"), ("from", "eng"), ("from", "fra")], "'from'"),
        ([("to", "deu"), ("features", ID)], "'features'"),
        ([], "`to`"),
    ],
)
def test_a_bad_query_names_the_field(query: list[tuple[str, str]], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        TranslationRequest.from_query(query)
    assert caught.value.code == "bad_request"
    assert named in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[1]", b"null", b"{", b"[" * 100_000, b"9" * 10_000])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(UsageError) as usage:
        TranslationRequest.from_json(body)
    assert usage.value.code == "bad_request"
    with pytest.raises(CloudError) as cloud:
        TranslationResponse.from_json(body)
    assert cloud.value.code == "bad_response"


@many
@given(st.dictionaries(st.sampled_from(["features", "to", "from", "task", "beam", "x"]), json_values))
def test_any_request_is_read_or_refused(body: dict[str, Any]) -> None:
    try:
        request = TranslationRequest.from_json({"features": ID, "to": ["deu"], **body})
    except UsageError as error:
        assert error.code in {"bad_request", "unknown_language"}
    else:
        assert TranslationRequest.from_json(request.to_json()) == request


def test_a_response_round_trips_and_ignores_what_it_does_not_know() -> None:
    body = RESPONSE.to_json()
    assert TranslationResponse.from_json(json.dumps(body)) == RESPONSE
    assert TranslationResponse.from_json({**body, "new": 1, "usage": {**body["usage"], "new": 1}}) == RESPONSE
    assert TranslationResponse.from_json({**body, "source": None}).source is None
    assert TranslationResponse.from_json({**body, "usage": {**body["usage"], "seconds": 2}}).usage.seconds == 2.0
    with pytest.raises(CloudError, match="`seconds`"):  # too large for a float
        TranslationResponse.from_json({**body, "usage": {**body["usage"], "seconds": 10**400}})


@pytest.mark.parametrize("field", ["transcript", "translations", "features", "usage"])
def test_a_response_without_a_field_names_it(field: str) -> None:
    body = RESPONSE.to_json()
    del body[field]
    with pytest.raises(CloudError, match=f"`{field}`") as caught:
        TranslationResponse.from_json(body)
    assert caught.value.code == "bad_response"


@many
@given(st.dictionaries(st.sampled_from(["source", "transcript", "translations", "features", "usage"]), json_values))
def test_any_response_is_read_or_refused(body: dict[str, Any]) -> None:
    for read in (TranslationResponse.from_json, Problem.from_json, ModelCard.from_json):
        try:
            read({**RESPONSE.to_json(), **body})
        except CloudError as error:
            assert error.code == "bad_response"


def test_problems() -> None:
    problem = Problem("about:blank", "Not Found", 404, "No such features.", "features_not_found")
    assert Problem.from_json(json.dumps(problem.to_json())) == problem
    small = Problem.from_json({"status": 404, "detail": "No.", "code": "not_found", "instance": "/x"})
    assert small == Problem("about:blank", "", 404, "No.", "not_found")
    with pytest.raises(CloudError, match="`code`"):
        Problem.from_json({"status": 404, "detail": "No."})


def test_models() -> None:
    body = json.dumps(models_to_json([CARD]))
    assert models_from_json(body) == [CARD]
    kept = models_from_json(json.dumps(models_to_json([replace(CARD, retention=3600), replace(CARD, retention=0.5)])))
    assert [card.retention for card in kept] == [3600.0, 0.5]
    assert models_from_json({"models": []}) == []
    with pytest.raises(CloudError, match="`models`"):
        models_from_json({})
    with pytest.raises(CloudError, match="not a JSON object"):
        models_from_json({"models": [1]})


@pytest.mark.parametrize(
    ("file", "sha256", "code"),
    [
        *((name, "ab" * 32, "edge_file_unknown") for name in ("../edge.onnx", "/etc/passwd", "new.onnx", "", "..")),
        *(("edge.onnx", digest, "bad_response") for digest in ("", "../../x", "ab" * 31, "AB" * 32, "ab" * 32 + "\n")),
    ],
)
def test_a_card_cannot_choose_where_a_device_writes(file: str, sha256: str, code: str) -> None:
    with pytest.raises(CloudError) as caught:
        ModelCard.from_json({**CARD.to_json(), "edge": [{"file": file, "sha256": sha256, "bytes": 1}]})
    assert caught.value.code == code


def test_a_card_of_an_older_cloud() -> None:
    with pytest.raises(CloudError, match="upgrade esrt there"):
        ModelCard.from_json({**CARD.to_json(), "edge": {"file": "edge.onnx", "sha256": "ab" * 32, "bytes": 1}})
