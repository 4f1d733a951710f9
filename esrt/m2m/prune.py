"""A smaller model from a larger one: layers, then heads and feed-forward units that matter least, taught by the larger.

Importance of a head or unit is the first-order change of the loss without it, |sum of weight x gradient| over what
writes its output (Molchanov et al. 2019), summed over batches of the training data.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from esrt.errors import UsageError
from esrt.m2m.batches import IGNORED, Batch
from esrt.m2m.forward import decode, memories, padding
from esrt.m2m.model import M2M, drafters, kept_layers


@dataclass(frozen=True)
class Size:
    """What is left of a decoder: layers, heads of each attention, and units of each feed-forward."""

    layers: int
    heads: int
    units: int


def size_of(model: M2M) -> Size:
    """What a model has. All of its layers are alike."""
    layer = model.decoder.layers[0]
    heads = layer.self_attn.q_proj.out_features // layer.self_attn.head_dim
    return Size(len(model.decoder.layers), heads, layer.fc1.out_features)


def parameters(model: M2M) -> dict[str, int]:
    """Numbers of weights: `decoder` (without the embedding), `embedding`, `encoder`, `kvspn`, `medusa`."""
    parts: dict[str, nn.Module | None] = {
        "encoder": model.whisper.model.encoder, "kvspn": model.kvspn, "medusa": model.medusa,
    }  # fmt: skip
    counts = {n: sum(p.numel() for p in part.parameters()) if part is not None else 0 for n, part in parts.items()}
    embedding = model.decoder.embed_tokens.weight.numel()
    whole = sum(p.numel() for p in model.decoder.parameters())
    return {"decoder": whole - embedding, "embedding": embedding, **counts}


def prune(model: M2M, size: Size, batches: Iterable[Batch]) -> M2M:
    """A copy of the model with a decoder of `size`; layers go first, then heads and units.

    Its drafters begin as the model's own, and where heads are fewer, as the layers they live on.

    Raises UsageError `bad_size` where something would grow, or nothing be left.
    """
    now = size_of(model)
    for left, there, name in (
        (size.layers, now.layers, "layers"), (size.heads, now.heads, "heads"), (size.units, now.units, "units"),
    ):  # fmt: skip
        if not 1 <= left <= there:
            raise UsageError("bad_size", f"The decoder has {there} {name}: 1 to {there} can be kept, not {left}.")
    whisper: WhisperForConditionalGeneration = deepcopy(model.whisper)
    decoder = whisper.model.decoder
    decoder.layers = nn.ModuleList(decoder.layers[n] for n in kept_layers(now.layers, size.layers))
    whisper.config.decoder_layers = size.layers
    for place, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = layer.encoder_attn.layer_idx = place
    if (size.heads, size.units) != (now.heads, now.units):
        for layer, (own, other, units) in zip(decoder.layers, _importance(decoder, batches), strict=True):
            _keep_heads(layer.self_attn, own.topk(size.heads).indices.sort().values)
            _keep_heads(layer.encoder_attn, other.topk(size.heads).indices.sort().values)
            _keep_units(layer, units.topk(size.units).indices.sort().values)
        whisper.config.decoder_ffn_dim = size.units
    blocks = min(model.config.blocks, size.layers)
    config = replace(model.config, name=f"{model.config.name}-pruned", layers=size.layers, blocks=blocks)
    pruned = M2M(config, whisper, model.tokenizer, model.outputs, model.draft)
    pruned.kvspn, pruned.medusa = drafters(config, decoder)
    for mine, its in ((pruned.kvspn, model.kvspn), (pruned.medusa, model.medusa)):
        if mine is not None and its is not None:
            old = its.state_dict()
            fitting = {k: old[k] for k, new in mine.state_dict().items() if k in old and old[k].shape == new.shape}
            mine.load_state_dict(fitting, strict=False)
    return pruned


def _importance(decoder: WhisperDecoder, batches: Iterable[Batch]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each layer: importance of the heads of both attentions [heads], and of the feed-forward's units [units]."""
    writers = [(layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2) for layer in decoder.layers]
    found = [[torch.zeros(writer.in_features) for writer in three] for three in writers]
    for batch in batches:
        decoder.zero_grad(set_to_none=True)
        torch.autograd.backward(_loss(decoder, batch))
        for three, sums in zip(writers, found, strict=True):
            for writer, total in zip(three, sums, strict=True):
                gradient = writer.weight.grad
                assert gradient is not None
                total += (writer.weight.detach() * gradient).sum(0).abs()
    decoder.zero_grad(set_to_none=True)
    width = decoder.layers[0].self_attn.head_dim
    return [(a.view(-1, width).sum(1), b.view(-1, width).sum(1), c) for a, b, c in found]


def _loss(decoder: WhisperDecoder, batch: Batch) -> Tensor:
    forks, inside = len(batch.ids) // len(batch.lengths), padding(batch.lengths, batch.sound.shape[1])
    hidden = decode(decoder, batch.ids, memories(decoder, batch.sound), inside, forks).hidden
    learned = batch.labels != IGNORED
    wanted = batch.labels[learned]
    ids = batch.known()
    return F.cross_entropy(hidden[learned] @ decoder.embed_tokens.weight[ids].T, torch.searchsorted(ids, wanted))


def _keep_heads(attention: Any, heads: Tensor) -> None:
    rows = (heads[:, None] * attention.head_dim + torch.arange(attention.head_dim)).flatten()
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(attention, name, _linear(getattr(attention, name), rows, 0))
    attention.out_proj = _linear(attention.out_proj, rows, 1)
    attention.num_heads = len(heads)


def _keep_units(layer: Any, units: Tensor) -> None:
    layer.fc1, layer.fc2 = _linear(layer.fc1, units, 0), _linear(layer.fc2, units, 1)


def _linear(old: nn.Linear, kept: Tensor, dim: int) -> nn.Linear:
    """The product with these outputs (dim 0) or inputs (dim 1) only."""
    weight = old.weight.detach().index_select(dim, kept)
    new = nn.Linear(weight.shape[1], weight.shape[0], bias=old.bias is not None)
    with torch.no_grad():
        new.weight.copy_(weight)
        if old.bias is not None:
            new.bias.copy_(old.bias[kept] if dim == 0 else old.bias)
    return new
