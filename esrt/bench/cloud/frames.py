"""Real frames: cut from the repository's clips of human speech, or from one's own, and encoded whole, 30 s at most."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from esrt.audio.io import load
from esrt.config import SAMPLE_RATE, WINDOW_SAMPLES
from esrt.edge.encoder import Encoder
from esrt.errors import UsageError
from esrt.wire import codecs

CLIPS = (Path("examples"), Path("tests/data/held_out"))
SUFFIXES = frozenset({".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav", ".webm"})
SHORTEST = 2.0  # seconds


def clips(audio: Path | None) -> list[str]:
    """Paths of the sound files in a folder, of a manifest (.jsonl), or of the repository's own clips.

    Raises UsageError `no_clips`, or as `read_manifest` does.
    """
    if audio is not None and audio.suffix == ".jsonl":
        from esrt.train.manifest import read_manifest

        return list(dict.fromkeys(row.audio for row in read_manifest(audio)))
    folders = CLIPS if audio is None else (audio,)
    found = [str(path) for folder in folders for path in sorted(folder.glob("*")) if path.suffix.lower() in SUFFIXES]
    if not found:
        where = " and ".join(map(str, folders))
        raise UsageError("no_clips", f"There are no sound files in {where}: run this in a checkout, or name --audio.")
    return found


def make(folder: Path, paths: Sequence[str], count: int) -> list[bytes]:
    """`count` int8 frames of the model in `folder`, all different: the clips whole first, then pieces of them.

    The same paths give the same frames.
    """
    encoder, chance = Encoder(folder / "edge.onnx", threads=1), random.Random(0)
    frames = []
    for number in tqdm(range(count), desc="frames", disable=None):
        sound = load(paths[number % len(paths)])[:WINDOW_SAMPLES]
        shortest = min(round(SHORTEST * SAMPLE_RATE), len(sound))
        if number >= len(paths):
            first = chance.randrange(len(sound) - shortest + 1)
            sound = sound[first : chance.randrange(first + shortest, len(sound) + 1)]
        frames.append(codecs.encode(encoder.encode(sound), "int8", encoder.tables, encoder.fingerprint).to_bytes())
    return frames
