"""The cloud's first step: adapter rows become rows the language model can read (paper, eq. 4)."""

from __future__ import annotations

from torch import nn

from esrt.config import ModelConfig


def build_projector(config: ModelConfig) -> nn.Sequential:
    """Rows [b, queries, adapter.width] -> [b, queries, llm.width].

    Linear, ReLU, Linear, LayerNorm; for an LLM no wider than 1536, one Linear and a LayerNorm.
    """
    width, out, mid = config.adapter.width, config.llm.width, config.projector_mid
    norm = nn.LayerNorm(out, eps=1e-5)
    if mid is None:
        return nn.Sequential(nn.Linear(width, out), norm)
    return nn.Sequential(nn.Linear(width, mid), nn.ReLU(), nn.Linear(mid, out), norm)
