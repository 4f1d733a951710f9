"""The bodies of requests and responses, as dataclasses.

`to_json` gives a JSON object (a dict); `from_json` takes one, or its text. Requests are read strictly: whatever is
unknown or malformed is a UsageError `bad_request` that names the field. Responses are read leniently: unknown keys are
ignored, so that an older client understands a newer cloud; what is missing is a CloudError `bad_response`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from esrt.errors import CloudError, UsageError
from esrt.languages import get

Json = Mapping[str, Any]
Value = TypeVar("Value")

MAX_BEAM = 8
_ID = re.compile(r"[0-9a-f]{32}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

EDGE_MODEL = "edge.onnx"
EDGE_FILES = ("MANIFEST.json", "config.json", "codec.safetensors", EDGE_MODEL, f"{EDGE_MODEL}.data")
"""All that a cloud hands out to devices. A device writes under these names and no others."""


@dataclass(frozen=True)
class TranslationRequest:
    """What to make of stored features. `to` and `from_` are ISO 639-3 codes; `from_` is None where the model listens.

    `features` is the frame's id, or "" where the frame itself is the body. `to` is empty for `transcribe` only.
    """

    features: str
    to: list[str]
    from_: str | None = None
    task: Literal["translate", "transcribe"] = "translate"
    beam: int = 1

    def to_json(self) -> dict[str, Any]:
        """`{features, to, from, task, beam}`, without `from` where no source is named."""
        named = {} if self.from_ is None else {"from": self.from_}
        return {"features": self.features, "to": self.to, **named, "task": self.task, "beam": self.beam}

    def to_query(self) -> list[tuple[str, str]]:
        """The same as query parameters, for the route whose body is the frame."""
        named = [] if self.from_ is None else [("from", self.from_)]
        return [*(("to", code) for code in self.to), *named, ("task", self.task), ("beam", str(self.beam))]

    @staticmethod
    def from_json(body: bytes | str | Json) -> TranslationRequest:
        """Read a request. Languages may be given by any code that `languages.get` knows."""
        raw = _object(body, _bad_request)
        features = check_features(raw.get("features"))
        return _request(features, {name: value for name, value in raw.items() if name != "features"})

    @staticmethod
    def from_query(query: Iterable[tuple[str, str]]) -> TranslationRequest:
        """Read the query parameters of a request whose body is the frame; `to` may come several times."""
        raw: dict[str, Any] = {}
        for name, value in query:
            if name == "to":
                raw.setdefault("to", []).append(value)
            elif name in raw:
                raise _bad_request(f"{name[:40]!r} is given twice")
            else:
                raw[name] = value
        if "beam" in raw:
            raw["beam"] = int(raw["beam"]) if re.fullmatch(r"[0-9]{1,3}", raw["beam"]) else None
        return _request("", raw)


def check_features(features: Any) -> str:
    """The id of features, if it can be one: UsageError `bad_request` if not."""
    if not isinstance(features, str) or not _ID.match(features):
        raise _bad_request("`features` must be the 32 hex digits that name stored features")
    return features


def _request(features: str, raw: Json) -> TranslationRequest:
    unknown = sorted(set(raw) - {"to", "from", "task", "beam"})
    if unknown:
        raise _bad_request(f"{unknown[0][:40]!r} is not a field of this request")
    to, source, task, beam = raw.get("to", []), raw.get("from"), raw.get("task", "translate"), raw.get("beam", 1)
    if not isinstance(to, list) or not all(isinstance(code, str) for code in to):
        raise _bad_request("`to` must be a list of language codes")
    if source is not None and not isinstance(source, str):
        raise _bad_request("`from` must be a language code")
    if task not in ("translate", "transcribe"):
        raise _bad_request("`task` must be translate or transcribe")
    if type(beam) is not int or not 1 <= beam <= MAX_BEAM:
        raise _bad_request(f"`beam` must be a whole number from 1 to {MAX_BEAM}")
    if not to and task == "translate":
        raise _bad_request("`to` must name at least one language")
    if to and task == "transcribe":
        raise _bad_request("`to` must be left out where the task is transcribe")
    codes = list(dict.fromkeys(get(code).code for code in to))
    return TranslationRequest(features, codes, None if source is None else get(source).code, task, beam)


@dataclass(frozen=True)
class Usage:
    """What a request cost: bytes of the frame, tokens the LLM wrote, seconds in the cloud."""

    bytes: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class TranslationResponse:
    """The answer: the source's code (None where no speech was found), its text, and a text per target's code."""

    source: str | None
    transcript: str
    translations: dict[str, str]
    features: str
    usage: Usage

    def to_json(self) -> dict[str, Any]:
        """`{source, transcript, translations, features, usage}`."""
        return asdict(self)

    @staticmethod
    def from_json(body: bytes | str | Json) -> TranslationResponse:
        """Read an answer; unknown keys are ignored."""
        raw = _object(body, _bad_response)
        usage = _field(raw, "usage", dict)
        translations = _field(raw, "translations", dict)
        if not all(isinstance(text, str) for text in translations.values()):
            raise _bad_response("`translations` must hold texts")
        return TranslationResponse(
            source=None if raw.get("source") is None else _field(raw, "source", str),
            transcript=_field(raw, "transcript", str),
            translations=translations,
            features=_field(raw, "features", str),
            usage=Usage(_field(usage, "bytes", int), _field(usage, "tokens", int), _number(usage, "seconds")),
        )


@dataclass(frozen=True)
class Problem:
    """An error as an RFC 9457 problem document, with the stable code of this project's errors."""

    type: str
    title: str
    status: int
    detail: str
    code: str

    def to_json(self) -> dict[str, Any]:
        """`{type, title, status, detail, code}`."""
        return asdict(self)

    @staticmethod
    def from_json(body: bytes | str | Json) -> Problem:
        """Read a problem; `code`, `status` and `detail` must be there, the rest has RFC 9457's defaults."""
        raw = _object(body, _bad_response)
        kind = _field(raw, "type", str) if "type" in raw else "about:blank"
        title = _field(raw, "title", str) if "title" in raw else ""
        status, detail, code = _field(raw, "status", int), _field(raw, "detail", str), _field(raw, "code", str)
        return Problem(kind, title, status, detail, code)


