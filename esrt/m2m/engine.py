"""Decoding's own forward pass: packed weights, caches made once, and as few calls as there are products.

Greedy, beam and every drafter run on it alike, so that what they differ in is what they do, not what they pay a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from esrt.m2m.kvspn import groups as shared_out
from esrt.m2m.layers import Block, Layer, Norm
from esrt.m2m.linear import Linear, Precision, linear
from esrt.m2m.model import M2M
from esrt.m2m.screen import Screen


@dataclass
class State:
    """What decoding b rows knows: `lengths` positions of each row are in the cache, and others' leftovers behind them.

    `keys` and `values` are [b, heads, positions, layers of the group, w], one pair a group: what a block of KVSPN reads
    lies in one piece.
    """

    lengths: list[int]
    keys: list[Tensor]
    values: list[Tensor]
    memories: list[tuple[Tensor, Tensor]]
    drafter: list[tuple[Tensor, Tensor]]
    inside: Tensor | None

    def take(self, rows: Tensor) -> None:
        """Goes on with these rows (a beam's): caches are copied, the clip's memory is the same for all."""
        self.keys = [k.index_select(0, rows) for k in self.keys]
        self.values = [v.index_select(0, rows) for v in self.values]
        self.lengths = [self.lengths[row] for row in rows.tolist()]

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows alone, whatever their clips."""
        self.take(rows)
        self.memories = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.memories]
        self.drafter = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.drafter]
        self.inside = None if self.inside is None else self.inside.index_select(0, rows)


class Places(NamedTuple):
    """Where n new positions of each row go: one number where all rows are as long, else `each` [b, n]."""

    first: int
    end: int
    each: Tensor | None
    seen: Tensor | None


