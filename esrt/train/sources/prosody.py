"""Prosody captions: sentences spoken by espeak-ng with rate, pitch, range and loudness set, captioned by what was set.

No corpus of emotions may be passed on, so the way of a caption through training, drafting and scoring is tried on this.
It is about how something is said, and about nothing that anybody felt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from esrt.audio.samples import Samples
from esrt.train.manifest import Row
from esrt.train.sources import synth
from esrt.train.sources.speakers import espeak

RATE = {"slowly": (95, 120), "at an ordinary pace": (155, 180), "quickly": (240, 290)}  # words a minute
PITCH = {"low": (10, 25), "medium": (45, 55), "high": (80, 95)}  # of espeak-ng, 0 to 100
RANGE = {"monotonous": (5, 15), "natural": (45, 55), "lively": (85, 100)}  # of espeak-ng, 0 to 100
LOUDNESS = {"quietly": (0.02, 0.04), "at an ordinary loudness": (0.2, 0.3), "loudly": (0.8, 0.95)}  # the peak
NOISE = 0.002
"""Deviation of the noise beneath: the encoder hears no level, only how far speech stands above what is around it."""
TEMPLATES = (
    "A {pitch} voice speaks {rate} and {loudness}, in a {range} way.",
    "Somebody with a {pitch} voice talks {rate}, {loudness}; it sounds {range}.",
    "The speaker talks {rate} in a {pitch} and {range} voice, {loudness}.",
    "Spoken {loudness} and {rate}; the voice is {pitch}, the melody {range}.",
)


def captions(rate: str, pitch: str, pitch_range: str, loudness: str) -> tuple[str, ...]:
    """All that may be said of it in English: one caption a template."""
    words = {"rate": rate, "pitch": pitch, "range": pitch_range, "loudness": loudness}
    return tuple(template.format(**words) for template in TEMPLATES)


def say(text: str, voice: str, manner: tuple[str, str, str, str], rng: random.Random) -> Samples:
    """Speaks in a manner (keys of RATE, PITCH, RANGE, LOUDNESS): float32 [n] at 16 kHz; n = 0 where nothing is said."""
    rate, pitch, pitch_range, loudness = manner
    spoken = espeak.say(
        text, voice, rng.randint(*RATE[rate]), rng.randint(*PITCH[pitch]), rng.randint(*RANGE[pitch_range])
    )
    if not len(spoken):
        return spoken
    level = rng.uniform(*LOUDNESS[loudness]) / max(1e-6, float(np.abs(spoken).max()))
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(spoken), dtype=np.float32)
    found: Samples = np.clip(spoken * np.float32(level) + np.float32(NOISE) * noise, -1, 1)
    return found


def rows(
    name: str, texts: Sequence[dict[str, str]], sources: Sequence[str], each: int, clips: Path, seed: int = 0
) -> Iterator[Row]:
    """Speaks `each` sentences of every language in `sources`, each in a manner drawn evenly; sound goes below `clips`.

    Raises UsageError: no_voice, no_texts.
    """
    for language, known in synth.by_language(texts, sources, espeak).items():
        rng, accents = random.Random(f"{seed}/{language}"), espeak.voices(language)
        for index in tqdm(range(each), desc=f"speaking {language}", unit="clip", disable=None):
            manner = tuple(rng.choice(list(choice)) for choice in (RATE, PITCH, RANGE, LOUDNESS))
            rate, pitch, pitch_range, loudness = manner
            text = rng.choice(known)[language]
            spoken = say(text, rng.choice(accents), (rate, pitch, pitch_range, loudness), rng)
            if not synth.SHORTEST < len(spoken) < synth.LONGEST:
                continue
            key = f"{name}-{language}-{index:05d}"
            synth.write_wav(clips / f"{key}.wav", spoken)
            said = captions(rate, pitch, pitch_range, loudness)
            yield Row(key, str(clips / f"{key}.wav"), language, "eng", text, "", said)
