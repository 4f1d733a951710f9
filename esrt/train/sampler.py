"""Which clips make up batch number n: a function of the seed and n alone, so a run resumes at the same next batch."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from esrt.languages import LANGUAGES
from esrt.train.manifest import Row


@dataclass(frozen=True)
class Clip:
    """One recording with all that is known of it. `translations` is language -> text, `captions` language -> texts."""

    audio: str
    source: str
    transcript: str
    translations: tuple[tuple[str, str], ...]
    frames: int
    captions: tuple[tuple[str, tuple[str, ...]], ...] = ()


def capped(rows: Iterable[Row], cap: int, seed: int) -> list[Row]:
    """At most `cap` rows of each (src, tgt), drawn at random; the order stays."""
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        pairs.setdefault((row.src, row.tgt), []).append(row)
    kept = []
    for pair, members in pairs.items():
        if len(members) > cap:
            chosen = random.Random(f"{seed}/{pair}").sample(range(len(members)), cap)
            members = [members[index] for index in sorted(chosen)]
        kept += members
    return kept


def clips(rows: Iterable[Row], frames: Mapping[str, int]) -> list[Clip]:
    """Joins a manifest's rows by recording, shortest first; a row without `tgt` adds only its transcript."""
    first: dict[str, Row] = {}
    targets: dict[str, list[tuple[str, str]]] = {}
    captions: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        first.setdefault(row.audio, row)
        if row.caption:
            captions.setdefault(row.audio, {}).setdefault(row.tgt, []).extend(row.caption)
        if row.s2tt:
            targets.setdefault(row.audio, []).append((row.tgt, row.s2tt))
    said = {audio: tuple((code, tuple(texts)) for code, texts in by.items()) for audio, by in captions.items()}
    found = [
        Clip(audio, row.src, row.asr, tuple(targets.get(audio, ())), frames[audio], said.get(audio, ()))
        for audio, row in first.items()
        if frames[audio]
    ]
    return sorted(found, key=lambda clip: clip.frames)


Buckets = dict[str, dict[str, list[Clip]]]  # source -> target -> clips, shortest first


class Sampler:
    """Draws a manifest by its weight; then for each clip a source, a target and, of those, a clip of like length.

    Languages are drawn with weight clips^(1 / temperature), times the weight of their tier: 1 draws as the data lies,
    infinity draws evenly. The clips of a language without any translation are one more target, "".
    """

    def __init__(
        self, sets: Mapping[str, Sequence[Clip]], weights: Mapping[str, float], seed: int,
        temperature: float = 5.0, tiers: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self._seed, self._weights = seed, weights
        self._temperature, self._tiers = temperature, tiers or {}
        self.clips = sum(map(len, sets.values()))
        self._buckets: dict[str, Buckets] = {}
        self._sources: dict[str, dict[str, float]] = {}
        self._targets: dict[str, dict[str, dict[str, float]]] = {}
        for name, members in sets.items():
            buckets: Buckets = {}
            for clip in members:
                for target in dict(clip.translations) or ("",):
                    buckets.setdefault(clip.source, {}).setdefault(target, []).append(clip)
            self._buckets[name] = buckets
            self._sources[name] = self._shares(Counter(clip.source for clip in members))
            self._targets[name] = {
                source: self._shares({target: len(pair) for target, pair in pairs.items()})
                for source, pairs in buckets.items()
            }

    def _shares(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Language -> weight of being drawn."""

        def weight(code: str, count: int) -> float:
            tier = LANGUAGES[code].tier if code else None
            return float(count ** (1 / self._temperature) * self._tiers.get(tier or "", 1.0))

        return {code: weight(code, count) for code, count in counts.items()}

    def batch(
        self, stage: str, step: int, size: int, weights: Mapping[str, float] | None = None
    ) -> tuple[list[Clip], random.Random]:
        """The clips of one batch, and the generator for whatever else the batch draws.

        The translations of a clip stand in the order in which they were drawn. `weights` of manifests take the place
        of the sampler's own.
        """
        rng = random.Random(f"{self._seed}/{stage}/{step}")
        weights = weights or self._weights
        (name,) = rng.choices(list(weights), list(weights.values()))
        # One place on the sorted lists of all languages: clips of like length, little padding.
        place, spread = rng.random(), 0.04
        sources, chosen = self._sources[name], []
        for source in rng.choices(list(sources), list(sources.values()), k=size):
            shares = self._targets[name][source]
            (target,) = rng.choices(list(shares), list(shares.values()))
            pair = self._buckets[name][source][target]
            where = min(max(place + rng.uniform(-spread, spread), 0.0), 1.0)
            clip = pair[min(int(where * len(pair)), len(pair) - 1)]
            # A larger weight makes a larger key more likely: drawing without putting back (Efraimidis, Spirakis 2006).
            keys = {code: (code == target) + rng.random() ** (1 / shares[code]) for code, _ in clip.translations}
            drawn = sorted(clip.translations, key=lambda translation: -keys[translation[0]])
            chosen.append(replace(clip, translations=tuple(drawn)))
        return chosen, rng
