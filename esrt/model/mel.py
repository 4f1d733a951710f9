"""Whisper's log-mel spectrogram as a torch module of plain matrix products, so that it also lives in the ONNX graph."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from esrt.config import SAMPLE_RATE

WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms


def _hz_to_mel(hz: Tensor) -> Tensor:
    """Slaney's scale: linear to 1 kHz, logarithmic above."""
    return torch.where(hz < 1000, hz * 3 / 200, 15 + torch.log(hz.clamp(min=1) / 1000) * 27 / math.log(6.4))


def _mel_to_hz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


def mel_filters(bins: int) -> Tensor:
    """Triangular area-normalised filters: float32 [bins, WINDOW // 2 + 1], equal to Whisper's own."""
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    limit = 15 + math.log(SAMPLE_RATE / 2 / 1000) * 27 / math.log(6.4)
    edges = _mel_to_hz(torch.linspace(0, limit, bins + 2, dtype=torch.float64))
    slopes = edges[:, None] - frequencies[None, :]
    widths = edges.diff()[:, None]
    triangles = torch.minimum(-slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]).clamp(min=0)
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).float()


class LogMel(nn.Module):
    """Waveform float32 [batch, samples] at 16 kHz -> log-mel [batch, bins, samples // 160]."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        n = torch.arange(WINDOW, dtype=torch.float64)
        k = torch.arange(WINDOW // 2 + 1, dtype=torch.float64)
        angle = 2 * math.pi * k[:, None] * n[None, :] / WINDOW
        hann = 0.5 - 0.5 * torch.cos(2 * math.pi * n / WINDOW)
        basis = torch.cat([torch.cos(angle), -torch.sin(angle)]) * hann
        self.register_buffer("basis", basis.float()[:, None], persistent=False)
        self.register_buffer("filters", mel_filters(bins), persistent=False)
        self.basis: Tensor
        self.filters: Tensor

    def forward(self, waveform: Tensor) -> Tensor:
        padded = nn.functional.pad(waveform[:, None], (WINDOW // 2, WINDOW // 2), mode="reflect")
        # Whisper drops the last frame; leaving its samples out gives samples // HOP frames at once.
        spectrum = nn.functional.conv1d(padded[:, :, :-HOP], self.basis, stride=HOP)
        real, imaginary = spectrum.chunk(2, dim=1)
        log = torch.log10((self.filters @ (real**2 + imaginary**2)).clamp(min=1e-10))
        # amax over both axes one after the other: a clip's loudest cell sets its floor, 80 dB below.
        loudest = log.amax(dim=2, keepdim=True).amax(dim=1, keepdim=True)
        return (torch.maximum(log, loudest - 8) + 4) / 4
