"""The sound itself: a network that turns rows back to a mel spectrogram, and Griffin-Lim, which makes it heard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE
from esrt.model.mel import HOP, WINDOW, LogMel, mel_filters
from esrt.privacy.probes.fit import Array, fit

_BINS, _STACK, _WIDTH = 80, 2, 160  # a frame of the network is 20 ms
_WINDOW, _ROUNDS = 64, 60
_SCALE = 4.0  # Whisper's log-mel is (log10 + 4) / 4


class Inverter(nn.Module):
    """Rows [b, t, width] -> [b, t, _WIDTH], of which `frames` makes log-mel wherever it is asked to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, _WIDTH), nn.GELU())
        self.near = nn.Conv1d(_WIDTH, _WIDTH, 3, padding=1)
        self.fine = nn.ModuleList(nn.Conv1d(_WIDTH, _WIDTH, 5, padding=2) for _ in range(2))
        self.head = nn.Linear(_WIDTH, _STACK * _BINS)

    def forward(self, rows: Tensor) -> Tensor:
        x = self.inner(rows)
        return x + nn.functional.gelu(self.near(x.transpose(1, 2))).transpose(1, 2)

    def frames(self, coarse: Tensor, numbers: Tensor, counts: Tensor) -> Tensor:
        """What `forward` made, numbers of frames [b, n] and how many each clip has [b] -> log-mel [b, n, bins].

        Rows lie evenly over a clip, whatever its length.
        """
        last = coarse.shape[1] - 1
        place = ((numbers + 0.5) / counts[:, None] * (last + 1) - 0.5).clamp(0, last)
        low, share = place.long(), place.frac()[..., None]
        clip = torch.arange(len(coarse))[:, None]
        x = coarse[clip, low] * (1 - share) + coarse[clip, (low + 1).clamp(max=last)] * share
        x = x.transpose(1, 2)
        for fine in self.fine:
            x = x + nn.functional.gelu(fine(x))
        return self.head(x.transpose(1, 2))


def train(rows: Array, sounds: Sequence[Samples], places: npt.NDArray[np.int64], epochs: int) -> Inverter:
    """Learns from the clips at `places` what their sound was, _WINDOW frames of each at a time."""
    torch.manual_seed(0)
    mel, generator = LogMel(_BINS), torch.Generator().manual_seed(0)
    targets = {int(place): _mel(mel, sounds[place]) for place in places}
    inverter = Inverter(rows.shape[-1])

    def loss(coarse: Tensor, batch: Tensor) -> Tensor:
        these = [targets[int(place)] for place in batch]
        counts = torch.tensor([len(one) for one in these])
        first = (torch.rand(len(these), generator=generator) * (counts - _WINDOW).clamp(min=0)).long()
        numbers = torch.minimum(first[:, None] + torch.arange(_WINDOW), counts[:, None] - 1)
        wanted = torch.stack([one[where] for one, where in zip(these, numbers, strict=True)])
        return nn.functional.l1_loss(inverter.frames(coarse, numbers, counts), wanted)

    return fit(inverter, rows, places, loss, epochs)


@torch.inference_mode()
def invert(inverter: Inverter, rows: Array, seconds: float) -> Samples:
    """Rows [t, width] of one clip -> float32 [n] at 16 kHz; `seconds` is how long the attacker takes it for."""
    count = max(2, round(seconds * SAMPLE_RATE / HOP / _STACK))
    coarse = inverter(torch.from_numpy(rows[None]).float())
    found = inverter.frames(coarse, torch.arange(count)[None], torch.tensor([count]))[0]
    return griffin_lim(found.reshape(-1, _BINS).T)


@torch.inference_mode()
def griffin_lim(log_mel: Tensor) -> Samples:
    """Whisper's log-mel [bins, frames] -> float32 [frames * 160], its loudest sample at 0.9."""
    power = 10 ** (log_mel * _SCALE - _SCALE)
    spectrum = (torch.linalg.pinv(mel_filters(len(log_mel))) @ power).clamp(min=0).sqrt()
    window = torch.hann_window(WINDOW)
    length = log_mel.shape[1] * HOP
    spectrum = torch.cat([spectrum, spectrum[:, -1:]], 1)  # the frame that Whisper drops
    phase = torch.exp(2j * torch.pi * torch.rand(spectrum.shape, generator=torch.Generator().manual_seed(0)))
    last = torch.zeros_like(phase)
    for _ in range(_ROUNDS):
        wave = torch.istft(spectrum * phase, WINDOW, HOP, window=window, length=length)
        now = torch.stft(wave, WINDOW, HOP, window=window, return_complex=True)
        ahead = now - 0.99 / 1.99 * last  # momentum, in the fast form of the algorithm
        phase, last = ahead / ahead.abs().clamp(min=1e-9), now
    wave = torch.istft(spectrum * phase, WINDOW, HOP, window=window, length=length)
    made: npt.NDArray[np.float32] = (0.9 * wave / wave.abs().max().clamp(min=1e-9)).numpy()
    return made


def _mel(mel: LogMel, sound: Samples) -> Tensor:
    frames = mel(torch.from_numpy(sound)[None])[0].T
    return frames[: len(frames) // _STACK * _STACK].reshape(-1, _STACK * _BINS)
