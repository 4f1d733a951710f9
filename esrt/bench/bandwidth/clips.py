"""Which clips: the same in every section."""

from __future__ import annotations

from pathlib import Path

from esrt.bench.training.score import ENGLISH, WORDS
from esrt.errors import UsageError
from esrt.evaluate.run import chosen
from esrt.languages import words
from esrt.train.manifest import Row, check

INTO = "spa"
"""What English is translated into; all else is into English."""


def rows_of(manifest: Path, each: int) -> list[Row]:
    """At most `each` recordings a language of WORDS words or more, with one translation each; the same ones each time.

    Raises UsageError `too_few_clips`, `no_rows`, or as `manifest.check`.
    """
    if each < 1:
        raise UsageError("too_few_clips", f"--clips {each} leaves no clip to measure: give 1 or more.")
    rows = [
        row
        for row in check(manifest)
        if row.tgt == (INTO if row.src == ENGLISH else ENGLISH) and words(row.asr, row.src) >= WORDS
    ]
    if not rows:
        raise UsageError("no_rows", f"{manifest} has no row of {WORDS} words or more into English: name other data.")
    return chosen(rows, each)
