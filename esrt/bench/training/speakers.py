"""How clearly programs speak: what the encoder's own Whisper writes down of the same sentences by each."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from esrt.audio.samples import Samples
from esrt.bench.page import machine, table
from esrt.config import PRESETS, SAMPLE_RATE
from esrt.errors import UsageError
from esrt.evaluate.baselines.whisper import Heard, Whisper
from esrt.evaluate.metrics import error_rate
from esrt.languages import words
from esrt.train.manifest import read_manifest
from esrt.train.sources.synth import SPEAKERS

WORDS = (5, 12)
BATCH = 8


def run(manifest: Path, each: int) -> str:
    """The section: `each` of the manifest's sentences in every language, by every speaker that has the language."""
    whisper = Whisper(PRESETS["ESRT-270M"].encoder.weights)
    said: dict[str, set[str]] = {}
    for row in read_manifest(manifest):
        if WORDS[0] <= words(row.asr, row.src) <= WORDS[1]:
            said.setdefault(row.src, set()).add(row.asr)
    lines = []
    for language, known in sorted(said.items()):
        texts = random.Random(language).sample(sorted(known), min(each, len(known)))
        for name, speaker in SPEAKERS.items():
            try:
                speaker.voices(language)
            except UsageError:
                continue
            rng, started = random.Random(language), time.perf_counter()
            clips = [speaker.say(text, **speaker.random_voice(language, rng)) for text in texts]
            cost = (time.perf_counter() - started) / sum(len(clip) / SAMPLE_RATE for clip in clips)
            heard = _hear(whisper, clips, f"{language} by {name}")
            found = sum(one.source == language for one in heard) / len(heard)
            told = _hear(whisper, clips, f"{language} by {name}, told", language)
            errors = [error_rate([one.text for one in them], texts, language) or 0.0 for them in (heard, told)]
            wrong = [f"{rate:.0f}%" for rate in errors]
            lines.append([language, name, f"{len(texts)}", f"{found:.0%}", *wrong, f"{1000 * cost:.0f} ms"])
    head = ["language", "speaker", "sentences", "language found", "words wrong", "told the language", "a second takes"]
    return "\n\n".join(
        [
            f"Sentences of {WORDS[0]} to {WORDS[1]} words of {manifest.stem}, each by a voice drawn at random, as the "
            "program speaks it, and what Whisper makes of them. Words are compared without case and punctuation. A "
            "speaker that is not installed is left out.",
            table(head, lines),
            f"On {machine()}.",
        ]
    )


def _hear(whisper: Whisper, clips: Sequence[Samples], what: str, told: str | None = None) -> list[Heard]:
    parts = [clips[first : first + BATCH] for first in range(0, len(clips), BATCH)]
    return [
        one
        for part in tqdm(parts, desc=what, disable=None)
        for one in whisper.hear(part, "transcribe", [told] * len(part))
    ]
