"""The shapes of OpenAI's audio API: what may be asked, what is answered, how an error is said. No sockets here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from esrt import languages
from esrt.audio import subtitles
from esrt.audio.subtitles import Cue
from esrt.edge import pipeline
from esrt.edge.pipeline import SegmentResult
from esrt.errors import AudioError, CloudError, ESRTError, UsageError

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
FORMATS: dict[str, Format] = {name: name for name in ("json", "text", "srt", "verbose_json", "vtt")}
TYPES = {"json": "application/json", "verbose_json": "application/json"}
PLAIN = "text/plain; charset=utf-8"

# Programs that have OpenAI's names built in get the one model that is here.
ALIASES = {"whisper-1", "gpt-transcribe", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"}

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False, "": False}


class Refusal(Exception):
    """An error as OpenAI's SDKs read it: `status` picks their exception, `code` is ours or OpenAI's and stable."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def body(self) -> dict[str, Any]:
        """`{"error": {message, type, param, code}}`."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_exceeded"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def refusal(error: ESRTError, param: str | None = None) -> Refusal:
    """What went wrong here or in the cloud. What is the cloud's fault, or ours towards it, is not the program's."""
    status = 500
    if isinstance(error, UsageError | AudioError):
        status = 400
    elif isinstance(error, CloudError):
        kept = error.status in (401, 403, 429, 503)
        status = error.status if kept else 504 if error.code in ("cloud_timeout", "deadline") else 502
    code = "invalid_api_key" if status == 401 else error.code
    if isinstance(error, AudioError):
        param = "file"
    sentence = str(error)
    if status == 401:
        sentence = "The cloud refuses the key that `esrt sidecar` was started with: start it again with another."
    return Refusal(status, code, sentence, param)


@dataclass(frozen=True)
class Ask:
    """What is wanted of a sound: `source` and `to` are ISO 639-3 codes; without `to` a transcript is."""

    source: str | None
    to: str | None
    form: Format
    stream: bool


def read(task: Literal["transcribe", "translate"], fields: Sequence[tuple[str, str]], model: str) -> Ask:
    """Read a form's text fields. Raises Refusal.

    What a model of OpenAI's does and this one cannot is refused where the answer would be another one for it (times of
    words, who speaks), and left unheard where it is a hint (`prompt`, `temperature`).
    """
    last = dict(fields)
    asked = last.get("model", "").strip()
    if not asked:
        raise Refusal(400, "missing_required_parameter", "You must provide a model parameter.", "model")
    if asked != model and asked not in ALIASES:
        raise Refusal(404, "model_not_found", f"There is no model {asked[:60]!r} here: ask for {model}.", "model")
    form = FORMATS.get(last.get("response_format", "json"))
    if form is None:
        raise _unsupported("response_format", f"Use one of the response formats {', '.join(FORMATS)}.")
    stream = _BOOLEANS.get(last.get("stream", "").strip().lower())
    if stream is None:
        raise _unsupported("stream", "Set stream to true or false.")
    if stream and form not in ("json", "text"):
        raise _unsupported("stream", f"A stream has no {form}: leave out stream, or response_format.")
    if any(name.startswith("timestamp_granularities") and value == "word" for name, value in fields):
        raise _unsupported("timestamp_granularities[]", "There are times of segments here, not of words.")
    _temperature(last.get("temperature", ""))
    if task == "transcribe" and "to_language" in last:
        raise _unsupported("to_language", "Send to_language to /v1/audio/translations.")
    to = _language("to_language", last.get("to_language") or "eng") if task == "translate" else None
    return Ask(_language("language", last.get("language", "")), to, form, stream)


def _unsupported(param: str, sentence: str) -> Refusal:
    return Refusal(400, "unsupported_value", sentence, param)


def _temperature(text: str) -> None:
    try:
        if not 0 <= float(text or 0) <= 1:
            raise ValueError
    except ValueError:
        raise _unsupported("temperature", "Set temperature to a number from 0 to 1.") from None


def _language(param: str, code: str) -> str | None:
    try:
        return languages.get(code).code if code.strip() else None
    except UsageError as error:
        raise refusal(error, param) from None


def answer(ask: Ask, found: Sequence[SegmentResult], seconds: float | None) -> str:
    """The whole body. `seconds` is the sound's length, None where its container does not say it."""
    joined = pipeline.join(found, [ask.to] if ask.to else [])
    language = ask.to or ask.source or joined.source
    text = joined.translations[ask.to] if ask.to else joined.transcript
    cues = [Cue(segment.start, segment.end, said(ask, segment)) for segment in found]
    if ask.form == "text":
        return f"{text}\n"
    if ask.form in ("srt", "vtt"):
        return subtitles.render(ask.form, cues)
    length = round(max([seconds or 0.0, *(cue.end for cue in cues)]), 2)
    body: dict[str, Any] = {"text": text}
    if ask.form == "verbose_json":
        body = {
            "task": "translate" if ask.to else "transcribe",
            "language": languages.get(language).name.lower() if language else "",
            "duration": length,
            "text": text,
            "segments": list(_segments(cues, language)),
        }
    if not ask.to:
        body["usage"] = {"type": "duration", "seconds": math.ceil(length)}
    return json.dumps(body, ensure_ascii=False)


def said(ask: Ask, segment: SegmentResult) -> str:
    """The segment's text in the language that is asked for."""
    return subtitles.one_line(segment.translations[ask.to] if ask.to else segment.transcript)


def gap(language: str | None) -> str:
    """What stands between two texts that follow each other."""
    return subtitles.join("ab", language)[1:-1]


def _segments(cues: Iterable[Cue], language: str | None) -> Iterable[dict[str, Any]]:
    """OpenAI's segments. What this model does not know of itself has values that make no program drop the segment."""
    for number, cue in enumerate(cue for cue in cues if cue.text):
        yield {
            "id": number,
            "seek": round(cue.start * 100),  # in frames of 10 ms, as Whisper counts
            "start": round(cue.start, 2),
            "end": round(cue.end, 2),
            "text": gap(language) + cue.text,  # with its space before it, so that programs can join them as they are
            "tokens": [],
            "temperature": 0.0,
            "avg_logprob": 0.0,
            "compression_ratio": 1.0,
            "no_speech_prob": 0.0,
        }


def event(body: Mapping[str, Any]) -> str:
    """One event of a stream."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
