"""The whole model: an edge half that ends in the tensor on the wire, and a cloud half that begins with it."""

from __future__ import annotations

from torch import Tensor, nn

from esrt.config import ModelConfig
from esrt.model.mel import LogMel
from esrt.model.projector import build_projector
from esrt.model.qformer import QFormer
from esrt.model.whisper_encoder import WhisperEncoder


class EdgeHalf(nn.Module):
    """Waveform [b, samples] -> rows [b, queries, width]. Nothing else of the speech leaves the device.

    `frames` int64 [b] says how many frames of the waveform count, from its beginning; without it, all.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mel = LogMel(config.encoder.mel_bins)
        self.encoder = WhisperEncoder(config.encoder)
        self.adapter = QFormer(config.adapter, config.encoder.width)

    def forward(self, waveform: Tensor, frames: Tensor | None = None) -> Tensor:
        """`samples` is a multiple of FRAME_SAMPLES, at most 30 s."""
        return self.adapter(self.encoder(self.mel(waveform), frames), frames)


class ESRTModel(nn.Module):
    """Both halves. `llm` is a causal language model of transformers; None where only the shapes matter."""

    def __init__(self, config: ModelConfig, llm: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.edge = EdgeHalf(config)
        self.projector = build_projector(config)
        self.llm = llm

    def encode(self, waveform: Tensor) -> Tensor:
        """Edge half: waveform [b, samples] -> rows [b, queries, adapter.width]."""
        return self.edge(waveform)

    def project(self, rows: Tensor) -> Tensor:
        """Cloud half, first step: rows [b, queries, adapter.width] -> [b, queries, llm.width]."""
        return self.projector(rows)
