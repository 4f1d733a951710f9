"""The drafters: KVSPN, which lives on the decoder's key/value cache, and a Medusa head to compare it with.

KVSPN, the Key-Value Parasitic Speculative Network (Le et al. 2025): block l owns a group of consecutive decoder layers
and attends to the keys and values that those have cached. It has no projections of keys and values for that, no cache,
no embedding and no output head of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from esrt.model.whisper_encoder import Attention


def groups(layers: int, blocks: int) -> list[range]:
    """Which consecutive layers each block owns: as equal as can be, the first ones larger."""
    size, rest = divmod(layers, blocks)
    ends = [0]
    for block in range(blocks):
        ends.append(ends[-1] + size + (block < rest))
    return [range(first, end) for first, end in pairwise(ends)]


def split(x: Tensor, width: int) -> Tensor:
    """[b, s, heads * width] -> [b, heads, s, width]."""
    return x.view(*x.shape[:2], -1, width).transpose(1, 2)


class Block(nn.Module):
    """One block: attention to a group's cache, then Whisper's own cross-attention and feed-forward.

    Its matrices have 14 width^2 weights: 2 for the cache, 4 for cross-attention, 8 for the feed-forward.
    """

    def __init__(self, width: int, heads: int, cached: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, cached)
        self.out_proj = nn.Linear(cached, width)
        self.cache_layer_norm = nn.LayerNorm(width)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = Attention(width, heads)
        self.final_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)


class KVSPN(nn.Module):
    """Drafts the token after the newest. `carry` [width] scales what a draft hands to the one after it (0: nothing).

    `cached` is the width of the decoder's keys, less than `width` where heads were pruned.
    """

    def __init__(self, width: int, heads: int, layers: int, blocks: int, cached: int | None = None) -> None:
        super().__init__()
        self.groups = groups(layers, blocks)
        self.blocks = nn.ModuleList(Block(width, heads, cached or width) for _ in range(blocks))
        self.carry = nn.Parameter(torch.zeros(width))

    def memories(self, frames: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each block's own keys and values [b, heads, t, width / heads] of what the encoder said [b, t, width]."""
        blocks: Any = self.blocks
        return [memory(block.encoder_attn, frames) for block in blocks]

    def forward(
        self, x: Tensor, caches: Sequence[tuple[Tensor, Tensor]], memories: Sequence[tuple[Tensor, Tensor]],
        lag: int, inside: Tensor | None = None, fork: int = 1,
    ) -> Tensor:  # fmt: skip
        """Embeddings with positions [b * fork, s, width] -> hidden rows [b * fork, s, width], before the final norm.

        `caches` are the decoder's keys and values [b * fork, heads, s, width / heads], layer by layer: row i sees those
        of positions < i - lag, on all layers of the group as one sequence. `memories` [b, ...] and `inside`
        [b, 1, 1, t] (False: padding) are shared by `fork` rows each.
        """
        length = x.shape[1]
        place = torch.arange(length, device=x.device)
        # The first rows have nothing to see, and nobody asks them: the first position keeps their softmax finite.
        seen = (place[None, :] < (place[:, None] - lag)) | ((place[None, :] == 0) & (place[:, None] <= lag))
        blocks: Any = self.blocks
        for group, block, kept in zip(self.groups, blocks, memories, strict=True):
            keys = torch.cat([caches[layer][0] for layer in group], dim=2)
            values = torch.cat([caches[layer][1] for layer in group], dim=2)
            mixed = attend(split(block.q_proj(x), keys.shape[-1]), keys, values, seen.repeat(1, len(group)))
            x = x + block.cache_layer_norm(block.out_proj(mixed.transpose(1, 2).flatten(2)))
            x = x + cross(block.encoder_attn, block.encoder_attn_layer_norm(x), kept, inside, fork)
            x = x + block.fc2(nn.functional.gelu(block.fc1(block.final_layer_norm(x))))
        return x

    @torch.no_grad()
    def start_from(self, decoder: WhisperDecoder) -> None:
        """Gives each block the weights of the last layer it owns, where they have the same shape."""
        for group, block in zip(self.groups, self.blocks, strict=True):
            layer = decoder.layers[group[-1]].state_dict()
            names = {
                "q_proj": "self_attn.q_proj", "out_proj": "self_attn.out_proj", "encoder_attn": "encoder_attn",
                "encoder_attn_layer_norm": "encoder_attn_layer_norm", "final_layer_norm": "final_layer_norm",
                "fc1": "fc1", "fc2": "fc2",
            }  # fmt: skip
            for mine, its in names.items():
                part: nn.Module = getattr(block, mine)
                state = {k.removeprefix(f"{its}."): v for k, v in layer.items() if k.startswith(f"{its}.")}
                if all(state[name].shape == value.shape for name, value in part.state_dict().items()):
                    part.load_state_dict(state)


class Medusa(nn.Module):
    """A Medusa head (Cai et al. 2024) for the token after the next: feed-forward blocks on the decoder's last row.

    It knows what the decoder knew when it chose the newest token, not which one that was. The output head is shared.
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(blocks)
        )
        every: Any = self.blocks
        for *_, last in every:  # begins as the decoder's own row
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """The decoder's rows [b, s, width] after its final norm -> rows for the shared head."""
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return hidden


def attend(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
    """Attention [b, heads, s, w] -> [b, heads, s, w]; `seen` is False where nothing may be read.

    On a processor as two products: in bfloat16 they take less than half the time of torch's fused attention there.
    """
    if q.device.type != "cpu":
        return nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
    logits = q @ keys.transpose(-1, -2) * q.shape[-1] ** -0.5
    if seen is not None:
        logits = logits.masked_fill(~seen, -torch.inf)
    return logits.softmax(-1) @ values


def memory(attention: Any, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [b, heads, t, width / heads] of a cross-attention (Whisper's, or a block's)."""
    width = attention.q_proj.out_features // _heads(attention)
    return split(attention.k_proj(frames), width), split(attention.v_proj(frames), width)


def cross(
    attention: Any, x: Tensor, kept: tuple[Tensor, Tensor], inside: Tensor | None = None, fork: int = 1
) -> Tensor:
    """Cross-attention of rows [b * fork, s, width] to a memory of b clips: `fork` rows ask one clip at once."""
    q = split(attention.q_proj(x), kept[0].shape[-1])  # [b * fork, heads, s, w]
    if fork > 1:
        q = q.view(-1, fork, *q.shape[1:]).transpose(1, 2).flatten(2, 3)  # [b, heads, fork * s, w]
    mixed = attend(q, *kept, inside)
    if fork > 1:
        mixed = mixed.view(*mixed.shape[:2], fork, -1, mixed.shape[-1]).transpose(1, 2).flatten(0, 1)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def _heads(attention: Any) -> int:
    return int(getattr(attention, "num_heads", 0) or attention.heads)
