"""The keys and values of several sequences in one batch, and the forward pass that extends them.

Every cache slot carries the position of the row it holds, or HOLE. Both attention masks (full, sliding window) follow
from positions alone, so sequences of any length can be put together, taken apart and continued in any order. A cache
that drops what left the sliding window could not do that, and at these lengths it would save next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

HOLE = 1 << 30  # the position of an empty slot: later than any query, so the causal mask hides it


@dataclass
class KeyValues:
    """`cache`: one layer's keys and values are [batch, heads, slots, head_dim]. `positions`: [batch, slots]."""

    cache: Any  # DynamicCache without a configuration: every layer keeps every slot
    positions: Tensor

    @property
    def lengths(self) -> Tensor:
        """Rows held for each sequence [batch]."""
        return (self.positions != HOLE).sum(1)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for pair in _pairs(self) for tensor in pair)


def _pairs(kv: KeyValues) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in kv.cache.layers]


def forward(llm: Any, rows: Tensor, kv: KeyValues | None) -> tuple[Tensor, KeyValues]:
    """One pass over `rows` [batch, n, width], each sequence going on where its cache ends.

    Returns the logits after the last row [batch, vocabulary], and the longer cache (`kv` itself is used up).
    """
    logits, kv = extend(llm, rows, kv, 1)
    return logits[:, -1], kv


def extend(
    llm: Any, rows: Tensor, kv: KeyValues | None, keep: int, counts: Tensor | None = None
) -> tuple[Tensor, KeyValues]:
    """As `forward`, with the logits after the last `keep` rows [batch, keep, vocabulary].

    Of the rows of each sequence the last `counts` [batch] are its own, and those before them leave holes.
    """
    batch, count, _ = rows.shape
    if kv is None:
        kv = KeyValues(DynamicCache(), torch.empty(batch, 0, dtype=torch.long, device=rows.device))
    order = torch.arange(count, device=rows.device)
    queries = kv.lengths[:, None] + order
    if counts is not None:
        queries = queries - (count - counts)[:, None]
        queries = queries.masked_fill(order < (count - counts)[:, None], HOLE)
    slots = torch.cat([kv.positions, queries], dim=1)
    seen = slots[:, None, None, :] <= queries[:, None, :, None]
    near = slots[:, None, None, :] > queries[:, None, :, None] - llm.config.sliding_window
    output = llm.model(
        inputs_embeds=rows,
        attention_mask={"full_attention": _additive(seen, rows), "sliding_attention": _additive(seen & near, rows)},
        position_ids=queries,
        past_key_values=kv.cache,
        use_cache=True,
    )
    # As a matrix, for an output layer that is not trimmed: see model.outputs.Outputs.
    last = output.last_hidden_state[:, -keep:].flatten(0, 1)
    return llm.lm_head(last).unflatten(0, (batch, -1)), KeyValues(output.past_key_values, slots)


def _additive(allowed: Tensor, rows: Tensor) -> Tensor:
    # Additive rather than boolean: the eager attention adds its mask, and scaled dot product attention takes either.
    mask = torch.zeros(allowed.shape, dtype=rows.dtype, device=rows.device)
    return mask.masked_fill_(~allowed, torch.finfo(rows.dtype).min)


def stack(parts: list[KeyValues]) -> KeyValues:
    """Put batches together; the shorter ones get holes in front."""
    if len(parts) == 1:
        return parts[0]
    slots = max(part.positions.shape[1] for part in parts)

    def padded(tensor: Tensor, dim: int, value: float) -> Tensor:
        missing = slots - tensor.shape[dim]
        pad = (missing, 0) if dim == 1 else (0, 0, missing, 0)
        return torch.nn.functional.pad(tensor, pad, value=value) if missing else tensor

    layers = [
        (torch.cat([padded(pair[0], 2, 0) for pair in layer]), torch.cat([padded(pair[1], 2, 0) for pair in layer]))
        for layer in zip(*(_pairs(part) for part in parts), strict=True)
    ]
    return KeyValues(DynamicCache(layers), torch.cat([padded(part.positions, 1, HOLE) for part in parts]))


def select(kv: KeyValues, keep: list[int]) -> KeyValues:
    """Only the sequences `keep`, without the leading slots that none of them uses."""
    index = torch.tensor(keep, dtype=torch.long, device=kv.positions.device)
    positions = kv.positions[index]
    first = int((positions == HOLE).all(0).long().cumprod(0).sum())
    layers = [(keys[index, :, first:], values[index, :, first:]) for keys, values in _pairs(kv)]
    return KeyValues(DynamicCache(layers), positions[:, first:])


def start(kv: KeyValues, sequence: int, length: int) -> KeyValues:
    """A copy of the first `length` rows of one sequence, without holes."""
    slots = (kv.positions[sequence] < length).nonzero()[:, 0]
    layers = [(keys[sequence][None, :, slots], values[sequence][None, :, slots]) for keys, values in _pairs(kv)]
    return KeyValues(DynamicCache(layers), kv.positions[sequence, slots][None])
