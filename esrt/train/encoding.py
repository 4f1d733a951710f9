"""The frozen encoder at work, and what training asks of whatever has its frames."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from esrt.audio.samples import Samples
from esrt.config import FRAME_SAMPLES
from esrt.model.mel import LogMel
from esrt.model.precision import decoding_type
from esrt.model.whisper_encoder import WhisperEncoder

_BATCH_FRAMES = 4000


class Frames(Protocol):
    """Where the encoder's frames of clips come from: `features.Features` or `features.Live`.

    `lengths` is audio -> how many frames; 0 where a clip cannot be used. `silent` are those that turned out to hold no
    sound when they were asked for.
    """

    @property
    def width(self) -> int: ...

    @property
    def lengths(self) -> Mapping[str, int]: ...

    @property
    def silent(self) -> Collection[str]: ...

    def of(self, audios: Sequence[str]) -> list[np.ndarray]:
        """float16 [t, width] of each clip."""


def encoding_type(device: torch.device) -> torch.dtype:
    """bfloat16, or float32 on a processor that has no products of it, where these take three times as long."""
    return decoding_type() if device.type == "cpu" else torch.bfloat16


@torch.inference_mode()
def encode(waves: Sequence[Samples], mel: LogMel, encoder: WhisperEncoder) -> Iterator[tuple[int, np.ndarray]]:
    """Padded sounds (`audio.padding.pad`) -> place among them, and frames float16 [t, width]; longest first.

    In the encoder's own precision, some 80 s of sound at a time.
    """
    weight, device = encoder.conv1.weight, mel.filters.device
    left = sorted(range(len(waves)), key=lambda place: len(waves[place]))
    while left:
        size = max(1, min(len(left), _BATCH_FRAMES * FRAME_SAMPLES // len(waves[left[-1]])))
        batch, left = left[-size:], left[:-size]
        lengths = torch.tensor([len(waves[place]) // FRAME_SAMPLES for place in batch])
        mels = [mel(torch.from_numpy(waves[place])[None].to(device))[0].T for place in batch]
        padded = torch.nn.utils.rnn.pad_sequence(mels, batch_first=True).transpose(1, 2)
        frames = encoder(padded.to(weight.device, weight.dtype), lengths.to(weight.device)).float().cpu().numpy()
        for place, rows, length in zip(batch, frames, lengths.tolist(), strict=True):
            yield place, rows[:length].astype(np.float16)
