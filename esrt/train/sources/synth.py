"""Speech from text: espeak-ng through its own library (`espeakng-loader`), with many voices."""

from __future__ import annotations

import ctypes
import random
import sys
import wave
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import espeakng_loader
import numpy as np
from tqdm import tqdm

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE
from esrt.errors import UsageError
from esrt.languages import LANGUAGES
from esrt.train.manifest import SPOKEN_ON_THE_FLY, Row
from esrt.train.sources.disturb import disturb, resample

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
SHORTEST, LONGEST = SAMPLE_RATE // 3, 20 * SAMPLE_RATE


@cache
def voices(language: str) -> tuple[str, ...]:
    """The names of espeak-ng's voices for a language. Raises UsageError no_voice where it has none."""
    known = {path.name.lower() for path in (Path(espeakng_loader.get_data_path()) / "lang").rglob("*")}
    found = _ACCENTS.get(language, (LANGUAGES[language].bcp47,))
    if found[0] not in known:
        raise UsageError(
            "no_voice",
            f"espeak-ng cannot speak {LANGUAGES[language].name} ({language}): it can be a target, not a source.",
        )
    return found


def random_voice(language: str, rng: random.Random) -> dict[str, str | int]:
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
        text = _kana(text)
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


def _kana(text: str) -> str:
    """How Japanese is read: espeak-ng knows no kanji."""
    try:
        import pyopenjtalk
    except ModuleNotFoundError as error:
        raise UsageError(
            "no_kana", "Japanese is spoken from kana: type `pip install pyopenjtalk-plus`, or leave jpn out."
        ) from error
    return str(pyopenjtalk.g2p(text, kana=True))


def recipe(text: str, seed: int, voice: dict[str, str | int]) -> str:
    """An `audio` for a manifest that stores no sound: what `load` needs to speak and disturb `text`."""
    return f"{SPOKEN_ON_THE_FLY}{urlencode({**voice, 'seed': seed, 'text': text})}"


def load(audio: str) -> Samples:
    """Speaks a recipe: float32 [n] at 16 kHz, the same for the same recipe. Raises UsageError bad_recipe, no_voice."""
    spoken, seed = undisturbed(audio)
    return disturb(spoken, random.Random(seed))


def undisturbed(audio: str) -> tuple[Samples, int]:
    """As `load`, before the sound goes through anything, and the recipe's seed."""
    try:
        fields = {name: values[0] for name, values in parse_qs(audio.removeprefix(SPOKEN_ON_THE_FLY)).items()}
        speed, pitch, pitch_range, seed = (int(fields[name]) for name in ("speed", "pitch", "pitch_range", "seed"))
        text, voice = fields["text"], fields["voice"]
    except (KeyError, ValueError) as error:
        raise UsageError("bad_recipe", f"{audio[:80]!r} is not a recipe for speech: {error}.") from error
    return say(text, voice, speed, pitch, pitch_range), seed


def rows(
    name: str,
    texts: Sequence[dict[str, str]],
    sources: Sequence[str],
    targets: Sequence[str],
    each: int | None,
    clips: Path | None,
    seed: int = 0,
) -> Iterator[Row]:
    """Speaks `each` sentences (None: all) of every language in `sources`, each by a voice of its own.

    One row per clip and language of `targets`. Sound goes below `clips`; with None, into recipes to be spoken when they
    are loaded. What takes under 1/3 s or over 20 s is left out. Raises UsageError: no_voice, no_kana, no_texts.
    """
    by_language = {language: [entry for entry in texts if language in entry] for language in sources}
    # All are looked at first: what is missing shows before hours of speaking.
    for language, known in by_language.items():
        voices(language)
        if not known:
            raise UsageError("no_texts", f"None of the texts is in {LANGUAGES[language].name} ({language}).")
        if language == "jpn":
            _kana("")
    for language, known in by_language.items():
        rng = random.Random(f"{seed}/{language}")
        count = len(known) if each is None else each
        chosen = known * (count // len(known)) + rng.sample(known, count % len(known))
        for index, entry in enumerate(tqdm(chosen, desc=f"speaking {language}", unit="clip", disable=None)):
            key, transcript = f"{name}-{language}-{index:05d}", entry[language]
            audio = recipe(transcript, rng.getrandbits(32), random_voice(language, rng))
            spoken = load(audio)
            if not SHORTEST < len(spoken) < LONGEST:
                continue
            if clips:
                audio = str(clips / f"{key}.wav")
                write_wav(clips / f"{key}.wav", spoken)
            yield Row(key, audio, language, "", transcript, "")
            for target in targets:
                if target != language and target in entry:
                    yield Row(key, audio, language, target, transcript, entry[target])


def write_wav(path: Path, samples: Samples) -> None:
    """float32 [n] in [-1, 1] -> 16-bit mono WAV at 16 kHz, beside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with wave.open(str(beside), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    beside.replace(path)
