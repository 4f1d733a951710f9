"""What the encoder sees of a clip: numpy only, shared by the device and by training."""

from __future__ import annotations

from typing import Literal

import numpy as np

from esrt.config import SAMPLE_RATE, WINDOW_SAMPLES

_STEP = SAMPLE_RATE // 2


def padded_length(samples: int, context: Literal["speech", "full"]) -> int:
    """How many samples a clip of that many (480,000 at most) has after `pad`."""
    if context == "full":
        return WINDOW_SAMPLES
    return min((-(-samples // _STEP) + 1) * _STEP, WINDOW_SAMPLES)


def pad(samples: np.ndarray, context: Literal["speech", "full"]) -> np.ndarray:
    """float32 [n <= 480,000] -> float32 [m]: zeros follow the clip.

    `speech`: half a second of zeros at least, then up to the next half second; `full`: up to 30 s, as in the paper.
    """
    length = padded_length(len(samples), context)
    return np.pad(samples[:length], (0, length - min(len(samples), length)))
