"""The adapter: a Q-Former that compresses a clip's frames, whatever their number, to a fixed tensor (paper, eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esrt.config import AdapterConfig
from esrt.model.whisper_encoder import Attention


class QFormerLayer(nn.Module):
    """Self-attention among queries, cross-attention to frames (where `crosses`), feed-forward.

    Pre-norm with Whisper's names when `pre_norm`, else post-norm as in BLIP-2.
    """

    def __init__(self, config: AdapterConfig, frame_width: int, crosses: bool) -> None:
        super().__init__()
        self.pre_norm = config.style == "whisper"
        key_bias = not self.pre_norm
        self.self_attn = Attention(config.width, config.heads, key_bias=key_bias)
        self.self_attn_layer_norm = nn.LayerNorm(config.width)
        self.encoder_attn = Attention(config.width, config.heads, frame_width, key_bias) if crosses else None
        self.encoder_attn_layer_norm = nn.LayerNorm(config.width) if crosses else None
        self.fc1 = nn.Linear(config.width, config.ffn)
        self.fc2 = nn.Linear(config.ffn, config.width)
        self.final_layer_norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, frames: Tensor, bias: Tensor | None) -> Tensor:
        def feed_forward(y: Tensor) -> Tensor:
            return self.fc2(nn.functional.gelu(self.fc1(y)))

        if self.pre_norm:
            normed = self.self_attn_layer_norm(x)
            x = x + self.self_attn(normed, normed)
            if self.encoder_attn is not None and self.encoder_attn_layer_norm is not None:
                x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), frames, bias)
            return x + feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x + self.self_attn(x, x))
        if self.encoder_attn is not None and self.encoder_attn_layer_norm is not None:
            x = self.encoder_attn_layer_norm(x + self.encoder_attn(x, frames, bias))
        return self.final_layer_norm(x + feed_forward(x))


class QFormer(nn.Module):
    """Frames [b, t, frame_width] -> rows [b, queries, width].

    The paper's `blip2` style: queries drawn from N(0, 1), post-norm, a LayerNorm over the queries first. The `whisper`
    style is a Whisper decoder without its causal mask. Its query i looks for speech around (i + 1/2) / queries of the
    clip: each head subtracts its own slope times that distance from its logits, two heads stay free. Without this the
    queries have to find the order of time by themselves, and CTC needs many times the samples.
    """

    slopes: Tensor

    def __init__(self, config: AdapterConfig, frame_width: int) -> None:
        super().__init__()
        self.config = config
        self.queries = nn.Parameter(torch.randn(config.queries, config.width))
        self.layers = nn.ModuleList(
            QFormerLayer(config, frame_width, crosses=index % config.cross_every == 0) for index in range(config.layers)
        )
        self.layer_norm = nn.LayerNorm(config.width)
        local = torch.tensor([2.0 ** (1 - head) for head in range(config.heads - 2)] + [0.0, 0.0])
        self.register_buffer("slopes", local, persistent=False)

    def _bias(self, frames: Tensor, lengths: Tensor | None) -> Tensor | None:
        if lengths is None and self.config.style == "blip2":
            return None
        time = torch.arange(frames.shape[1], device=frames.device)
        if lengths is None:
            lengths = (time[-1:] + 1).expand(frames.shape[0])
        bias = torch.zeros(1, 1, 1, 1, dtype=frames.dtype, device=frames.device)
        if self.config.style == "whisper":
            spacing = lengths[:, None, None].to(frames.dtype) / self.config.queries
            centres = (torch.arange(self.config.queries, device=frames.device)[None, :, None] + 0.5) * spacing
            distance = (time[None, None, :] + 0.5 - centres).abs() / spacing.clamp(min=2)
            bias = -self.slopes[None, :, None, None] * distance[:, None]
        past_end = time[None, :] >= lengths[:, None]
        return bias.masked_fill(past_end[:, None, None, :], -torch.inf)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`lengths` [b]: how many frames of each clip are real; without it, all are."""
        bias = self._bias(frames, lengths)
        x = self.queries.expand(frames.shape[0], -1, -1)
        if self.config.style == "blip2":
            x = self.layer_norm(x)
        for layer in self.layers:
            x = layer(x, frames, bias)
        return self.layer_norm(x) if self.config.style == "whisper" else x


def start_from_decoder(adapter: QFormer, decoder: dict[str, Tensor], start_token: int) -> None:
    """Gives a `whisper` adapter the weights of a Whisper decoder (transformers' names, without the prefix `decoder.`).

    The queries start as the decoder's first position encodings plus the embedding of the start-of-transcript token.
    """
    own = {name: tensor for name, tensor in decoder.items() if not name.startswith("embed_")}
    positions = decoder["embed_positions.weight"][: adapter.config.queries]
    own["queries"] = positions + decoder["embed_tokens.weight"][start_token]
    adapter.load_state_dict(own)
