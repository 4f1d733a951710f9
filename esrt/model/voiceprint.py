"""A real speaker encoder: Resemblyzer's published weights, in torch alone.

The package itself asks for librosa and for a C compiler, of which its weights need nothing: it is installed without its
dependencies, and only its weights are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from esrt.config import SAMPLE_RATE
from esrt.errors import ModelError, UsageError
from esrt.model.mel import HOP, WINDOW, mel_filters

Floats = npt.NDArray[np.float32]

WIDTH = 256
INSTALL = "pip install --no-deps resemblyzer==0.1.4"
_SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
_BINS, _FRAMES, _STEP = 40, 160, 77  # parts of 1.6 s, 1.3 of them a second
_COVERED = 0.75  # of its last part that a clip must fill
_LOUDNESS, _QUIET = -30.0, -40.0  # dB of full scale that a clip is raised to; dB below the loudest that are left out


class Voiceprint(nn.Module):
    """Clips -> voiceprints: the cosine of two says how alike their voices are."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_BINS, WIDTH, 3, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("filters", mel_filters(_BINS), persistent=False)
        self.filters: Tensor

    def forward(self, mels: Tensor) -> Tensor:
        """Power mel spectrograms [b, _FRAMES, _BINS] -> [b, WIDTH], each of length 1."""
        found = torch.relu(self.linear(self.lstm(mels)[1][0][-1]))
        return nn.functional.normalize(found, dim=1)

    @torch.inference_mode()
    def of(self, samples: Floats) -> Floats:
        """float32 [n], 16 kHz -> float32 [WIDTH] of length 1: the mean of all parts' voiceprints."""
        wave = torch.from_numpy(_prepared(samples))
        starts = _starts(1 + len(wave) // HOP)
        missing = (starts[-1] + _FRAMES) * HOP - len(wave)
        wave = nn.functional.pad(wave, (0, max(0, missing)))
        spectrum = torch.stft(
            wave, WINDOW, HOP, window=torch.hann_window(WINDOW), pad_mode="constant", return_complex=True
        )
        mel = (self.filters @ spectrum.abs() ** 2).T
        parts = self(torch.stack([mel[start : start + _FRAMES] for start in starts]))
        whole: Floats = nn.functional.normalize(parts.mean(0), dim=0).numpy()
        return whole


def load() -> Voiceprint:
    """The encoder with its weights. Raises UsageError `not_installed`; ModelError `model_damaged`."""
    found = find_spec("resemblyzer")
    if found is None or found.origin is None:
        raise UsageError("not_installed", f"The speaker encoder's weights are not installed: type `{INSTALL}`.")
    path = Path(found.origin).parent / "pretrained.pt"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
        raise ModelError("model_damaged", f"{path} is not the speaker encoder that is known: type `{INSTALL}`.")
    encoder = Voiceprint()
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    encoder.load_state_dict({name: state[name] for name in encoder.state_dict()})
    return encoder.eval().requires_grad_(False)


def _prepared(samples: Floats) -> Floats:
    """Without windows of 30 ms that are silent, and no quieter than _LOUDNESS."""
    size = SAMPLE_RATE * 30 // 1000
    windows = samples[: len(samples) - len(samples) % size].reshape(-1, size)
    if len(windows):
        energy = np.mean(windows.astype(np.float64) ** 2, axis=1)
        kept = windows[energy > energy.max() * 10 ** (_QUIET / 10)].reshape(-1)
        samples = kept if len(kept) else samples
    loudness = 10 * np.log10(max(float(np.mean(samples.astype(np.float64) ** 2)), 1e-12))
    return (samples * np.float32(10 ** (max(0.0, _LOUDNESS - loudness) / 20))).astype(np.float32)


def _starts(frames: int) -> Sequence[int]:
    """The first frame of each part of a clip of so many frames; one at least."""
    starts = list(range(0, max(1, frames - _FRAMES + _STEP + 1), _STEP))
    if len(starts) > 1 and (frames - starts[-1]) / _FRAMES < _COVERED:
        starts.pop()
    return starts
