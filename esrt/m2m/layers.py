"""The layers that decoding runs, the decoder's and KVSPN's, on packed weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esrt.m2m.kvspn import split
from esrt.m2m.linear import Precision, linear


class Norm:
    """A layer norm with its weights at hand."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.shape = norm.normalized_shape
        self.weight, self.bias, self.eps = norm.weight.detach(), norm.bias.detach(), norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class Cross:
    """Norm, cross-attention and feed-forward: the second half of a decoder's layer, and of a KVSPN block."""

    def __init__(self, layer: Any, width: int, precision: Precision) -> None:
        def made(product: nn.Linear) -> Any:
            return linear(product.weight, product.bias, precision)

        attention = layer.encoder_attn
        self.width = width  # of a head
        self.norm, self.final = Norm(layer.encoder_attn_layer_norm), Norm(layer.final_layer_norm)
        self.query, self.out = made(attention.q_proj), made(attention.out_proj)
        self.fc1, self.fc2 = made(layer.fc1), made(layer.fc2)
        both = torch.cat([attention.k_proj.weight, attention.v_proj.weight])
        bias = torch.cat([torch.zeros_like(attention.v_proj.bias), attention.v_proj.bias])
        self.memory = linear(both, bias, precision)

    def remember(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """[b, t, width] -> keys and values [b, heads, t, w]."""
        keys, values = self.memory(frames).chunk(2, dim=-1)
        return split(keys, self.width).contiguous(), split(values, self.width).contiguous()

    def __call__(self, x: Tensor, kept: tuple[Tensor, Tensor], inside: Tensor | None) -> Tensor:
        b, n, _ = x.shape
        q = self.query(self.norm(x)).view(b, n, -1, self.width).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, kept[0], kept[1], attn_mask=inside)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, n, -1))
        return x + self.fc2(F.gelu(self.fc1(self.final(x))))


class Layer:
    """One layer of the decoder; `group` and `place` say where in the cache its keys and values stand."""

    def __init__(self, layer: Any, group: int, place: int, precision: Precision) -> None:
        attention = layer.self_attn
        self.group, self.place, self.width = group, place, attention.head_dim
        self.norm = Norm(layer.self_attn_layer_norm)
        weights = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
        biases = [attention.q_proj.bias, torch.zeros_like(attention.q_proj.bias), attention.v_proj.bias]
        self.qkv = linear(torch.cat(weights), torch.cat(biases), precision)
        self.out = linear(attention.out_proj.weight, attention.out_proj.bias, precision)
        self.rest = Cross(layer, attention.head_dim, precision)


class Block:
    """One block of KVSPN."""

    def __init__(self, block: Any, width: int, precision: Precision) -> None:
        self.query = linear(block.q_proj.weight, block.q_proj.bias, precision)
        self.out = linear(block.out_proj.weight, block.out_proj.bias, precision)
        self.norm = Norm(block.cache_layer_norm)
        self.rest = Cross(block, width, precision)
