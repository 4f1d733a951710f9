"""A whole sequence at once through transformers' Whisper decoder, as training needs it: with every key and value."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from esrt.m2m.kvspn import attend, cross, memory, split

Memory = tuple[Tensor, Tensor]


class Decoded(NamedTuple):
    """`hidden` [b, s, width] after the final norm, `embedded` [b, s, width] before the first layer, and the cache."""

    hidden: Tensor
    embedded: Tensor
    caches: list[Memory]


def memories(decoder: WhisperDecoder, frames: Tensor) -> list[Memory]:
    """What each layer's cross-attention keeps of frames [b, t, width]: keys and values [b, heads, t, w]."""
    return [memory(layer.encoder_attn, frames) for layer in decoder.layers]


def padding(lengths: Tensor, longest: int) -> Tensor | None:
    """True [b, 1, 1, longest] up to each length [b]; None where all are as long."""
    inside = torch.arange(longest, device=lengths.device) < lengths[:, None]
    return None if inside.all() else inside[:, None, None]


def decode(
    decoder: WhisperDecoder, ids: Tensor, kept: list[Memory], inside: Tensor | None = None, fork: int = 1
) -> Decoded:
    """Token ids [b * fork, s] over the memory of b clips, each asked by `fork` rows; equal to transformers' own."""
    embedded = decoder.embed_tokens(ids) + decoder.embed_positions.weight[: ids.shape[1]]
    x, caches = embedded, []
    seen = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
    for layer, mine in zip(decoder.layers, kept, strict=True):
        normed, attention = layer.self_attn_layer_norm(x), layer.self_attn
        q, k, v = (
            split(projection(normed), attention.head_dim)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        caches.append((k, v))
        mixed = attend(q, k, v, seen)
        x = x + attention.out_proj(mixed.transpose(1, 2).flatten(2))
        x = x + cross(layer.encoder_attn, layer.encoder_attn_layer_norm(x), mine, inside, fork)
        x = x + layer.fc2(nn.functional.gelu(layer.fc1(layer.final_layer_norm(x))))
    return Decoded(decoder.layer_norm(x), embedded, caches)
