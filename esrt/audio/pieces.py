"""Speech longer than the model's window is cut where it is quietest; silence is told from speech by level alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE, WINDOW_SAMPLES

FRAME_SAMPLES = SAMPLE_RATE // 50  # 20 ms
SEARCH_SAMPLES = 5 * SAMPLE_RATE
SILENCE_RMS = 3e-4  # -70 dB of full scale, ten steps of a 16-bit sample: below what any microphone hears of a voice


def cut(samples: Samples, longest: int = WINDOW_SAMPLES) -> list[tuple[int, int]]:
    """Sample ranges [start, end) that cover `samples` (float32 [n], 16 kHz) without gap or overlap.

    Each is at most `longest` samples. A cut falls in the middle of the quietest 20 ms among the last 5 s of the range.
    """
    ranges = []
    start = 0
    while len(samples) - start > longest:
        end = start + longest
        search = max(end - SEARCH_SAMPLES, start)
        levels = _levels(samples[search:end])
        middle = search + int(levels.argmin()) * FRAME_SAMPLES + FRAME_SAMPLES // 2
        ranges.append((start, middle))
        start = middle
    ranges.append((start, len(samples)))
    return ranges


def is_silent(samples: Samples) -> bool:
    """True if no 20 ms of `samples` (float32 [n]) are louder than -70 dB of full scale, a constant offset aside."""
    return not samples.size or bool(_levels(samples).max() < SILENCE_RMS)


def _levels(samples: Samples) -> npt.NDArray[np.float32]:
    """Root mean square around the mean of each 20 ms: float32 [frames]. A last, shorter frame is mirrored to fit."""
    frames = np.pad(samples, (0, -len(samples) % FRAME_SAMPLES), mode="symmetric").reshape(-1, FRAME_SAMPLES)
    levels: npt.NDArray[np.float32] = frames.std(axis=1)
    return levels
