"""What the encoder sees of a clip: numpy only, shared by the device and by training."""

from __future__ import annotations

from typing import Literal

import numpy as np

from esrt.config import SAMPLE_RATE, WINDOW_SAMPLES

_STEP = SAMPLE_RATE // 2


def pad(samples: np.ndarray, context: Literal["speech", "full"]) -> np.ndarray:
    """float32 [n <= 480,000] -> float32 [m]: zeros follow the clip.

    `speech`: half a second of zeros at least, then up to the next half second; `full`: up to 30 s, as in the paper.
    """
    steps = -(-len(samples) // _STEP) + 1
    length = WINDOW_SAMPLES if context == "full" else min(steps * _STEP, WINDOW_SAMPLES)
    return np.pad(samples[:length], (0, length - min(len(samples), length)))
