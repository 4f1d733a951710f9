"""The sound of a manifest's row, from a file or from a recipe."""

from __future__ import annotations

import os
import sys

import numpy as np
from tqdm import tqdm

from esrt.audio.io import Sound
from esrt.audio.samples import Samples
from esrt.errors import AudioError
from esrt.train.manifest import SPOKEN_ON_THE_FLY
from esrt.train.sources import synth


def sound(audio: str) -> Samples:
    """A recording, float32 [n] at 16 kHz; nothing of one that is empty, as some packages have them, or damaged.

    A damaged one is named on stderr: among a million clips, it is no reason to stop. Raises AudioError where the file
    is missing or may not be read; UsageError as `synth.load` does.
    """
    if audio.startswith(SPOKEN_ON_THE_FLY):
        return synth.load(audio)
    try:
        with Sound(audio) as file:
            samples = np.concatenate(list(file))
            if file.damage is not None:  # half a recording does not say what its transcript does
                raise file.damage
            return samples
    except AudioError as error:
        if not os.access(audio, os.R_OK):
            raise
        if error.code != "audio_empty":
            tqdm.write(str(error), file=sys.stderr)
        return np.zeros(0, np.float32)
