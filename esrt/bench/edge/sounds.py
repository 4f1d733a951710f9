"""Real speech of any length, made of the examples."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from esrt.audio.io import load
from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE
from esrt.errors import UsageError

EXAMPLES = Path("examples")


def examples() -> list[Path]:
    """The sample clips. Raises UsageError `examples_missing`."""
    found = sorted(EXAMPLES.glob("*.flac"))
    if not found:
        raise UsageError("examples_missing", f"There are no clips in {EXAMPLES}: run this in the root of a checkout.")
    return found


@cache
def _voices() -> Samples:
    return np.concatenate([load(path) for path in examples()])


def speech(seconds: float) -> Samples:
    """float32 [seconds * 16,000]: the examples one after another, over again if need be."""
    return np.resize(_voices(), round(seconds * SAMPLE_RATE))
