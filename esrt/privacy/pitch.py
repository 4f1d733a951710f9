"""How high a voice is: its median fundamental frequency, by autocorrelation."""

from __future__ import annotations

import numpy as np

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE

_WINDOW, _HOP = 640, 160
_LOWEST, _HIGHEST = 65.0, 400.0  # Hz
_VOICED = 0.6  # of a window's energy that its echo one period later must have


def pitch(samples: Samples) -> float | None:
    """Median of a clip's voiced windows in semitones above 55 Hz; None where fewer than five are voiced."""
    if len(samples) < _WINDOW:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP].astype(np.float32)
    windows = (windows - windows.mean(1, keepdims=True)) * np.hanning(_WINDOW).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(windows, 2 * _WINDOW, axis=1)) ** 2
    echo = np.fft.irfft(spectrum, axis=1)[:, :_WINDOW]
    taper = np.correlate(np.hanning(_WINDOW), np.hanning(_WINDOW), "full")[_WINDOW - 1 :]
    echo /= np.maximum(echo[:, :1], 1e-9) * np.maximum(taper / taper[0], 1e-2)
    first, last = int(SAMPLE_RATE / _HIGHEST), int(SAMPLE_RATE / _LOWEST)
    inner = echo[:, first : last + 1]
    peak = (inner >= echo[:, first - 1 : last]) & (inner >= echo[:, first + 1 : last + 2])
    # The first of the peaks that are about as high as the highest: two periods are as good an echo as one.
    periods = (peak & (inner > 0.9 * inner.max(1, keepdims=True))).argmax(1) + first
    energy = (windows**2).sum(1)
    voiced = (echo[np.arange(len(echo)), periods] > _VOICED) & (energy > 0.05 * energy.max())
    if voiced.sum() < 5:
        return None
    return float(12 * np.log2(SAMPLE_RATE / np.median(periods[voiced]) / 55))
