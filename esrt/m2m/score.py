"""What a model writes of held-out clips, how good that is, and how long it took."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from esrt.audio.io import load
from esrt.config import WINDOW_SAMPLES
from esrt.errors import UsageError
from esrt.languages import words
from esrt.m2m.engine import Engine
from esrt.m2m.generate import LIMIT, Drafting, Written, generate
from esrt.m2m.model import PROMPT
from esrt.m2m.offline import Ears
from esrt.train.examples import plain
from esrt.train.manifest import read_manifest

WORDS = 3  # single words say little about a translator


@dataclass(frozen=True)
class Item:
    """A clip, the language to write in, and what should be written; `target` is `source` for a transcript."""

    audio: str
    source: str
    target: str
    reference: str


@dataclass
class Run:
    """Token ids and texts of items in order; seconds of decoding, what it took, and what is kept of the best round."""

    ids: list[list[int]]
    texts: list[str]
    seconds: float = float("inf")
    passes: int = 0
    guesses: int = 0
    kept: int = 0
    by_item: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens written, the end of each text among them."""
        return sum(len(ids) + 1 for ids in self.ids)


def choose(manifest: Path, languages: Sequence[str], each: int) -> list[Item]:
    """At most `each` clips of a source language, drawn with a fixed seed; one item for each of their languages.

    Raises UsageError (manifest_..., no_rows).
    """
    rows = [
        row
        for row in read_manifest(manifest)
        if row.src in languages and words(row.asr, row.src) >= WORDS and not row.captioned
    ]
    audios: dict[str, list[str]] = {}
    for row in rows:
        found = audios.setdefault(row.src, [])
        if row.audio not in found:
            found.append(row.audio)
    taken = {
        audio
        for source in sorted(audios)
        for audio in random.Random(0).sample(audios[source], min(each, len(audios[source])))
    }
    items = []
    for row in rows:
        if row.audio in taken and (not row.tgt or row.tgt in languages):
            items.append(Item(row.audio, row.src, row.tgt or row.src, row.s2tt or row.asr))
    if not items:
        names = ", ".join(languages)
        raise UsageError("no_rows", f"{manifest} has no clip of {WORDS} words or more in {names}: add some.")
    return items


def listen(ears: Ears, items: Sequence[Item]) -> dict[str, Tensor]:
    """The encoder's frames [1, t, width] of every clip."""
    return {audio: ears.frames(load(audio)[:WINDOW_SAMPLES]) for audio in dict.fromkeys(i.audio for i in items)}


def write(engine: Engine, items: Sequence[Item], frames: Mapping[str, Tensor], drafting: Drafting | None = None) -> Run:
    """Decodes every item, one at a time; the encoder is left out."""
    model, ids, totals, seconds = engine.model, [], Written([]), []
    for item in items:
        began = time.perf_counter()
        rows, prompts = frames[item.audio], torch.tensor([model.prompt(item.target)])
        state = engine.start(rows, [rows.shape[1]], PROMPT + LIMIT, drafts=drafting is not None)
        found = generate(engine, state, prompts, LIMIT, drafting)
        seconds.append(time.perf_counter() - began)
        ids.append(found.ids[0])
        totals.passes, totals.guesses = totals.passes + found.passes, totals.guesses + found.guesses
        totals.kept += found.kept
    texts = [model.text(found) for found in ids]
    return Run(ids, texts, sum(seconds), totals.passes, totals.guesses, totals.kept, seconds)


def race(arms: Mapping[str, Callable[[Sequence[Item]], Run]], items: Sequence[Item], rounds: int) -> dict[str, Run]:
    """Every arm over all items, `rounds` times in turns, so that a busy moment hits all of them alike.

    An item's time is the least of its rounds.
    """
    found: dict[str, Run] = {}
    for _ in range(rounds):
        for name, arm in arms.items():
            run = arm(items)
            if name in found:
                run.by_item = [min(a, b) for a, b in zip(run.by_item, found[name].by_item, strict=True)]
                run.seconds = sum(run.by_item)
            found[name] = run
    return found


def bleu(items: Sequence[Item], texts: Sequence[str]) -> float | None:
    """SacreBLEU's corpus BLEU of the translations; None where there are none."""
    from esrt.evaluate.metrics import pooled_bleu

    found = [(text, i.reference, i.target) for i, text in zip(items, texts, strict=True) if i.source != i.target]
    return pooled_bleu(*zip(*found, strict=True)) if found else None


def cer(items: Sequence[Item], texts: Sequence[str]) -> float | None:
    """Character error rate of the transcripts, without case and punctuation; None where there are none."""
    import jiwer

    pairs = [
        (plain(item.reference), plain(text) or "-")
        for item, text in zip(items, texts, strict=True)
        if item.source == item.target
    ]
    pairs = [(said, heard) for said, heard in pairs if said]
    if not pairs:
        return None
    return float(jiwer.cer([said for said, _ in pairs], [heard for _, heard in pairs]))


def shown(value: float | None, digits: int = 1) -> str:
    """A number for a table, `-` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
