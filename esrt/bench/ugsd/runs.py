"""One way of answering over one link, for all clips: what it says, what it sends, how long it takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
import numpy as np
import sacrebleu
from tqdm import tqdm

from esrt.audio.io import load
from esrt.bench.training.score import Clip
from esrt.bench.ugsd.link import Conditions, Link
from esrt.config import WINDOW_SAMPLES
from esrt.decoding.drafter import Drafter
from esrt.decoding.gates import Guess
from esrt.decoding.speech import Speculative
from esrt.decoding.ugsd import Settings
from esrt.edge.client import Client
from esrt.edge.encoder import Encoder
from esrt.wire import codecs
from esrt.wire.frame import read
from esrt.wire.schemas import Drafting


@dataclass(frozen=True)
class Task:
    """A clip as it leaves the encoder, the languages of its texts, and the references of each; what texts: `kind`."""

    frame: bytes
    to: list[str]
    references: Mapping[str, Sequence[str]]
    kind: Literal["translate", "caption"] = "translate"


@dataclass
class Outcome:
    """Of all clips: translations by clip and language, tallies, bytes on the link, and seconds of each clip.

    `first` are the seconds until a token stood; encoding is in neither.
    """

    texts: list[dict[str, str]] = field(default_factory=list)
    drafting: Drafting = field(default_factory=Drafting)
    up: int = 0
    down: int = 0
    first: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    checked: list[tuple[Guess, bool]] = field(default_factory=list)

    @property
    def escalated(self) -> float:
        """Share of the drafted tokens that were sent."""
        return self.drafting.escalated / max(1, self.drafting.drafted)


def tasks(clips: Sequence[Clip], folder: Path, to: Sequence[str]) -> list[Task]:
    """The clips that have a reference in one of `to`, encoded by the model in `folder`, int8."""
    encoder, found = Encoder(folder / "edge.onnx"), []
    for clip in tqdm(clips, desc="encoding", disable=None):
        wanted = {code: [clip.references[code]] for code in to if code in clip.references}
        if wanted:
            found.append(Task(frame(encoder, clip.audio), list(wanted), wanted))
    return found


def frame(encoder: Encoder, audio: str) -> bytes:
    """The int8 frame of a recording's first 30 s."""
    rows = encoder.encode(load(audio)[:WINDOW_SAMPLES])
    return codecs.encode(rows, "int8", encoder.tables, encoder.fingerprint).to_bytes()


def drafted(
    every: Sequence[Task], drafter: Drafter, url: str, settings: Settings, link: Conditions | None = None
) -> Outcome:
    """UGSD against the cloud at `url`, over an emulated link. A cut is an error here."""
    out = Outcome()
    with Link(*_address(url), link or Conditions()) as way, Client(way.url, timeout=60) as client:
        speculative = Speculative(drafter, client, settings)
        for task in tqdm(every, desc=f"gamma {settings.gamma:.3g}", disable=None):
            answer = speculative.translate(task.frame, task.to, task=task.kind)
            tally, ended = speculative.tally, time.perf_counter()
            assert answer.drafting is not None and tally.cut is None, tally.cut
            out.texts.append(answer.translations)
            out.drafting += answer.drafting
            out.checked += tally.checked
            out.first.append((tally.first or ended) - speculative.began)
            out.seconds.append(ended - speculative.began)
        out.up, out.down = way.bytes_up, way.bytes_down
    return out


def split(every: Sequence[Task], url: str, link: Conditions | None = None) -> Outcome:
    """Split inference: the frame goes to the cloud at `url`, the texts come back as they are written."""
    out = Outcome()
    with Link(*_address(url), link or Conditions()) as way, httpx.Client(base_url=way.url, timeout=120) as http:
        for task in tqdm(every, desc="cloud only", disable=None):
            began, first, last = time.perf_counter(), 0.0, ""
            parameters = [*(("to", code) for code in task.to), ("task", task.kind)]
            headers = {"Accept": "text/event-stream", "Content-Type": "application/octet-stream"}
            with http.stream(
                "POST", "/v1/translations", params=parameters, content=task.frame, headers=headers
            ) as response:
                response.raise_for_status()
                for line in response.iter_lines():
                    first = first or time.perf_counter() - began
                    last = line if line.startswith("data: ") else last
            answer = json.loads(last.removeprefix("data: "))
            assert answer["features"] == read(task.frame, cap=len(task.frame)).id
            out.texts.append(answer["translations"])
            out.first.append(first)
            out.seconds.append(time.perf_counter() - began)
        out.up, out.down = way.bytes_up, way.bytes_down
    return out


def chrf(every: Sequence[Task], out: Outcome) -> float:
    """Score chrF of all translations together."""
    pairs = [
        (texts[code], task.references[code][0])
        for task, texts in zip(every, out.texts, strict=True)
        for code in task.to
    ]
    return float(sacrebleu.corpus_chrf([text for text, _ in pairs], [[wanted for _, wanted in pairs]]).score)


def reached(tokens: Sequence[Guess], doubt: Callable[[Guess], float], share: float) -> float:
    """The gamma that `share` of the tokens reach."""
    return float(np.quantile([doubt(token) for token in tokens], 1 - share))


def same(a: Outcome, b: Outcome) -> float:
    """Share of the translations that are the same in both."""
    pairs = [(one[code], other[code]) for one, other in zip(a.texts, b.texts, strict=True) for code in one]
    return sum(one == other for one, other in pairs) / max(1, len(pairs))


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    return parts.hostname, parts.port
