"""SVOX Pico (`py-nanotts`): one clear voice a language, in eng spa fra ita deu; Apache-2.0."""

from __future__ import annotations

import random
from importlib.util import find_spec

import numpy as np

from esrt.audio.samples import Samples
from esrt.errors import UsageError
from esrt.train.sources.disturb import revoice
from esrt.train.sources.speakers import Voice, no_voice

_VOICES = {
    "deu": ("de-DE",), "eng": ("en-GB", "en-US"), "fra": ("fr-FR",), "ita": ("it-IT",), "spa": ("es-ES",),
}  # fmt: skip


def voices(language: str) -> tuple[str, ...]:
    """The names of Pico's voices for a language. Raises UsageError: no_voice, not_installed."""
    if language not in _VOICES:
        raise no_voice("Pico", language)
    if find_spec("py_nanotts") is None:
        raise UsageError("not_installed", "Pico is not installed: type `pip install py-nanotts==0.1.1`.")
    return _VOICES[language]


def random_voice(language: str, rng: random.Random) -> Voice:
    """Keyword arguments of `say`, drawn at random: another throat makes another person of the one voice."""
    return {
        "voice": rng.choice(voices(language)),
        "speed": rng.randint(85, 130),
        "pitch": rng.randint(85, 125),
        "throat": rng.randint(80, 115),
    }


def say(text: str, voice: str, speed: int, pitch: int, throat: int) -> Samples:
    """float32 [n] at 16 kHz, its pauses a little different each time; n = 0 where there is nothing to say.

    `speed` (20 to 500), `pitch` (50 to 200) and `throat` (80 to 125: all frequencies) are percent of the voice's own.
    Raises UsageError: no_voice, not_installed.
    """
    if not any(voice in voices(language) for language in _VOICES):
        raise UsageError("no_voice", f"Pico has no voice {voice!r}.")
    if not any(map(str.isalnum, text)):
        return np.zeros(0, np.float32)
    from py_nanotts import NanoTTS

    spoken = np.frombuffer(NanoTTS().speak(text, voice=voice, speed=speed / 100, pitch=pitch / 100), "<i2")
    return revoice(spoken.astype(np.float32) / np.float32(32768), throat / 100, 1.0)
