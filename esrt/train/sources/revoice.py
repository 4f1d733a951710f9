"""Recordings once more, as if other people had spoken them elsewhere: few voices are soon known by heart.

Another throat (resonances), another pitch, another pace, and whatever `disturb` does to speech.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from esrt.config import WINDOW_SAMPLES
from esrt.errors import AudioError
from esrt.train.manifest import Row
from esrt.train.sound import sound
from esrt.train.sources.disturb import disturb, recast
from esrt.train.sources.synth import SHORTEST, write_wav

THROATS = (0.8, 1.25)  # of the speaker's own resonances
PITCHES = (0.75, 1.33)  # beside the throat: people of one size speak at many pitches
PACES = (0.87, 1.15)


def rows(name: str, known: Sequence[Row], copies: int, clips: Path, seed: int = 0) -> Iterator[Row]:
    """`copies` of every recording of a manifest, each in another voice, below `clips`; the texts are the recording's.

    What is no sound, or takes under 1/3 s or over 30 s afterwards, is left out, and captions, which tell of the voice.
    """
    by_audio: dict[str, list[Row]] = {}
    for row in known:
        if not row.captioned:
            by_audio.setdefault(row.audio, []).append(replace(row, caption=()))
    for index, (audio, members) in enumerate(tqdm(by_audio.items(), desc="revoicing", unit="clip", disable=None)):
        try:
            spoken = sound(audio)
        except AudioError:
            continue
        if len(spoken) < SHORTEST:
            continue
        for copy in range(copies):
            rng = random.Random(f"{seed}/{index}/{copy}")
            throat, beside = rng.uniform(*THROATS), rng.uniform(*PITCHES)
            other = disturb(recast(spoken, throat, beside, rng.uniform(*PACES)), rng)
            if not SHORTEST < len(other) <= WINDOW_SAMPLES:
                continue
            path = clips / f"{index:05d}-{copy}.wav"
            write_wav(path, other)
            yield from (replace(row, id=f"{name}-{row.id}-{copy}", audio=str(path)) for row in members)
