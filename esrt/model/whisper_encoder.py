"""Whisper's encoder, frozen, over as many frames as it is given (Radford et al. 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from esrt.config import EncoderConfig


def sinusoids(length: int, width: int) -> Tensor:
    """Whisper's position encoding: float32 [length, width]."""
    half = width // 2
    scale = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
    angle = torch.arange(length)[:, None] * scale[None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Attention(nn.Module):
    """Multi-head attention with Whisper's names: queries [b, q, w] over sources [b, s, w] -> [b, q, w].

    `bias` [b or 1, heads or 1, q, s] is added to the logits.
    """

    def __init__(self, width: int, heads: int, source_width: int | None = None, key_bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(source_width or width, width, bias=key_bias)
        self.v_proj = nn.Linear(source_width or width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, sources: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (self.q_proj(queries), self.k_proj(sources), self.v_proj(sources))
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and GELU feed-forward: [b, t, width] -> [b, t, width]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(config.width)
        self.self_attn = Attention(config.width, config.heads)
        self.final_layer_norm = nn.LayerNorm(config.width)
        self.fc1 = nn.Linear(config.width, 4 * config.width)
        self.fc2 = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        normed = self.self_attn_layer_norm(x)
        x = x + self.self_attn(normed, normed, bias)
        return x + self.fc2(nn.functional.gelu(self.fc1(self.final_layer_norm(x))))


class WhisperEncoder(nn.Module):
    """log-mel [b, mel_bins, 2t] -> frames [b, t, width], t <= positions. Parameters bear transformers' names."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(config.mel_bins, config.width, 3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.positions, config.width)
        self.embed_positions.weight.data.copy_(sinusoids(config.positions, config.width))
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.width)

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`lengths` [b] (frames of each clip) makes a padded batch equal to each clip alone, up to rounding."""
        bias = None
        if lengths is not None:
            # Padding becomes zeros before conv2, as the convolution itself pads a clip that stands alone.
            inside = torch.arange(mel.shape[2], device=mel.device) < 2 * lengths[:, None]
            mel = mel * inside[:, None]
            past_end = torch.arange(mel.shape[2] // 2, device=mel.device) >= lengths[:, None]
            bias = torch.zeros_like(past_end, dtype=mel.dtype).masked_fill(past_end, -torch.inf)[:, None, None]
        x = nn.functional.gelu(self.conv1(mel))
        if lengths is not None:
            x = x * inside[:, None]
        x = nn.functional.gelu(self.conv2(x)).transpose(1, 2)
        x = x + self.embed_positions.weight[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, bias)
        return self.layer_norm(x)
