"""Builds the default recipe's manifests from unpacked packages: human speech, and parallel text spoken by espeak-ng."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from esrt.config import SAMPLE_RATE
from esrt.train.manifest import Row, held_out, write_manifest
from esrt.train.sources import asterisk, catalogues, fillets, synth

SPOKEN = ("eng", "spa", "fra", "ita", "rus", "ces", "nld")
TARGETS = (*SPOKEN, "deu")


def read_transcripts(path: Path) -> dict[str, dict[str, str]]:
    """JSONL of {language, id, text} -> language -> prompt id -> text."""
    found: dict[str, dict[str, str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        found.setdefault(entry["language"], {})[entry["id"]] = entry["text"]
    return found


def spoken_rows(name: str, texts: list[dict[str, str]], each: int, folder: Path, seed: int) -> Iterator[Row]:
    """Speaks `each` sentences in every language of SPOKEN with random voices, and yields one row per translation."""
    speaker, rng = synth.Speaker(), random.Random(seed)
    for language in SPOKEN:
        known = [entry for entry in texts if language in entry]
        chosen = rng.choices(known, k=each) if known else []
        for index, entry in enumerate(tqdm(chosen, desc=f"speaking {language}", disable=None)):
            key = f"{name}-{language}-{index:05d}"
            path = folder / f"{key}.wav"
            spoken = speaker.say(entry[language], **synth.random_voice(language, rng))  # type: ignore[arg-type]
            if not SAMPLE_RATE // 3 < len(spoken) < 20 * SAMPLE_RATE:
                continue
            synth.write_wav(path, synth.disturb(spoken, rng))
            yield Row(key, str(path), language, "", entry[language], "")
            for target in TARGETS:
                if target != language and target in entry:
                    yield Row(key, str(path), language, target, entry[language], entry[target])


def run(root: Path, transcripts: Path, out: Path, each: int, seed: int = 0) -> None:
    """Writes train.jsonl and test.jsonl (held-out prompts and scenes, human speech only) below `out`."""
    (out / "synth").mkdir(parents=True, exist_ok=True)
    known = read_transcripts(transcripts)
    for name, test in (("human", False), ("test", True)):
        rows = [*asterisk.rows(root, known, test), *fillets.rows(root, test)]
        write_manifest(out / f"{name}.jsonl", (row for row in rows if row.tgt in ("", *TARGETS)))
    dialogue = [texts for (scene, _), texts in fillets.dialogue(root).items() if not held_out(scene)]
    prompts = [texts for prompt, texts in asterisk.prompts(root, known).items() if not held_out(prompt)]
    for name, texts, count in (
        ("synth", catalogues.sentences(root) + dialogue, each),
        ("prompts", prompts, each // 4),
    ):
        write_manifest(out / f"{name}.jsonl", spoken_rows(name, texts, count, out / "synth", seed))


if __name__ == "__main__":
    unpacked, transcripts_file, out_folder = map(Path, sys.argv[1:4])
    run(unpacked, transcripts_file, out_folder, each=1300)
