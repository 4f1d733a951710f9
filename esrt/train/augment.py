"""What training does to a clip's frames so that none is seen twice the same: style, pace, gaps, dead channels, noise.

On frames, not on sound: the encoder's frames are computed once and kept (SpecAugment, Park et al. 2019, one floor up).
"""

from __future__ import annotations

import numpy as np

PACE = 0.1  # at most that much slower or faster
MASKED = 0.08  # share of the time that gaps take away, at most
LONGEST_GAP = 12  # frames, 0.24 s
CHANNELS = 0.05  # share of channels that are silent, at most
NOISE = 0.15  # of the frames' own deviation, at most
STYLED = 0.5  # share of clips that take on another's style
BLEND = 0.3  # how much of it, drawn from Beta(BLEND, BLEND): most often next to nothing or next to all


def augment(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 [t, width] -> [t', width], t' within a tenth of t and at least 1."""
    length = max(1, round(len(frames) * rng.uniform(1 - PACE, 1 + PACE)))
    out = frames[np.linspace(0, len(frames) - 1, length).round().astype(int)]
    left = int(length * rng.uniform(0, MASKED))
    while left > 0:
        gap = int(rng.integers(1, min(LONGEST_GAP, left) + 1))
        start = int(rng.integers(0, length - gap + 1))
        out[start : start + gap] = 0
        left -= gap
    out[:, rng.random(out.shape[1]) < rng.uniform(0, CHANNELS)] = 0
    noise = rng.standard_normal(out.shape, dtype=np.float32)
    return out + noise * np.float32(rng.uniform(0, NOISE) * out.std())


def restyle(frames: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 [t, width] as if from the speaker and the line of `other` [t', width]; half of the time as they are.

    What tells of these more than of words, each channel's mean and spread over time, moves towards the other's
    (MixStyle, Zhou et al. 2021).
    """
    if rng.random() >= STYLED:
        return frames
    share = np.float32(rng.beta(BLEND, BLEND))
    mean, spread = frames.mean(0), frames.std(0) + np.float32(1e-3)
    new_mean = (1 - share) * mean + share * other.mean(0)
    new_spread = (1 - share) * spread + share * other.std(0)
    return (frames - mean) / spread * new_spread + new_mean
