"""The bodies of requests and responses, as dataclasses.

`to_json` gives a JSON object (a dict); `from_json` takes one, or its text. Requests are read strictly: whatever is
unknown or malformed is a UsageError `bad_request` that names the field. Responses are read leniently: unknown keys are
ignored, so that an older client understands a newer cloud; what is missing is a CloudError `bad_response`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from esrt.errors import CloudError
from esrt.languages import get
from esrt.wire.reading import Json, bad_request, bad_response, field, number, read_object, texts

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
    task: Literal["translate", "transcribe", "caption"] = "translate"
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
        raw = read_object(body, bad_request)
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
                raise bad_request(f"{name[:40]!r} is given twice")
            else:
                raw[name] = value
        if "beam" in raw:
            raw["beam"] = int(raw["beam"]) if re.fullmatch(r"[0-9]{1,3}", raw["beam"]) else None
        return _request("", raw)


def check_features(features: Any) -> str:
    """The id of features, if it can be one: UsageError `bad_request` if not."""
    if not isinstance(features, str) or not _ID.match(features):
        raise bad_request("`features` must be the 32 hex digits that name stored features")
    return features


def _request(features: str, raw: Json) -> TranslationRequest:
    unknown = sorted(set(raw) - {"to", "from", "task", "beam"})
    if unknown:
        raise bad_request(f"{unknown[0][:40]!r} is not a field of this request")
    to, source, task, beam = raw.get("to", []), raw.get("from"), raw.get("task", "translate"), raw.get("beam", 1)
    if not isinstance(to, list) or not all(isinstance(code, str) for code in to):
        raise bad_request("`to` must be a list of language codes")
    if source is not None and not isinstance(source, str):
        raise bad_request("`from` must be a language code")
    if task not in ("translate", "transcribe", "caption"):
        raise bad_request("`task` must be translate, transcribe or caption")
    if type(beam) is not int or not 1 <= beam <= MAX_BEAM:
        raise bad_request(f"`beam` must be a whole number from 1 to {MAX_BEAM}")
    if not to and task != "transcribe":
        raise bad_request("`to` must name at least one language")
    if to and task == "transcribe":
        raise bad_request("`to` must be left out where the task is transcribe")
    codes = list(dict.fromkeys(get(code).code for code in to))
    return TranslationRequest(features, codes, None if source is None else get(source).code, task, beam)


@dataclass(frozen=True)
class Usage:
    """What a request cost: bytes of the frame, tokens the LLM wrote, seconds in the cloud."""

    bytes: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Drafting:
    """How a device that drafts came by its texts. In tokens: `written` are in the texts, `local` of them no cloud ever
    saw; `drafted` counts dropped ones too, `escalated` were sent to be checked, `corrected` are the cloud's own.

    `round_trips` counts checks; the bytes are those of HTTP. `cut` is None, or the code of the error after which the
    cloud was not asked any more.
    """

    written: int = 0
    local: int = 0
    drafted: int = 0
    escalated: int = 0
    corrected: int = 0
    round_trips: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    cut: str | None = None

    def __add__(self, other: Drafting) -> Drafting:
        counts = {name: getattr(self, name) + getattr(other, name) for name in asdict(self) if name != "cut"}
        return Drafting(**counts, cut=self.cut or other.cut)

    def to_json(self) -> dict[str, Any]:
        """Its fields, and `local_share`: of the texts' tokens, those that no cloud ever saw."""
        return {**asdict(self), "local_share": round(self.local / self.written, 4) if self.written else 1.0}


@dataclass(frozen=True)
class TranslationResponse:
    """The answer: the source's code (None where no speech was found), its text, and a text per target's code.

    `drafting` is there where the texts were drafted on the device; no cloud sends it.
    """

    source: str | None
    transcript: str
    translations: dict[str, str]
    features: str
    usage: Usage
    drafting: Drafting | None = None

    def to_json(self) -> dict[str, Any]:
        """`{source, transcript, translations, features, usage}`."""
        return {name: value for name, value in asdict(self).items() if name != "drafting"}

    @staticmethod
    def from_json(body: bytes | str | Json) -> TranslationResponse:
        """Read an answer; unknown keys are ignored."""
        raw = read_object(body, bad_response)
        usage = field(raw, "usage", dict)
        translations = field(raw, "translations", dict)
        if not all(isinstance(text, str) for text in translations.values()):
            raise bad_response("`translations` must hold texts")
        return TranslationResponse(
            source=None if raw.get("source") is None else field(raw, "source", str),
            transcript=field(raw, "transcript", str),
            translations=translations,
            features=field(raw, "features", str),
            usage=Usage(field(usage, "bytes", int), field(usage, "tokens", int), number(usage, "seconds")),
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
        raw = read_object(body, bad_response)
        kind = field(raw, "type", str) if "type" in raw else "about:blank"
        title = field(raw, "title", str) if "title" in raw else ""
        status, detail, code = field(raw, "status", int), field(raw, "detail", str), field(raw, "code", str)
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
    tokenizer: str | None = None
    """Fingerprint of the tokenizer that a drafter for this model must have; None where no drafts are checked."""

    def to_json(self) -> dict[str, Any]:
        """One entry of `models`."""
        return asdict(self)

    @staticmethod
    def from_json(body: bytes | str | Json) -> ModelCard:
        """Read one entry of `models`; unknown keys are ignored."""
        raw = read_object(body, bad_response)
        return ModelCard(
            name=field(raw, "name", str),
            fingerprint=field(raw, "fingerprint", str),
            queries=field(raw, "queries", int),
            width=field(raw, "width", int),
            codecs=texts(raw, "codecs"),
            context=field(raw, "context", str),
            languages=texts(raw, "languages"),
            edge=_edge_files(raw.get("edge")),
            retention=None if raw.get("retention") is None else number(raw, "retention"),
            tokenizer=None if raw.get("tokenizer") is None else field(raw, "tokenizer", str),
        )


def _edge_files(raw: Any) -> list[EdgeFile]:
    if not isinstance(raw, list):
        raise CloudError(
            "cloud_outdated", "The cloud hands out no edge model that this version can fetch: upgrade esrt there."
        )
    return [_edge_file(entry) for entry in raw]


def _edge_file(entry: Any) -> EdgeFile:
    raw = read_object(entry, bad_response)
    found = EdgeFile(field(raw, "file", str), field(raw, "sha256", str), field(raw, "bytes", int))
    if found.file not in EDGE_FILES:  # a device writes under this name
        raise CloudError(
            "edge_file_unknown",
            f"The cloud's edge model has a file {found.file[:40]!r} unknown to this version: upgrade esrt here.",
        )
    if not _SHA256.match(found.sha256) or found.bytes < 0:
        raise bad_response("`edge` must hold SHA-256 hashes of 64 hex digits, and sizes")
    return found


def models_to_json(cards: Iterable[ModelCard]) -> dict[str, Any]:
    """The body of `GET /v1/models`: `{"models": [...]}`."""
    return {"models": [card.to_json() for card in cards]}


def models_from_json(body: bytes | str | Json) -> list[ModelCard]:
    """Read the body of `GET /v1/models`."""
    return [ModelCard.from_json(entry) for entry in field(read_object(body, bad_response), "models", list)]
