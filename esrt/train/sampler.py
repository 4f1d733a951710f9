"""Which clips make up batch number n: a function of the seed and n alone, so a run resumes at the same next batch."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from esrt.train.manifest import Row


@dataclass(frozen=True)
class Clip:
    """One recording with all that is known of it. `translations` is language -> text."""

    audio: str
    source: str
    transcript: str
    translations: tuple[tuple[str, str], ...]
    frames: int


def clips(rows: Sequence[Row], frames: Mapping[str, int]) -> list[Clip]:
    """Joins a manifest's rows by recording, shortest first; a row without `tgt` adds only its transcript."""
    first: dict[str, Row] = {}
    targets: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        first.setdefault(row.audio, row)
        if row.tgt:
            targets.setdefault(row.audio, []).append((row.tgt, row.s2tt))
    found = [
        Clip(audio, row.src, row.asr, tuple(targets.get(audio, ())), frames[audio])
        for audio, row in first.items()
        if frames[audio]
    ]
    return sorted(found, key=lambda clip: clip.frames)


class Sampler:
    """Draws a manifest by its weight, then for each clip of the batch a language evenly, then a clip of like length."""

    def __init__(self, sets: Mapping[str, Sequence[Clip]], weights: Mapping[str, float], seed: int) -> None:
        self._seed = seed
        self._weights = weights
        self._pools: dict[str, list[list[Clip]]] = {}
        for name, members in sets.items():
            by_language: dict[str, list[Clip]] = {}
            for clip in members:
                by_language.setdefault(clip.source, []).append(clip)
            self._pools[name] = list(by_language.values())

    def batch(self, stage: str, step: int, size: int) -> tuple[list[Clip], random.Random]:
        """The clips of one batch, and the generator for whatever else the batch draws (tasks, targets, dropout)."""
        rng = random.Random(f"{self._seed}/{stage}/{step}")
        (name,) = rng.choices(list(self._weights), list(self._weights.values()))
        # One place on the sorted lists of all languages: clips of like length, little padding.
        place, spread = rng.random(), 0.04
        chosen = []
        for pool in rng.choices(self._pools[name], k=size):
            where = min(max(place + rng.uniform(-spread, spread), 0.0), 1.0)
            chosen.append(pool[min(int(where * len(pool)), len(pool) - 1)])
        return chosen, rng
