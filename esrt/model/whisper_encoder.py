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
        q, k, v = self.q_proj(queries), self.k_proj(sources), self.v_proj(sources)
        if torch.onnx.is_in_onnx_export():
            return self.out_proj(_fused(q, k, v, self.heads, bias))
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


def _fused(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None) -> Tensor:
    """Attention as ONNX Runtime's own operator: [b, q, w], [b, s, w], [b, s, w] -> [b, q, w].

    It never holds the whole table of logits (72 MB for 30 s, and most of the time), unless it is given a bias. So one
    that is the same for all queries goes in as one more channel of each head's keys, which every query multiplies by 1.
    """
    scale = (q.shape[-1] // heads) ** -0.5
    if bias is not None and bias.shape[1:3] == (1, 1):
        q, k = (x.view(*x.shape[:2], heads, -1) for x in (q, k))
        channel = bias.clamp(min=-1e4)[:, 0, 0, :, None, None] / scale
        q = torch.cat([q, torch.ones_like(q[..., :1])], dim=-1).flatten(2)
        k = torch.cat([k, channel.expand(-1, -1, heads, -1)], dim=-1).flatten(2)
        bias = None
    return torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (q, k, v, None, None, bias),
        {"num_heads": heads, "scale": scale},
        dtype=v.dtype,
        shape=(*q.shape[:2], v.shape[2]),
        version=1,
    )


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
