"""Whose voices are attacked: clips with what an attacker would like to know of them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from esrt.audio.io import load
from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE, WINDOW_SAMPLES
from esrt.errors import UsageError
from esrt.languages import words
from esrt.train.manifest import SPOKEN_ON_THE_FLY, Row, held_out, json_lines, read_manifest
from esrt.train.sources import disturb, synth
from esrt.train.sources.speakers import Voice, espeak

SYNTHETIC = "synthetic"
CHANNELS = ("close", "telephone", "room")
WORDS, MOST_WORDS = 4, 10  # of a sentence that is spoken
SHORTEST, LONGEST = SAMPLE_RATE // 2, 12 * SAMPLE_RATE
_FEMALE = ("+f1", "+f2", "+f3", "+f4", "+f5", "+Annie", "+belinda", "+linda", "+steph")
_MALE = ("", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8", "+Andy", "+Denis", "+Gene", "+Lee")
# Voices of the corpora that `esrt data` reads: pattern of a row's id -> speaker and sex.
_KNOWN = (
    (r"asterisk-(eng|spa)-", "Allison", "f"),
    (r"asterisk-fra-", "June", "f"),
    (r"asterisk-ita-", "Carlo", "m"),
    (r"asterisk-rus-", "Ivrvoice", "f"),
    (r"fillets-(ces|nld)-.*-m-", "small fish", "f"),
    (r"fillets-(ces|nld)-.*-v-", "big fish", "m"),
)


@dataclass(frozen=True)
class Clip:
    """One sound. `corpus` is SYNTHETIC or the manifest it is from; `scored` says whether attackers are tested on it.

    "" stands for what is not known. `level` (dB that the clip is turned down) and `channel` are known where they were
    set here.
    """

    audio: str
    corpus: str
    language: str
    transcript: str
    speaker: str
    sex: str
    scored: bool
    level: float | None = None
    channel: str = ""

    @property
    def voice(self) -> str:
        """Its speaker; where that is not known, all of a corpus in a language are taken for one voice."""
        return self.speaker or f"{self.corpus} {self.language}"

    def samples(self) -> Samples:
        """float32 [n], 16 kHz; the same each time. Raises AudioError, UsageError."""
        if self.corpus != SYNTHETIC:
            return load(self.audio)[:WINDOW_SAMPLES]
        spoken, seed = synth.undisturbed(self.audio)
        rng = np.random.default_rng(seed)
        if not len(spoken):
            return spoken
        if self.channel == "telephone":
            spoken = disturb.telephone(spoken, 3400)
        elif self.channel == "room":
            spoken = disturb.reverberate(spoken, 0.4, -4, rng)
        spoken = spoken / np.float32(np.abs(spoken).max()) * np.float32(10 ** (-(self.level or 0.0) / 20))
        noise = rng.standard_normal(len(spoken), dtype=np.float32)
        found: Samples = np.clip(spoken + np.float32(0.0005) * noise, -1, 1)
        return found


def real(data: Path, names: Sequence[str], each: int, scored: bool) -> list[Clip]:
    """At most `each` clips of a speaker and language from each manifest `data`/<name>.jsonl.

    A row's own fields `speaker` and `sex` count first; then what is known of the corpora of `esrt data`. Whose speaker
    is unknown is never scored, and trained on as one nameless voice of the manifest's. What `synthetic` speaks for the
    score is never trained on. Raises UsageError.
    """
    found: dict[tuple[str, str], list[Clip]] = {}
    for name in names:
        path = data / f"{name}.jsonl"
        rows = {row.audio: (row, entry) for row, (_, entry) in zip(read_manifest(path), json_lines(path), strict=True)}
        for row, entry in rows.values():
            voice = _voice(row, entry)
            if voice is None or row.audio.startswith(SPOKEN_ON_THE_FLY) or (scored and not voice[0]):
                continue
            if not scored and held_out(row.asr):
                continue
            clip = Clip(row.audio, name, row.src, row.asr, *voice, scored)
            found.setdefault((voice[0] or name, row.src), []).append(clip)
    rng = random.Random(0)
    return [clip for group in found.values() for clip in rng.sample(group, min(each, len(group)))]


def _voice(row: Row, entry: dict[str, Any]) -> tuple[str, str] | None:
    """Speaker and sex, "" for what nobody knows; None where it may be one of the known voices, and nobody knows."""
    if isinstance(entry.get("speaker"), str) and entry["speaker"]:
        return entry["speaker"], entry["sex"] if entry.get("sex") in ("f", "m") else ""
    corpus, _, rest = row.id.partition("-")
    for pattern, name, sex in _KNOWN:
        if re.match(pattern, row.id):
            return f"{corpus} {name}" if corpus == "asterisk" else f"{corpus} {rest[:3]} {name}", sex
    return None if corpus in ("asterisk", "fillets") else ("", "")


def synthetic(rows: Iterable[Row], speakers: int, scored: int, each: int, seed: int = 0) -> list[Clip]:
    """Many voices of espeak-ng: of each language `speakers` that attackers train on, and `scored` others.

    A speaker is accent, variant, pitch, melody and pace; every clip has a level and a channel of its own. The sentences
    are those of the rows; a sentence of the score is never trained on. Raises UsageError `no_texts`.
    """
    texts: dict[str, set[str]] = {}
    for row in rows:
        if WORDS <= words(row.asr, row.src) <= MOST_WORDS:
            texts.setdefault(row.src, set()).add(row.asr)
    found = []
    for language, known in sorted(texts.items()):
        rng = random.Random(f"{seed}/{language}")
        parts = [sorted(text for text in known if held_out(text) is part) for part in (False, True)]
        if min(map(len, parts)) < 2:
            raise UsageError(
                "no_texts", f"There are too few sentences of {WORDS} to {MOST_WORDS} words in {language} to speak."
            )
        for number in range(speakers + scored):
            tested = number >= speakers
            sex = "fm"[number % 2]
            voice: Voice = {
                "voice": rng.choice(espeak.voices(language)) + rng.choice(_FEMALE if sex == "f" else _MALE),
                "speed": rng.randint(140, 190),
                "pitch": rng.randint(20, 80),
                "pitch_range": rng.randint(30, 70),
            }
            for text in rng.sample(parts[tested], min(each, len(parts[tested]))):
                audio = synth.recipe(text, rng.getrandbits(32), voice)
                level, channel = rng.uniform(0, 30), rng.choice(CHANNELS)
                name = f"{language} {number}"
                found.append(Clip(audio, SYNTHETIC, language, text, name, sex, tested, level, channel))
    return found


def fits(samples: Samples) -> bool:
    """Whether a clip is neither too short to say anything of a voice, nor longer than what is attacked here."""
    return SHORTEST <= len(samples) <= LONGEST and bool(np.abs(samples).max() > 1e-4)
