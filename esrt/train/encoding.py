"""The frozen encoder at work: it fills the cache of frames, or takes its place where a disk has no room for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from esrt.audio.padding import pad
from esrt.audio.samples import Samples
from esrt.config import FRAME_SAMPLES, WINDOW_SAMPLES, ModelConfig
from esrt.model.mel import LogMel
from esrt.model.whisper_encoder import WhisperEncoder
from esrt.train.sound import sound


class Frames(Protocol):
    """Where the encoder's frames of clips come from. `lengths` is audio -> frames; 0 where a clip cannot be used."""

    @property
    def width(self) -> int: ...

    @property
    def lengths(self) -> Mapping[str, int]: ...

    def of(self, audios: Sequence[str]) -> list[np.ndarray]:
        """float16 [t, width] of each clip."""


@torch.inference_mode()
def encode(waves: Sequence[Samples], config: ModelConfig, encoder: WhisperEncoder) -> list[np.ndarray]:
    """Padded sounds (`audio.padding.pad`) -> frames float16 [t, width] of each, in the encoder's own precision."""
    mel, weight = LogMel(config.encoder.mel_bins), encoder.conv1.weight
    lengths = torch.tensor([len(wave) // FRAME_SAMPLES for wave in waves])
    mels = [mel(torch.from_numpy(wave)[None])[0].T for wave in waves]
    padded = torch.nn.utils.rnn.pad_sequence(mels, batch_first=True).transpose(1, 2)
    frames = encoder(padded.to(weight.device, weight.dtype), lengths.to(weight.device)).float().cpu().numpy()
    return [rows[:length].astype(np.float16) for rows, length in zip(frames, lengths.tolist(), strict=True)]


class Live:
    """Frames that are computed anew each time a batch asks for them, in bfloat16, where the encoder is."""

    def __init__(self, lengths: Mapping[str, int], config: ModelConfig, encoder: WhisperEncoder) -> None:
        self.width, self.lengths = config.encoder.width, lengths
        self._config, self._encoder = config, encoder.to(torch.bfloat16).eval()

    def of(self, audios: Sequence[str]) -> list[np.ndarray]:
        """float16 [t, width] of each clip."""
        waves = [pad(sound(audio)[:WINDOW_SAMPLES], self._config.context) for audio in audios]
        return encode(waves, self._config, self._encoder)
