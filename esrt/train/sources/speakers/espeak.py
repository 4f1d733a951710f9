"""espeak-ng through its own library (`espeakng-loader`): 100 languages, by rule, in 24 voices; GPL-3."""

from __future__ import annotations

import ctypes
import random
import sys
from functools import cache
from pathlib import Path

import espeakng_loader
import numpy as np

from esrt.audio.samples import Samples
from esrt.errors import UsageError
from esrt.languages import LANGUAGES
from esrt.train.sources.disturb import resample
from esrt.train.sources.speakers import Voice, no_voice

if sys.platform == "win32":
    from _ctypes import FreeLibrary as close_library
else:
    from _ctypes import dlclose as close_library

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
_SYNCHRONOUS, _UTF8, _RATE, _PITCH, _RANGE = 2, 1, 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


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
    # A fresh engine for each sentence (5 ms): it keeps the phase of its flutter in static variables, and with an old
    # one no sentence would sound the same twice.
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    chunks: list[np.ndarray] = []

    def collect(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
        if samples and count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _CALLBACK(collect)
    rate = library.espeak_Initialize(_SYNCHRONOUS, 200, str(Path(espeakng_loader.get_data_path()).parent).encode(), 0)
    try:
        library.espeak_SetSynthCallback(callback)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UsageError("no_voice", f"espeak-ng has no voice {voice!r}; `espeak-ng --voices` lists them.")
        for parameter, value in ((_RATE, speed), (_PITCH, pitch), (_RANGE, pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
    finally:
        library.espeak_Terminate()
        close_library(library._handle)
    if not chunks:
        return np.zeros(0, np.float32)
    return resample(np.concatenate(chunks).astype(np.float32) / np.float32(32768), rate)


def kana(text: str) -> str:
    """How Japanese is read: espeak-ng knows no kanji."""
    try:
        import pyopenjtalk
    except ModuleNotFoundError as error:
        raise UsageError(
            "no_kana", "Japanese is spoken from kana: type `pip install pyopenjtalk-plus`, or leave jpn out."
        ) from error
    return str(pyopenjtalk.g2p(text, kana=True))
