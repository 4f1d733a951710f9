"""Speech from text, by programs that speak, in many voices."""

from __future__ import annotations

import random
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlencode

from tqdm import tqdm

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE
from esrt.errors import UsageError
from esrt.languages import LANGUAGES
from esrt.train.manifest import SPOKEN_ON_THE_FLY, Row, rows_of
from esrt.train.sources.disturb import disturb
from esrt.train.sources.speakers import Speaker, Voice, espeak, festival, pico

SPEAKERS: dict[str, Speaker] = {"espeak-ng": espeak, "pico": pico, "festival": festival}
SHORTEST, LONGEST = SAMPLE_RATE // 3, 20 * SAMPLE_RATE


def recipe(text: str, seed: int, voice: Voice) -> str:
    """An `audio` for a manifest that stores no sound: what `load` needs for espeak-ng to say it and disturb it."""
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
    return espeak.say(text, voice, speed, pitch, pitch_range), seed


def rows(
    name: str,
    texts: Sequence[dict[str, str]],
    sources: Sequence[str],
    targets: Sequence[str],
    each: int | None,
    clips: Path | None,
    seed: int = 0,
    speaker: str = "espeak-ng",
) -> Iterator[Row]:
    """Speaks `each` sentences (None: all) of every language in `sources`, each by a voice of its own.

    One row per clip and language of `targets`. Sound goes below `clips`; with None, into recipes to be spoken when they
    are loaded. What takes under 1/3 s or over 20 s is left out. `speaker` is one of SPEAKERS.
    Raises UsageError: no_voice, no_kana, no_texts, not_installed, not_repeatable.
    """
    engine = SPEAKERS[speaker]
    if clips is None and engine is not espeak:
        raise UsageError("not_repeatable", f"{speaker} never sounds the same twice: it needs a folder for its clips.")
    for language, known in by_language(texts, sources, engine).items():
        rng = random.Random(f"{seed}/{language}")
        count = len(known) if each is None else each
        chosen = known * (count // len(known)) + rng.sample(known, count % len(known))
        for index, entry in enumerate(tqdm(chosen, desc=f"speaking {language}", unit="clip", disable=None)):
            key, transcript = f"{name}-{language}-{index:05d}", entry[language]
            disturbance, voice = rng.getrandbits(32), engine.random_voice(language, rng)
            spoken = disturb(engine.say(transcript, **voice), random.Random(disturbance))
            if not SHORTEST < len(spoken) < LONGEST:
                continue
            if clips:
                audio = str(clips / f"{key}.wav")
                write_wav(clips / f"{key}.wav", spoken)
            else:
                audio = recipe(transcript, disturbance, voice)
            yield from rows_of(key, audio, language, entry, targets)


def by_language(
    texts: Sequence[dict[str, str]], sources: Sequence[str], engine: Speaker
) -> dict[str, list[dict[str, str]]]:
    """The texts that each language of `sources` has; all are looked at, before hours of speaking.

    Raises UsageError: no_texts, and as `engine.voices` does.
    """
    found = {language: [entry for entry in texts if language in entry] for language in sources}
    for language, known in found.items():
        engine.voices(language)
        if not known:
            raise UsageError("no_texts", f"None of the texts is in {LANGUAGES[language].name} ({language}).")
    return found


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