@dataclass(frozen=True)
class EdgeFile:
    """A file of the edge model that belongs to a served model: one of EDGE_FILES, its SHA-256 in hex, its size."""

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class ModelCard:
    """A served model: what a device must know to make frames for it."""

    name: str
    fingerprint: str
    queries: int
    width: int
    codecs: list[str]
    context: str
    languages: list[str]
    edge: list[EdgeFile]
    retention: float | None = None
    """Seconds for which the cloud keeps features after they were last sent; None where it does not say."""

    def to_json(self) -> dict[str, Any]:
        """One entry of `models`."""
        return asdict(self)

    @staticmethod
    def from_json(body: bytes | str | Json) -> ModelCard:
        """Read one entry of `models`; unknown keys are ignored."""
        raw = _object(body, _bad_response)
        return ModelCard(
            name=_field(raw, "name", str),
            fingerprint=_field(raw, "fingerprint", str),
            queries=_field(raw, "queries", int),
            width=_field(raw, "width", int),
            codecs=_texts(raw, "codecs"),
            context=_field(raw, "context", str),
            languages=_texts(raw, "languages"),
            edge=_edge_files(raw.get("edge")),
            retention=None if raw.get("retention") is None else _number(raw, "retention"),
        )


def _edge_files(raw: Any) -> list[EdgeFile]:
    if not isinstance(raw, list):
        raise CloudError(
            "cloud_outdated", "The cloud hands out no edge model that this version can fetch: upgrade esrt there."
        )
    return [_edge_file(entry) for entry in raw]


def _edge_file(entry: Any) -> EdgeFile:
    raw = _object(entry, _bad_response)
    found = EdgeFile(_field(raw, "file", str), _field(raw, "sha256", str), _field(raw, "bytes", int))
    if found.file not in EDGE_FILES:  # a device writes under this name
        raise CloudError(
            "edge_file_unknown",
            f"The cloud's edge model has a file {found.file[:40]!r} unknown to this version: upgrade esrt here.",
        )
    if not _SHA256.match(found.sha256) or found.bytes < 0:
        raise _bad_response("`edge` must hold SHA-256 hashes of 64 hex digits, and sizes")
    return found


def models_to_json(cards: Iterable[ModelCard]) -> dict[str, Any]:
    """The body of `GET /v1/models`: `{"models": [...]}`."""
    return {"models": [card.to_json() for card in cards]}


def models_from_json(body: bytes | str | Json) -> list[ModelCard]:
    """Read the body of `GET /v1/models`."""
    return [ModelCard.from_json(entry) for entry in _field(_object(body, _bad_response), "models", list)]


def _bad_request(what: str) -> UsageError:
    return UsageError("bad_request", f"The request cannot be read: {what}.")


def _bad_response(what: str) -> CloudError:
    return CloudError("bad_response", f"The cloud's answer cannot be read: {what}. Is its URL right?")


def _object(body: Any, error: Callable[[str], Exception]) -> Json:
    try:
        value = json.loads(body) if isinstance(body, (bytes, str)) else body
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested too deep
        raise error("it is not JSON") from None
    if not isinstance(value, Mapping):
        raise error("it is not a JSON object")
    return value


def _field(raw: Json, name: str, kind: type[Value]) -> Value:
    value = raw.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _bad_response(f"`{name}` must be a {kind.__name__}")
    return value


def _number(raw: Json, name: str) -> float:
    return float(_field(raw, name, int if isinstance(raw.get(name), int) else float))


def _texts(raw: Json, name: str) -> list[str]:
    values: list[Any] = _field(raw, name, list)
    if not all(isinstance(value, str) for value in values):
        raise _bad_response(f"`{name}` must hold texts")
    return values
