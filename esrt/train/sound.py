"""The sound of a manifest's row, from a file or from a recipe."""

from __future__ import annotations

import numpy as np

from esrt.audio.io import load
from esrt.audio.samples import Samples
from esrt.errors import AudioError
from esrt.train.manifest import SPOKEN_ON_THE_FLY
from esrt.train.sources import synth


def sound(audio: str) -> Samples:
    """A recording, float32 [n] at 16 kHz; nothing of one that is empty, as some packages have them."""
    try:
        return (synth.load if audio.startswith(SPOKEN_ON_THE_FLY) else load)(audio)
    except AudioError as error:
        if error.code == "audio_empty":
            return np.zeros(0, np.float32)
        raise