class Engine:
    """A model ready to decode on a processor. `trimmed` computes the logits of tokens that may be written alone.

    A drafter's products are `drafting`, int8 unless said: they cost half then, and the base checks its guesses anyway.
    `screened` finds the likeliest token without the whole head, where that is in float32.
    """

    def __init__(
        self, model: M2M, precision: Precision = "float32", trimmed: bool = False, drafting: Precision = "int8",
        screened: bool = True,
    ) -> None:  # fmt: skip
        decoder = model.decoder
        width = decoder.layers[0].self_attn.head_dim
        blocks = model.kvspn.groups if model.kvspn is not None else shared_out(len(decoder.layers), 1)
        place = {layer: (g, layer - group[0]) for g, group in enumerate(blocks) for layer in group}
        self.model, self.sizes = model, [len(group) for group in blocks]
        self.heads, self.width = decoder.layers[0].self_attn.q_proj.out_features // width, width
        self.embeddings = decoder.embed_tokens.weight.detach()
        self.positions = decoder.embed_positions.weight.detach()
        self.layers = [Layer(layer, *place[n], precision) for n, layer in enumerate(decoder.layers)]
        self.norm = Norm(decoder.layer_norm)
        outputs = model.outputs
        # None: row n of the head is token n.
        self.ids = outputs if trimmed else None
        self.precision = precision
        screens = screened and precision == "float32"
        self.screen = Screen(self.embeddings, outputs, self.norm.weight) if screens else None
        self.never = torch.full((len(self.embeddings),), -torch.inf).index_fill(0, outputs, 0.0)
        self.blocks = [Block(b, width, drafting) for b in model.kvspn.blocks] if model.kvspn else []
        self.carry = model.kvspn.carry.detach() if model.kvspn else None
        heads: Any = model.medusa.blocks if model.medusa else ()
        self.medusa = [
            (Norm(norm), linear(one.weight, one.bias, drafting), linear(two.weight, two.bias, drafting))
            for norm, one, _, two in heads
        ]
        self.draft_ids, self.draft_list = model.draft, model.draft.tolist()
        self.draft_head = linear(self.embeddings[model.draft], None, drafting)
        most = len(self.positions)
        self.causal = torch.full((most, most), -torch.inf).triu(1)

    @torch.inference_mode()
    def start(self, frames: Tensor, lengths: list[int], room: int, forks: int = 1, drafts: bool = True) -> State:
        """A state of `room` positions for b * forks rows over frames [b, t, width], of which `lengths` [b] are real."""
        room = min(room, len(self.positions))
        rows, longest = len(frames) * forks, frames.shape[1]

        def wide(kept: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return (kept[0].repeat_interleave(forks, 0), kept[1].repeat_interleave(forks, 0)) if forks > 1 else kept

        inside = None
        if any(length != longest for length in lengths):
            past = torch.arange(longest) >= torch.tensor(lengths)[:, None]
            inside = torch.zeros(past.shape).masked_fill(past, -torch.inf)[:, None, None].repeat_interleave(forks, 0)
        shapes = [(rows, self.heads, room, size, self.width) for size in self.sizes]
        return State(
            [0] * rows,
            [torch.zeros(shape) for shape in shapes],
            [torch.zeros(shape) for shape in shapes],
            [wide(layer.rest.remember(frames)) for layer in self.layers],
            [wide(block.rest.remember(frames)) for block in self.blocks] if drafts else [],
            inside,
        )

    def embed(self, ids: Tensor, state: State, ahead: int = 0) -> Tensor:
        """Embeddings [b, n, width] of ids [b, n] at the positions that come next, or `ahead` of those."""
        n = ids.shape[1]
        if len(state.lengths) == 1:
            first = state.lengths[0] + ahead
            where = self.positions[first : first + n]
        else:
            places = torch.tensor(state.lengths)[:, None] + torch.arange(ahead, ahead + n)
            where = self.positions[places.clamp(max=len(self.positions) - 1)]
        return F.embedding(ids, self.embeddings) + where

    def _places(self, state: State, n: int) -> Places:
        first, end = min(state.lengths), max(state.lengths) + n
        if first + n == end:
            return Places(first, end, None, self.causal[first:end, :end] if n > 1 else None)
        each = torch.tensor(state.lengths)[:, None] + torch.arange(n)
        return Places(first, end, each, self.causal[each, :end][:, None])

    @torch.inference_mode()
    def step(self, ids: Tensor, state: State) -> Tensor:
        """Runs the decoder on ids [b, n] that follow what is cached -> rows [b, n, width] after the final norm.

        Keys and values are written, but `state.lengths` stays: the caller says how many of the n positions stand.
        """
        x, where = self.embed(ids, state), self._places(state, ids.shape[1])
        b, n = ids.shape
        every = torch.arange(b)[:, None] if where.each is not None else None
        for layer, kept in zip(self.layers, state.memories, strict=True):
            q, k, v = layer.qkv(layer.norm(x)).view(b, n, 3, -1, self.width).unbind(2)
            keys, values = (
                state.keys[layer.group][:, :, :, layer.place],
                state.values[layer.group][:, :, :, layer.place],
            )
            if where.each is None:
                keys[:, :, where.first : where.end] = k.transpose(1, 2)
                values[:, :, where.first : where.end] = v.transpose(1, 2)
            else:
                keys.transpose(1, 2)[every, where.each] = k
                values.transpose(1, 2)[every, where.each] = v
            mixed = F.scaled_dot_product_attention(
                q.transpose(1, 2), keys[:, :, : where.end], values[:, :, : where.end], attn_mask=where.seen
            )
            x = x + layer.out(mixed.transpose(1, 2).reshape(b, n, -1))
            x = layer.rest(x, kept, state.inside)
        return self.norm(x)

    @cached_property
    def head(self) -> Linear:
        """The product with the output head, packed when it is first asked for: screened decoding never does."""
        return linear(self.embeddings if self.ids is None else self.embeddings[self.ids], None, self.precision)

    @torch.inference_mode()
    def logits(self, rows: Tensor) -> Tensor:
        """Rows [..., width] -> logits [..., ids]: of all tokens, -inf for those never written; trimmed, of `ids`."""
        logits = self.head(rows)
        return logits if self.ids is not None else logits + self.never

    @torch.inference_mode()
    def likeliest(self, rows: Tensor, count: int = 1) -> Tensor:
        """Rows [..., width] -> ids of the `count` likeliest tokens [..., count], the first first."""
        if count > 1:  # who stands beside the first takes the whole head to say
            return self.written(self.logits(rows).topk(count).indices)
        best = self.written(self.logits(rows).argmax(-1)) if self.screen is None else self.screen(rows)
        return best[..., None]

    def written(self, places: Tensor) -> Tensor:
        """The token ids that columns of the logits stand for."""
        return places if self.ids is None else self.ids[places]

    @torch.inference_mode()
    def draft(self, ids: Tensor, state: State, ahead: int = 0, before: Tensor | None = None) -> Tensor:
        """KVSPN's rows [b, 1, width] for the token after ids [b, 1], which stands `ahead` positions after the cache.

        `before` are the rows of the draft before this one.
        """
        x = self.embed(ids, state, ahead)
        if before is not None and self.carry is not None:
            x = x + self.carry * before
        b, lengths = len(ids), state.lengths
        longest = max(lengths)
        unseen = None
        if min(lengths) != longest:
            unseen = torch.arange(longest) >= torch.tensor(lengths)[:, None]
        for group, (block, kept) in enumerate(zip(self.blocks, state.drafter, strict=True)):
            q = block.query(x).view(b, 1, -1, self.width).transpose(1, 2)
            keys, values = (
                state.keys[group][:, :, :longest].flatten(2, 3),
                state.values[group][:, :, :longest].flatten(2, 3),
            )
            mask = None
            if unseen is not None:
                hidden = unseen.repeat_interleave(self.sizes[group], dim=1)
                mask = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)[:, None, None]
            mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            x = x + block.norm(block.out(mixed.transpose(1, 2).reshape(b, 1, -1)))
            x = block.rest(x, kept, state.inside)
        return self.norm(x)

    @torch.inference_mode()
    def medusa_rows(self, hidden: Tensor) -> Tensor:
        """The Medusa head's rows from the decoder's [b, 1, width]."""
        for norm, fc1, fc2 in self.medusa:
            hidden = hidden + fc2(F.gelu(fc1(norm(hidden))))
        return hidden
