"""The likeliest token, exactly, without the product with the whole output head."""

from __future__ import annotations

import torch
from torch import Tensor

from esrt.m2m.linear import int8


class Screen:
    """Greedy decoding's choice among `ids` [n], for an eighth of the reading that their float32 product takes.

    An int8 product says of every token between which two values its logit lies: by Cauchy and Schwarz, what rounding
    did to weight and row moves it by no more than |row| |weight - rounded| + |row - rounded| |rounded|. Who cannot be
    the largest is out, and the few who can are multiplied in float32. A row that all tokens share changes no ranking,
    so it is taken away first, and columns are weighted with `gain` [width], the size that a row's columns have: both
    make the bounds narrow (some 10 tokens of 25,000 stay in Whisper base).
    """

    def __init__(self, embeddings: Tensor, ids: Tensor, gain: Tensor) -> None:
        self.embeddings, self.ids = embeddings, ids
        self.gain = gain.abs().clamp(min=1e-6)
        weight = embeddings[ids]
        weight.sub_(weight.mean(0)).mul_(self.gain)
        quantized, self.packed = int8(weight)
        rounded = quantized.dequantize()
        # A hundredth more than the bound, for what float32 itself rounds.
        self.missed = 1.01 * weight.sub_(rounded).norm(dim=1)
        self.size = 1.01 * rounded.norm(dim=1)

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows [..., width] -> the likeliest token's id for each [...]."""
        flat = rows.flatten(0, -2)
        scaled = flat / self.gain
        # 7 bits: with 8, two products overflow the 16 bits that older processors add them in.
        near = torch.ops.quantized.linear_dynamic(scaled, self.packed, True)
        taken = torch.quantize_per_tensor_dynamic(scaled, torch.quint8, True).dequantize()
        bound = scaled.norm(dim=1, keepdim=True) * self.missed
        bound += (scaled - taken).norm(dim=1, keepdim=True) * self.size
        possible = near + bound >= (near - bound).amax(dim=1, keepdim=True)
        row, place = possible.nonzero(as_tuple=True)
        exact = (self.embeddings[self.ids[place]] * flat[row]).sum(-1)
        chosen = near.fill_(-torch.inf).index_put_((row, place), exact).argmax(-1)
        return self.ids[chosen].view(rows.shape[:-1])
