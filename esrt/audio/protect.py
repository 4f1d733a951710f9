"""Random shift and gain: what a device may do to a clip before it encodes it, so that a frame tells less of it."""

from __future__ import annotations

import numpy as np

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE, WINDOW_SAMPLES

LONGEST = SAMPLE_RATE  # of the silence on either side: 1 s
QUIETEST = 12.0  # dB that the loudest sample may be below full scale
_WINDOW = SAMPLE_RATE * 30 // 1000
_ROOM_TONE = 0.1  # share of a clip's windows that are taken for its silence


def shift(samples: Samples, rng: np.random.Generator) -> Samples:
    """float32 [n <= 480,000] -> [m >= n], at most 30 s: up to LONGEST of silence before the clip, and as much behind.

    The silence is noise as loud as the clip's own quietest windows: digital silence would show where speech begins.
    """
    before, behind = (int(length) for length in rng.integers(0, LONGEST + 1, 2))
    room = max(0, WINDOW_SAMPLES - len(samples))
    before = min(before, room)
    behind = min(behind, room - before)
    tone = rng.standard_normal(before + behind, dtype=np.float32) * np.float32(_quiet(samples))
    return np.concatenate([tone[:before], samples, tone[before:]])


def gain(samples: Samples, rng: np.random.Generator) -> Samples:
    """float32 [n] -> [n]: the loudest sample is brought to a random level of 0 to QUIETEST dB below full scale."""
    loudest = float(np.abs(samples).max(initial=0.0))
    level = 10 ** (-rng.uniform(0, QUIETEST) / 20)
    return samples * np.float32(level / loudest) if loudest > 0 else samples


def protect(samples: Samples) -> Samples:
    """Both, by numbers that nobody can foresee: the same clip gives another frame, of another digest, each time."""
    rng = np.random.default_rng()
    return shift(gain(samples, rng), rng)


def _quiet(samples: Samples) -> float:
    """The rms of the quietest windows."""
    windows = samples[: len(samples) - len(samples) % _WINDOW].reshape(-1, _WINDOW).astype(np.float64)
    return float(np.quantile(np.sqrt(np.mean(windows**2, axis=1)), _ROOM_TONE)) if len(windows) else 0.0
