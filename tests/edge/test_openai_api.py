"""The shapes of OpenAI's audio API, without a socket: what a form may hold, and what the answers look like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from esrt.edge.openai_api import Ask, Refusal, answer, read, refusal
from esrt.edge.pipeline import SegmentResult
from esrt.errors import AudioError, CloudError, ESRTError, ModelError, UsageError

MODEL = "ESRT-tiny"
FOUND = [
    SegmentResult(0.5, 2.0, "spa", "Hola.", {"deu": "Hallo."}),
    SegmentResult(3.0, 3.5, None, "", {"deu": ""}),
    SegmentResult(4.0, 61.25, "spa", "Adi\u00f3s.", {"deu": "Tsch\u00fcss."}),
]


def test_what_a_program_sends() -> None:
    assert read("transcribe", [("model", MODEL)], MODEL) == Ask(None, None, "json", False)
    fields = [
        ("model", "whisper-1"),
        ("language", "es"),
        ("response_format", "srt"),
        ("prompt", "x"),
        ("stream", "False"),
    ]
    assert read("transcribe", [*fields, ("temperature", "0.2"), ("include[]", "logprobs")], MODEL) == Ask(
        "spa", None, "srt", False
    )
    assert read("translate", [("model", MODEL)], MODEL).to == "eng"
    assert read("translate", [("model", MODEL), ("to_language", "pt-BR"), ("stream", "true")], MODEL) == Ask(
        None, "por", "json", True
    )


@pytest.mark.parametrize(
    ("field", "value", "status", "code"),
    [
        ("model", "", 400, "missing_required_parameter"),
        ("model", "gpt-5", 404, "model_not_found"),
        ("response_format", "diarized_json", 400, "unsupported_value"),
        ("stream", "maybe", 400, "unsupported_value"),
        ("temperature", "2", 400, "unsupported_value"),
        ("temperature", "nan", 400, "unsupported_value"),
        ("temperature", "hot", 400, "unsupported_value"),
        ("timestamp_granularities[]", "word", 400, "unsupported_value"),
        ("language", "klingon", 400, "unknown_language"),
        ("to_language", "klingon", 400, "unknown_language"),
    ],
)
def test_what_is_refused(field: str, value: str, status: int, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        read("translate", [("model", MODEL), (field, value)], MODEL)
    error = caught.value.body()["error"]
    assert (caught.value.status, error["code"], error["param"]) == (status, code, field)
    assert error["type"] == "invalid_request_error" and error["message"]


@pytest.mark.parametrize(
    "fields", [[("to_language", "deu")], [("stream", "true"), ("response_format", "srt")]], ids=["to", "stream"]
)
def test_what_does_not_go_together(fields: list[tuple[str, str]]) -> None:
    with pytest.raises(Refusal) as caught:
        read("transcribe", [("model", MODEL), *fields], MODEL)
    assert (caught.value.status, caught.value.param) == (400, fields[0][0])


def test_json_and_text() -> None:
    said = {"text": "Hola. Adi\u00f3s.", "usage": {"type": "duration", "seconds": 65}}
    assert json.loads(answer(Ask(None, None, "json", False), FOUND, 65.0)) == said
    assert json.loads(answer(Ask(None, "deu", "json", False), FOUND, 65.0)) == {"text": "Hallo. Tsch\u00fcss."}
    assert answer(Ask(None, "deu", "text", False), FOUND, None) == "Hallo. Tsch\u00fcss.\n"
    assert answer(Ask(None, None, "text", False), [], None) == "\n"


def test_subtitles() -> None:
    srt = answer(Ask(None, "deu", "srt", False), FOUND, None)
    assert srt == "1\n00:00:00,500 --> 00:00:02,000\nHallo.\n\n2\n00:00:04,000 --> 00:01:01,250\nTsch\u00fcss.\n"
    assert answer(Ask(None, None, "vtt", False), FOUND, None).startswith(
        "WEBVTT\n\n00:00:00.500 --> 00:00:02.000\nHola.\n"
    )


@pytest.mark.parametrize(("to", "task", "language"), [(None, "transcribe", "spanish"), ("deu", "translate", "german")])
def test_verbose_json(to: str | None, task: str, language: str) -> None:
    body = json.loads(answer(Ask(None, to, "verbose_json", False), FOUND, None))
    assert (body["task"], body["language"], body["duration"]) == (task, language, 61.25)
    assert ("usage" in body) == (to is None)
    assert [segment["id"] for segment in body["segments"]] == [0, 1], "without speech, no segment"
    assert (body["segments"][1]["start"], body["segments"][1]["end"], body["segments"][1]["seek"]) == (4.0, 61.25, 400)
    assert "".join(segment["text"] for segment in body["segments"]).strip() == body["text"]


def test_languages_without_spaces() -> None:
    found = [
        SegmentResult(0, 1, "jpn", "\u306f\u3044\u3002", {}),
        SegmentResult(1, 2, "jpn", "\u3044\u3044\u3048\u3002", {}),
    ]
    body = json.loads(answer(Ask(None, None, "verbose_json", False), found, 2.0))
    assert (
        body["text"]
        == "".join(segment["text"] for segment in body["segments"])
        == "\u306f\u3044\u3002\u3044\u3044\u3048\u3002"
    )


@pytest.mark.parametrize(
    ("error", "status", "code", "kind"),
    [
        (AudioError("audio_empty", "Empty."), 400, "audio_empty", "invalid_request_error"),
        (UsageError("unknown_language", "What?"), 400, "unknown_language", "invalid_request_error"),
        (ModelError("edge_model_damaged", "Damaged."), 500, "edge_model_damaged", "server_error"),
        (CloudError("unauthorized", "No.", 401), 401, "invalid_api_key", "invalid_request_error"),
        (CloudError("too_many", "Wait.", 429), 429, "too_many", "rate_limit_exceeded"),
        (CloudError("overloaded", "Wait.", 503), 503, "overloaded", "server_error"),
        (CloudError("frame_wrong_model", "Other.", 409), 502, "frame_wrong_model", "server_error"),
        (CloudError("cloud_unreachable", "Gone."), 502, "cloud_unreachable", "server_error"),
        (CloudError("cloud_timeout", "Slow."), 504, "cloud_timeout", "server_error"),
    ],
)
def test_errors(error: ESRTError, status: int, code: str, kind: str) -> None:
    found = refusal(error)
    body: dict[str, Any] = found.body()["error"]
    assert (found.status, body["code"], body["type"]) == (status, code, kind)
    assert body.keys() == {"message", "type", "param", "code"}
