"""What a beam adds: the same clips, greedy and with five beams (the last row of the paper's Table IX)."""

from __future__ import annotations

import time
from pathlib import Path

from esrt.bench.page import machine, table
from esrt.bench.training.score import BATCH, ENGLISH, WORDS, choose, errors, ours, quality
from esrt.config import ModelConfig
from esrt.train.manifest import read_manifest
from esrt.translator import prepare

BEAMS = (1, 5)


def run(model: str, manifest: Path, each: int, codec: str) -> str:
    """The section: `each` clips of every language of the manifest, into all languages that they have a reference in."""
    by_source = choose(read_manifest(manifest), each)
    clips = [clip for group in by_source.values() for clip in group]
    folder = prepare(model)
    into = [source for source, group in by_source.items() if any(ENGLISH in clip.references for clip in group)]
    rows = []
    for beam in BEAMS:
        began = time.process_time()
        answers = ours(folder, clips, codec, beam)
        seconds = (time.process_time() - began) / len(clips)
        mine = dict(zip((clip.audio for clip in clips), answers, strict=True))
        english = (
            quality(by_source[source], [mine[clip.audio] for clip in by_source[source]], ENGLISH) for source in into
        )
        name = f"beam {beam}" if beam > 1 else "greedy"
        rows.append([name, f"{seconds:.2f}", errors(clips, answers)[0], *english, quality(clips, answers, ENGLISH)])
    head = ["", "processor seconds a clip", "CER", *(f"{source} -> eng" for source in into), "all -> eng"]
    return "\n\n".join(
        [
            table(head, rows),
            f"{ModelConfig.load(folder / 'config.json').name}, {codec} frames, BLEU / chrF, at most {each} clips of "
            f"{manifest.stem} a language, {WORDS} words or more, {BATCH} at once; the seconds are those of all of a "
            f"clip's languages, its sound included. On {machine()}.",
        ]
    )
