"""Adversarial training: the adapter is turned against probes that read the speaker and the duration off its rows.

Gradient reversal, with probes that are solved and not trained: at each step the best linear ones for the rows of the
last few hundred clips. One that learns step by step is led astray by the adapter and forgets nothing; and it knows the
rows by heart that it was just shown. What must not be lost is told by the adapter that this one began as: the language
model reads rows that have not moved as it always did, and is not run in training.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from esrt.config import SAMPLE_RATE, WINDOW_SAMPLES
from esrt.model import voiceprint
from esrt.model.qformer import QFormer
from esrt.train.sound import sound

_MEMORY = 256  # clips whose rows the probes are solved from
_FEWEST = 32
_PENALTY = 0.1


class Voices:
    """What is to be hidden of clips: voiceprint, and the logarithm of the seconds as the last column; kept."""

    def __init__(self) -> None:
        self._encoder = voiceprint.load()
        self._known: dict[str, np.ndarray] = {}

    def of(self, audios: list[str]) -> Tensor:
        """Float32 [b, voiceprint.WIDTH + 1]. Raises AudioError."""
        for audio in audios:
            if audio not in self._known:
                samples = sound(audio)[:WINDOW_SAMPLES]
                seconds = math.log(max(len(samples), 1) / SAMPLE_RATE)
                self._known[audio] = np.append(self._encoder.of(samples), np.float32(seconds))
        return torch.from_numpy(np.stack([self._known[audio] for audio in audios])).float()


class Adversary:
    """The adapter as it was, and what the probes are solved from. A run that goes on fills that anew."""

    def __init__(self, adapter: QFormer, device: torch.device) -> None:
        self.before = copy.deepcopy(adapter).eval().requires_grad_(False).to(device)
        self._seen: list[Tensor] = []
        self._voices: list[Tensor] = []

    def leak(self, rows: Tensor, voices: Tensor) -> Tensor:
        """How much the probes know of each clip, [b]: 0 on average by chance, 2 all. Gradients reach the rows only.

        Rows [b, queries, width]; voices as `Voices.of` gives them. The clips are asked about before they are learned.
        """
        with torch.autocast(rows.device.type, enabled=False):
            pooled = torch.cat([rows.float().mean(1), rows.float().std(1)], dim=1)
            voice, seconds = self._known(pooled, voices) if len(self._seen) >= _FEWEST else (0 * pooled[:, 0],) * 2
        self._seen = [*self._seen, *pooled.detach()][-_MEMORY:]
        self._voices = [*self._voices, *voices][-_MEMORY:]
        # Nothing is gained below chance: probes that are wrong on purpose know.
        return voice * (voice.mean() > 0) + seconds * (seconds.mean() > 0)

    def _known(self, pooled: Tensor, voices: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine of the voiceprint, beyond what all have in common; covariance of the duration, of 1; each [b]."""
        seen, wanted = torch.stack(self._seen), torch.stack(self._voices)
        middle, spread = seen.mean(0), seen.std(0).clamp(min=1e-4)
        centre, unit = wanted.mean(0), wanted[:, -1].std().clamp(min=1e-3)
        seen = (seen - middle) / spread
        gram = seen @ seen.T + _PENALTY * seen.shape[1] * torch.eye(len(seen), device=seen.device)
        slopes = seen.T @ torch.linalg.solve(gram, wanted - centre)
        heard, true = (pooled - middle) / spread @ slopes, voices - centre
        voice = nn.functional.cosine_similarity(heard[:, :-1], true[:, :-1], dim=1)
        return voice, heard[:, -1] * true[:, -1] / unit**2
