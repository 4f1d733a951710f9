"""Festival with Debian's voices, cut from recordings of people, in rus ces ita. Licences: GPL and BSD-like."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import wave
from functools import cache
from pathlib import Path

import numpy as np

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE
from esrt.errors import UsageError
from esrt.train.sources.disturb import recast
from esrt.train.sources.speakers import Voice, no_voice

_VOICES = {
    "ces": ("czech_dita", "czech_krb", "czech_machac", "czech_ph"),
    "ita": ("lp_diphone", "pc_diphone"),
    "rus": ("msu_ru_nsh_clunits",),
}
_PACKAGES = {
    "ces": "festival festvox-czech-dita festvox-czech-krb festvox-czech-machac festvox-czech-ph",
    "ita": "festival festvox-italp16k festvox-itapc16k",
    "rus": "festival festvox-ru",
}
_ENCODINGS = {"ces": "iso8859-2", "ita": "iso8859-1", "rus": "utf-8"}
# Festival's own marks, and what would end a string of its language.
_PLAIN = str.maketrans({"…": ".", "—": "-", "–": "-", "’": "'", **dict.fromkeys('„“”«»"\\')})


def voices(language: str) -> tuple[str, ...]:
    """The names of Festival's voices for a language, as far as they are installed.

    Raises UsageError: no_voice, not_installed.
    """
    if language not in _VOICES:
        raise no_voice("Festival", language)
    program = shutil.which("festival")
    there = Path(program).resolve().parents[1] / "share/festival/voices" if program else Path()
    if found := tuple(voice for voice in _VOICES[language] if program and any(there.glob(f"*/{voice}"))):
        return found
    raise UsageError(
        "not_installed", f"Festival or its voice is not installed: type `apt install {_PACKAGES[language]}`."
    )


def random_voice(language: str, rng: random.Random) -> Voice:
    """Keyword arguments of `say`, drawn at random."""
    return {
        "voice": rng.choice(voices(language)),
        "speed": rng.randint(83, 125),
        "pitch": rng.randint(80, 125),
        "throat": rng.randint(85, 120),
    }


def say(text: str, voice: str, speed: int, pitch: int, throat: int) -> Samples:
    """float32 [n] at 16 kHz, a little different each time; n = 0 where there is nothing to say.

    `speed` (50 to 200), `pitch` (70 to 140) and `throat` (80 to 125: all frequencies) are percent of the voice's own.
    One call at a time in a process. Raises UsageError: no_voice, not_installed.
    """
    language = next((language for language, known in _VOICES.items() if voice in known), None)
    if language is None or voice not in voices(language):
        raise UsageError("no_voice", f"Festival has no voice {voice!r} here.")
    said = text.translate(_PLAIN).encode(_ENCODINGS[language], "ignore").decode(_ENCODINGS[language])
    if not any(map(str.isalnum, said)):  # Festival ends with a fault
        return np.zeros(0, np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "said.wav")
        _run(
            f"(voice_{voice}) (Parameter.set 'Duration_Stretch {100 / speed:.4f})"
            f'(set! said (utt.synth (Utterance Text "{said}")))'
            f'(utt.wave.resample said {SAMPLE_RATE}) (utt.save.wave said "{path}" \'riff)',
            _ENCODINGS[language],
        )
        if not path.exists():
            return np.zeros(0, np.float32)
        with wave.open(str(path)) as file:
            spoken = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return recast(spoken.astype(np.float32) / np.float32(32768), throat / 100, pitch / 100, 1.0)


@cache
def _festival() -> subprocess.Popen[bytes]:
    """One program for all sentences: it takes up to half a second to load a voice."""
    command = [shutil.which("festival") or "festival", "--pipe"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _run(commands: str, encoding: str) -> None:
    """Has Festival do it, and waits; what it cannot do, it leaves out. One that ended is started anew the next time."""
    festival = _festival()
    assert festival.stdin and festival.stdout
    try:
        festival.stdin.write(
            f'(unwind-protect (begin {commands}) nil) (format t "done\n") (fflush nil)\n'.encode(encoding)
        )
        festival.stdin.flush()
        ended = all(line != b"done\n" for line in festival.stdout)
    except BrokenPipeError:
        ended = True
    if ended:
        festival.communicate()
        _festival.cache_clear()
