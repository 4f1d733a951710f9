"""espeak-ng through its own library (`espeakng-loader`): 100 languages, by rule, in 24 voices; GPL-3."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import espeakng_loader
import numpy as np

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE
from esrt.errors import UsageError
from esrt.languages import LANGUAGES
from esrt.train.sources.disturb import resample
from esrt.train.sources.speakers import Voice, no_voice

# Where a language has several accents, or espeak-ng another name for it than its BCP 47 tag.
_ACCENTS = {
    "cat": ("ca", "ca-ba", "ca-nw", "ca-va"), "cmn": ("cmn",), "eng": ("en", "en-us", "en-gb-scotland", "en-us-nyc"),
    "fra": ("fr", "fr-be", "fr-ch"), "por": ("pt", "pt-br"), "spa": ("es", "es-419"),
    "vie": ("vi", "vi-vn-x-central", "vi-vn-x-south"),
}  # fmt: skip
_VARIANTS = (
    "", "+f1", "+f2", "+f3", "+f4", "+f5", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8",
    "+Andy", "+Annie", "+belinda", "+Denis", "+Gene", "+Jacky", "+Lee", "+linda", "+steph", "+UniRobot",
)  # fmt: skip
_ENGINE = Path(__file__).with_name("espeak_engine.py")


@cache
def voices(language: str) -> tuple[str, ...]:
    """The names of espeak-ng's voices for a language. Raises UsageError: no_voice, no_kana."""
    known = {path.name.lower() for path in (Path(espeakng_loader.get_data_path()) / "lang").rglob("*")}
    found = _ACCENTS.get(language, (LANGUAGES[language].bcp47,))
    if found[0] not in known:
        raise no_voice("espeak-ng", language)
    if language == "jpn":
        kana("")
    return found


def random_voice(language: str, rng: random.Random) -> Voice:
    """Keyword arguments of `say` for one voice drawn at random."""
    return {
        "voice": rng.choice(voices(language)) + rng.choice(_VARIANTS),
        "speed": rng.randint(125, 205),
        "pitch": rng.randint(25, 75),
        "pitch_range": rng.randint(30, 70),
    }


def say(text: str, voice: str, speed: int, pitch: int, pitch_range: int) -> Samples:
    """float32 [n] at 16 kHz, the same for the same arguments; n = 0 where there is nothing to say.

    `speed` in words a minute (80 to 450), `pitch` and `pitch_range` 0 to 100. One call at a time in a process. Raises
    UsageError: no_voice; no_kana for Japanese where pyopenjtalk is missing.
    """
    if voice.split("+")[0] == "ja":
        text = kana(text)
    wanted = {"text": text, "voice": voice, "speed": speed, "pitch": pitch, "pitch_range": pitch_range}
    request = json.dumps(wanted).encode() + b"\n"
    # What ends the engine once, a new one says; what ends both is left out.
    rate, spoken = _ask(request) or _ask(request) or (SAMPLE_RATE, b"")
    if not rate:
        raise UsageError("no_voice", f"espeak-ng has no voice {voice!r}; `espeak-ng --voices` lists them.")
    if not spoken:
        return np.zeros(0, np.float32)
    return resample(np.frombuffer(spoken, "<i2").astype(np.float32) / np.float32(32768), rate)


@cache
def _engine(process: int) -> subprocess.Popen[bytes]:
    """One program for all sentences of a process; a fork needs its own."""
    command = [sys.executable, str(_ENGINE)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _ask(request: bytes) -> tuple[int, bytes] | None:
    """The engine's answer, a rate in Hz and int16 samples; None where it ended: the next time, another is started."""
    engine = _engine(os.getpid())
    assert engine.stdin and engine.stdout
    with suppress(BrokenPipeError, ValueError):
        engine.stdin.write(request)
        engine.stdin.flush()
        rate, count = (int(number) for number in engine.stdout.readline().split())
        spoken = engine.stdout.read(2 * count)
        if len(spoken) == 2 * count:
            return rate, spoken
    engine.communicate()
    _engine.cache_clear()
    return None


def kana(text: str) -> str:
    """How Japanese is read: espeak-ng knows no kanji."""
    try:
        import pyopenjtalk
    except ModuleNotFoundError as error:
        raise UsageError(
            "no_kana", "Japanese is spoken from kana: type `pip install pyopenjtalk-plus`, or leave jpn out."
        ) from error
    return str(pyopenjtalk.g2p(text, kana=True))
