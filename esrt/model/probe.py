"""A small network that reads something off rows: an attacker, or the adversary that a model is trained against."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Probe(nn.Module):
    """Rows [b, t, width] -> [b, outputs]: two convolutions over neighbours, then mean and spread over the rows.

    Rows that are all zero stand for nothing (padding) and do not count.
    """

    def __init__(self, width: int, outputs: int, hidden: int = 128) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU())
        self.near = nn.ModuleList(nn.Conv1d(hidden, hidden, 3, padding=1) for _ in range(2))
        self.weight = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(2 * hidden, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        there = (rows != 0).any(2, keepdim=True)
        x = self.inner(rows) * there
        for near in self.near:
            x = x + nn.functional.gelu(near(x.transpose(1, 2)).transpose(1, 2)) * there
        share = self.weight(x).masked_fill(~there, -torch.inf).softmax(1)
        mean = (share * x).sum(1)
        spread = ((share * x**2).sum(1) - mean**2).clamp(min=1e-5).sqrt()
        return self.head(self.dropout(torch.cat([mean, spread], 1)))
