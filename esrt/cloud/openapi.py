"""The routes as an OpenAPI 3.1 document, for programs. docs/http-api.md is the description for people."""

from __future__ import annotations

from typing import Any

from esrt import __version__
from esrt.languages import LANGUAGES
from esrt.wire.schemas import EDGE_FILES, MAX_BEAM
from esrt.wire.verification import MAX_BLOCK, MAX_PREFIX, MAX_RANK

Json = dict[str, Any]

_ID: Json = {"type": "string", "pattern": "^[0-9a-f]{32}$", "description": "The features' id: their digest in hex."}
_LANGUAGE: Json = {"enum": list(LANGUAGES), "description": "ISO 639-3; the same in ISO 639-1 or BCP 47 is taken too."}
_BEAM: Json = {"type": "integer", "minimum": 1, "maximum": MAX_BEAM, "default": 1}
_TEXT: Json = {"type": "string"}
_TEXTS: Json = {"type": "array", "items": _TEXT}
_NUMBER: Json = {"type": "integer", "minimum": 0}
_FRAME: Json = {"required": True, "content": {"application/octet-stream": {}}}


def document() -> Json:
    """The whole document. Every operation needs a key, but for those whose `security` is empty."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "ESRT", "version": __version__, "summary": "Speech translation of frames of features."},
        "security": [{"key": []}],
        "paths": {
            "/v1/translations": {"post": _translate()},
            "/v1/verifications": {"post": _verify()},
            "/v1/features/{features}": {"parameters": [_path("features", _ID)], "put": _store(), "delete": _forget()},
            "/v1/models": {"get": _operation("What is served.", {"200": _json("The models.", _models())})},
            "/v1/edge/{file}": {"parameters": [_path("file", {"enum": list(EDGE_FILES)})], "get": _edge()},
            "/metrics": {"get": _operation("Counts for Prometheus.", {"200": _said("Text.")})},
            "/openapi.json": {"get": _operation("This document.", {"200": _said("OpenAPI 3.1.")})},
            "/healthz": {"get": _health("Whether the process answers.")},
            "/readyz": {"get": _health("Whether the model is loaded and the server is not about to end.")},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Answer": _answer(), "Problem": _problem()},
        },
    }


def _translate() -> Json:
    targets: Json = {"type": "array", "items": _LANGUAGE, "description": "Left out where the task is transcribe."}
    query = {"to": targets, "from": _LANGUAGE, "task": {"enum": ["translate", "transcribe", "caption"]}, "beam": _BEAM}
    options = {"features": _ID, "from": _LANGUAGE, "beam": _BEAM}
    translate = {**options, "to": {**targets, "minItems": 1}, "task": {"enum": ["translate", "caption"]}}
    transcribe = {**options, "to": {**targets, "maxItems": 0}, "task": {"const": "transcribe"}}
    stored = {
        "oneOf": [
            {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
            for properties, required in ((translate, ["features", "to"]), (transcribe, ["features", "task"]))
        ]
    }
    answers = {
        "200": {
            "description": "Transcript and translations, whole or in pieces.",
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/Answer"}},
                "text/event-stream": {},
            },
        }
    }
    return _operation(
        "Transcript and translations of a frame, or of stored features.",
        answers,
        parameters=[{"name": name, "in": "query", "schema": schema} for name, schema in query.items()],
        requestBody={
            "required": True,
            "content": {"application/octet-stream": {}, "application/json": {"schema": stored}},
        },
    )


def _verify() -> Json:
    def ids(least: int, most: int) -> Json:
        token: Json = {"type": "integer", "minimum": 0}
        return {"type": "array", "items": token, "minItems": least, "maxItems": most}

    fields = {
        "features": _ID,
        "tokenizer": {"type": "string", "pattern": "^[0-9a-f]{16}$", "description": "Fingerprint, as in the models."},
        "prefix": ids(0, MAX_PREFIX) | {"description": "Token ids after the features, the prompt's first."},
        "block": ids(1, MAX_BLOCK) | {"description": "The drafted ids after those."},
        "rank": {"type": "integer", "minimum": 1, "maximum": MAX_RANK, "default": 1},
    }
    required = ["features", "tokenizer", "prefix", "block"]
    drafted = {"type": "object", "properties": fields, "required": required, "additionalProperties": False}
    verdict = _object(
        accepted=_NUMBER | {"description": "So many of the block's first tokens stand."},
        correction={"type": ["integer", "null"], "description": "The token in the place of the first that does not."},
        eos={"type": "boolean", "description": "Whether the text ends with what stands now."},
    )
    return _operation(
        "How much of a drafted block stands (UGSD).",
        {"200": _json("The verdict.", verdict)},
        requestBody={"required": True, "content": {"application/json": {"schema": drafted}}},
    )


def _store() -> Json:
    known = _object(features=_ID)
    answers = {"200": _json("It was there.", known), "201": _json("It is stored.", known)}
    return _operation("Store a frame under its id.", answers, requestBody=_FRAME)


def _forget() -> Json:
    return _operation("Forget stored features.", {"204": _said("They are not here, or not any more.")})


def _edge() -> Json:
    answers = {"200": _said("The file."), "206": _said("A range of it."), "304": _said("It has not changed.")}
    return _operation("A file of the edge model.", answers)


def _path(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _operation(summary: str, answers: Json, **more: Any) -> Json:
    problem = {
        "description": "An error.",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    return {"summary": summary, **more, "responses": {**answers, "default": problem}}


def _health(summary: str) -> Json:
    return _operation(summary, {"200": _json("It is.", _object(status=_TEXT))}, security=[])


def _answer() -> Json:
    usage = _object(bytes=_NUMBER, tokens=_NUMBER, seconds={"type": "number"})
    return _object(
        source={"type": ["string", "null"]},
        transcript=_TEXT,
        translations={"type": "object", "additionalProperties": _TEXT},
        features=_ID,
        usage=usage,
    )


def _models() -> Json:
    files = {"type": "array", "items": _object(file={"enum": list(EDGE_FILES)}, sha256=_TEXT, bytes=_NUMBER)}
    model = _object(
        name=_TEXT,
        fingerprint=_TEXT,
        queries=_NUMBER,
        width=_NUMBER,
        codecs=_TEXTS,
        context=_TEXT,
        languages=_TEXTS,
        edge=files,
        retention={"type": ["number", "null"], "description": "Seconds for which features are kept."},
        tokenizer={"type": ["string", "null"], "description": "Fingerprint that a drafter's tokenizer must have."},
    )
    return _object(models={"type": "array", "items": model})


def _problem() -> Json:
    return _object(type=_TEXT, title=_TEXT, status=_NUMBER, detail=_TEXT, code=_TEXT)


def _object(**properties: Json) -> Json:
    """An object of an answer: it has all of these, and a newer server may say more."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _json(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _said(description: str) -> Json:
    return {"description": description}
