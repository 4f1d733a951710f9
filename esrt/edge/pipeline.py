"""Speech of any length -> transcript and translations: cut, encode, send, join."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from esrt import languages
from esrt.audio.pieces import cut, is_silent
from esrt.audio.samples import Samples, checked
from esrt.config import SAMPLE_RATE
from esrt.errors import CloudError
from esrt.wire import codecs
from esrt.wire.codecs import Tables
from esrt.wire.schemas import TranslationResponse

Task = Literal["translate", "transcribe"]

# Sentences follow each other without a space. (Thai, Lao, Khmer and Burmese do set one between sentences.)
_UNSPACED = {"cmn", "jpn", "yue"}


class Encodes(Protocol):
    """What turns samples into features: `esrt.edge.encoder.Encoder`."""

    fingerprint: bytes
    tables: Tables

    def encode(self, samples: Samples) -> npt.NDArray[np.float32]:
        """float32 [n], 16 kHz -> float32 [queries, width]."""
        ...


class Sends(Protocol):
    """What brings a frame to a cloud and its answer back: `esrt.edge.client.Client`, or a cloud in this process."""

    def translate(
        self, frame: bytes, to: list[str], source: str | None = None, task: Task = "translate"
    ) -> TranslationResponse:
        """The answer to one frame."""
        ...


@dataclass(frozen=True)
class Piece:
    """What was said from second `start` to second `end`. `source` is None where nothing was."""

    start: float
    end: float
    source: str | None
    transcript: str
    translations: dict[str, str]


@dataclass(frozen=True)
class Result:
    """A whole clip's texts. `source` is the code of the language spoken longest, None if nothing was said.

    `wire_bytes` counts the frames' bytes; the seconds are those spent encoding, and those until the answers were here.
    """

    source: str | None
    transcript: str
    translations: dict[str, str]
    pieces: tuple[Piece, ...]
    wire_bytes: int
    edge_seconds: float
    cloud_seconds: float


def translate(
    samples: npt.NDArray[Any],
    encoder: Encodes,
    send: Sends,
    to: Sequence[str] = (),
    source: str | None = None,
    codec: str = "int8",
) -> Result:
    """Transcribe samples (float [n], 16 kHz, mono) and translate them into the languages `to`; none: transcribe only.

    Each piece of at most 30 s is one frame. A silent piece is an empty text that no cloud is asked for. Without
    `source` the model finds the language, and it stays unknown to the network. Raises UsageError `unknown_language` or
    `unknown_codec`, AudioError, ModelError, and whatever `send` raises.
    """
    samples = checked(samples)
    targets = list(dict.fromkeys(languages.get(code).code for code in to))
    spoken = languages.get(source).code if source is not None else None
    task: Task = "translate" if targets else "transcribe"
    pieces = []
    wire_bytes = 0
    edge_seconds = cloud_seconds = 0.0
    for start, end in cut(samples):
        answer = None
        if not is_silent(samples[start:end]):
            began = time.perf_counter()
            rows = encoder.encode(samples[start:end])
            frame = codecs.encode(rows, codec, encoder.tables, encoder.fingerprint).to_bytes()
            encoded = time.perf_counter()
            answer = send.translate(frame, to=targets, source=spoken, task=task)
            cloud_seconds += time.perf_counter() - encoded
            edge_seconds += encoded - began
            wire_bytes += len(frame)
        pieces.append(_piece(start / SAMPLE_RATE, end / SAMPLE_RATE, targets, answer))
    found = _longest(pieces)
    return Result(
        source=found,
        transcript=_join((piece.transcript for piece in pieces), found),
        translations={code: _join((piece.translations[code] for piece in pieces), code) for code in targets},
        pieces=tuple(pieces),
        wire_bytes=wire_bytes,
        edge_seconds=edge_seconds,
        cloud_seconds=cloud_seconds,
    )


def _piece(start: float, end: float, targets: list[str], answer: TranslationResponse | None) -> Piece:
    if answer is None:
        return Piece(start, end, None, "", dict.fromkeys(targets, ""))
    missing = [code for code in targets if code not in answer.translations]
    if missing:
        raise CloudError("bad_response", f"The cloud's answer lacks the translation into {missing[0]}: try again.")
    translations = {code: answer.translations[code] for code in targets}
    return Piece(start, end, answer.source, answer.transcript, translations)


def _longest(pieces: list[Piece]) -> str | None:
    seconds: dict[str, float] = {}
    for piece in pieces:
        if piece.source is not None:
            seconds[piece.source] = seconds.get(piece.source, 0.0) + piece.end - piece.start
    return max(seconds, key=seconds.__getitem__) if seconds else None


def _join(texts: Iterable[str], code: str | None) -> str:
    return ("" if code in _UNSPACED else " ").join(text for text in texts if text)
